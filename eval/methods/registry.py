"""Creates methods from specs: ``rag``, ``rag:k=8,retrieval=dense``, ``my_module:MyMethod:size=3``.

A user's own method is an entry point in the group ``personaagent.methods``, or a path ``module:Class``.
Its settings are the arguments of its class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from eval.contracts import Method
from program.errors import ConfigError
from program.plugins import Registry, parameters, split_spec
from program.task import Task

BUILT_IN: Mapping[str, str] = {
    "constant": "eval.methods.baselines:Constant",
    "global-majority": "eval.methods.baselines:GlobalMajority",
    "user-majority": "eval.methods.baselines:UserMajority",
    "user-median": "eval.methods.baselines:UserMedian",
    "cited-before": "eval.methods.baselines:CitedBefore",
    "lead": "eval.methods.baselines:Lead",
    "direct": "eval.methods.direct:Direct",
    "icl": "eval.methods.icl:InContext",
    "rag": "eval.methods.rag:Rag",
    "pag": "eval.methods.pag:Pag",
    "react": "eval.methods.react:React",
    "membank": "eval.methods.membank:MemoryBank",
    "personaagent": "eval.methods.personaagent:PersonaAgentMethod",
    "grounded": "eval.methods.grounded:Grounded",
    "personaagent-alignment": "eval.methods.without_alignment:WithoutAlignment",
    "personaagent-persona": "eval.methods.without_persona:WithoutPersona",
    "personaagent-memory": "eval.methods.without_memory:WithoutMemory",
    "personaagent-action": "eval.methods.without_action:WithoutAction",
    "gepa": "eval.methods.gepa:Gepa",
    "miprov2": "eval.methods.miprov2:MiproV2",
    "simba": "eval.methods.simba:Simba",
}
"""Name to class of the built-in methods, in the order of report tables."""

BASELINES = ("baselines", "floors")
"""Names for all trivial baselines that fit the task."""

METHODS = Registry(
    kind="method",
    group="personaagent.methods",
    built_in=BUILT_IN,
    members=("name", "settings", "check", "prepare", "open", "answer"),
    listing="personaagent eval methods",
)
"""All methods: built-in, installed, or by path."""


def make_methods(
    specs: Sequence[str], task: Task, defaults: Mapping[str, str] | None = None
) -> dict[str, Method]:
    """Return methods by label; the label is the spec.

    Args:
        specs: As for ``--method``; one spec may name several methods, separated by commas.
        task: The task to check the methods against; ``baselines`` becomes those that fit it.
        defaults: Settings for every method that has them, unless its spec sets them; at least one
            method must have each.

    Raises:
        ConfigError: A method or setting is unknown, a value is invalid, a method does not fit the
            task, or a spec is repeated.

    Example:
        >>> from program import get_task
        >>> methods = make_methods(["baselines,rag:k=8"], get_task("LaMP-4"))
        >>> list(methods)
        ['lead', 'rag:k=8']
    """
    methods: dict[str, Method] = {}
    for spec in split_specs(specs):
        for label in _fitting_baselines(task) if spec in BASELINES else [spec]:
            method: Method = METHODS.make(label, defaults)
            method.check(task)
            if label in methods:
                raise ConfigError(f"method {label!r} is named twice")
            methods[label] = method
    if not methods:
        raise ConfigError("no method is given; name at least one with `--method`")
    for key in defaults or {}:
        if not any(key in parameters(type(method)) for method in methods.values()):
            raise ConfigError(f"none of the methods has a setting `{key}`; see `personaagent eval methods`")
    return methods


def with_setting(spec: str, key: str, value: str) -> str:
    """Return ``spec`` with one setting replaced or added.

    Example:
        >>> with_setting("rag:k=8", "k", "2")
        'rag:k=2'
    """
    name, settings = split_spec(spec)
    return f"{name}:" + ",".join(f"{k}={v}" for k, v in {**settings, key: value}.items())


def split_specs(specs: Sequence[str]) -> Iterator[str]:
    """Split specs at the commas between methods, but not between settings.

    Example:
        >>> list(split_specs(["direct,rag:k=8,retrieval=dense", "icl"]))
        ['direct', 'rag:k=8,retrieval=dense', 'icl']
    """
    for spec in specs:
        current = ""
        for piece in filter(None, map(str.strip, spec.split(","))):
            key, equals, _ = piece.partition("=")
            if equals and ":" not in key and current:
                current += f",{piece}"
                continue
            if current:
                yield current
            current = piece
        if current:
            yield current


def _fitting_baselines(task: Task) -> Iterator[str]:
    for label, path in BUILT_IN.items():
        if path.startswith("eval.methods.baselines:"):
            try:
                METHODS.make(label).check(task)
            except ConfigError:
                continue
            yield label
