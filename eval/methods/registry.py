"""Methods by name, with settings: ``rag``, ``rag:k=8,retrieval=dense``, ``my_module:MyMethod:size=3``.

A method of a user is found through the entry point group ``personaagent.methods`` or as
``module:Class``. Its settings are the arguments of its class.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from importlib.metadata import entry_points
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from eval.contracts import Method
from program.errors import ConfigError
from program.task import Task

BUILT_IN: Mapping[str, str] = {
    "constant": "eval.methods.floors:Constant",
    "global-majority": "eval.methods.floors:GlobalMajority",
    "user-majority": "eval.methods.floors:UserMajority",
    "user-median": "eval.methods.floors:UserMedian",
    "cited-before": "eval.methods.floors:CitedBefore",
    "lead": "eval.methods.floors:Lead",
    "direct": "eval.methods.direct:Direct",
    "icl": "eval.methods.icl:InContext",
    "rag": "eval.methods.rag:Rag",
    "pag": "eval.methods.pag:Pag",
    "react": "eval.methods.react:React",
    "membank": "eval.methods.membank:MemoryBank",
    "personaagent": "eval.methods.personaagent:Aligned",
    "personaagent-alignment": "eval.methods.without_alignment:WithoutAlignment",
    "personaagent-persona": "eval.methods.without_persona:WithoutPersona",
    "personaagent-memory": "eval.methods.without_memory:WithoutMemory",
    "personaagent-action": "eval.methods.without_action:WithoutAction",
    "gepa": "eval.methods.gepa:Gepa",
    "miprov2": "eval.methods.miprov2:MiproV2",
    "simba": "eval.methods.simba:Simba",
}
"""Our own methods, in the order of the tables."""

FLOORS = "floors"
"""Names all floors that fit the task."""


def method_names() -> list[str]:
    """Return the names of all installed methods, ours first."""
    others = sorted(point.name for point in entry_points(group="personaagent.methods"))
    return [*BUILT_IN, *(name for name in others if name not in BUILT_IN)]


def method_class(name: str) -> type[Any]:
    """Return the class of a method given its name or ``module:Class``.

    Raises:
        ConfigError: There is none, or it is no method.
    """
    found: Any
    if ":" in name or name in BUILT_IN:
        module, _, attribute = BUILT_IN.get(name, name).partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever a module of the user raises while it is imported
            raise ConfigError(f"cannot load method {name!r}: {error}") from error
    else:
        points = [point for point in entry_points(group="personaagent.methods") if point.name == name]
        if not points:
            raise ConfigError(
                f"unknown method {name!r}; there are: {', '.join([*method_names(), FLOORS])}, "
                "or give module:Class"
            )
        found = points[0].load()
    lacking = [
        part
        for part in ("name", "settings", "check", "prepare", "open", "answer")
        if not hasattr(found, part)
    ]
    if not isinstance(found, type) or lacking:
        raise ConfigError(
            f"{name!r} is no method: it lacks `{lacking[0] if lacking else 'a class'}`; "
            "subclass `eval.methods.base.BaseMethod`"
        )
    return found


def make_methods(
    specs: Sequence[str], task: Task, defaults: Mapping[str, str] | None = None
) -> dict[str, Method]:
    """Return methods by label.

    Args:
        specs: As on the command line; one spec may name several methods, separated by commas.
        task: The methods have to fit it; ``floors`` becomes those that do.
        defaults: Settings for every method that has them and does not name them itself; one has to.

    Raises:
        ConfigError: An unknown method or setting, a value that does not fit, a method that does not
            fit the task, or one named twice.
    """
    methods: dict[str, Method] = {}
    for spec in split_specs(specs):
        for label in _fitting_floors(task) if spec == FLOORS else [spec]:
            method = make_method(label, defaults)
            method.check(task)
            if label in methods:
                raise ConfigError(f"method {label!r} is named twice")
            methods[label] = method
    if not methods:
        raise ConfigError("name at least one method with `--method`")
    for key in defaults or {}:
        if not any(key in parameters(type(method)) for method in methods.values()):
            raise ConfigError(f"none of the methods has a setting `{key}`; see `personaagent eval methods`")
    return methods


def make_method(spec: str, defaults: Mapping[str, str] | None = None) -> Method:
    """Return one method with its settings; arguments and errors as `make_methods`."""
    name, settings = split_spec(spec)
    made = method_class(name)
    hints = parameters(made)
    for key in settings:
        if key not in hints:
            known = ", ".join(hints) or "none"
            raise ConfigError(f"method {name!r} has no setting `{key}`; it has: {known}")
    wanted = {**{key: value for key, value in (defaults or {}).items() if key in hints}, **settings}
    method: Method = made(**{key: _value(name, key, text, hints[key]) for key, text in wanted.items()})
    return method


def with_setting(spec: str, key: str, value: str) -> str:
    """Return ``spec`` with one setting replaced or added."""
    name, settings = split_spec(spec)
    return f"{name}:" + ",".join(f"{k}={v}" for k, v in {**settings, key: value}.items())


def parameters(method: type[Any]) -> dict[str, Any]:
    """Return the names and types of a method's settings."""
    # The generated `__init__` of a dataclass cannot see the modules its inherited fields come from.
    hints = get_type_hints(method if is_dataclass(method) else method.__init__)
    accepted = list(inspect.signature(method).parameters)
    return {name: hints.get(name, str) for name in accepted}


def split_specs(specs: Sequence[str]) -> Iterator[str]:
    """Yield one spec for each method: split at the commas between methods, not between settings."""
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


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Return a spec's name and settings; in ``module:Class:key=value`` the name has the first two parts.

    Raises:
        ConfigError: It has a setting but no name.
    """
    head, equals, rest = spec.partition("=")
    if not equals:
        return spec, {}
    name, colon, first = head.rpartition(":")
    if not colon:
        raise ConfigError(f"cannot read method {spec!r}; write it like rag:k=8,retrieval=dense")
    pairs = [pair.partition("=") for pair in f"{first}={rest}".split(",")]
    return name, {key.strip(): value.strip() for key, _, value in pairs}


def _value(name: str, key: str, text: str, hint: Any) -> Any:
    try:
        return TypeAdapter(hint).validate_python(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigError(f"method {name!r}: `{key}` cannot be {text!r}: {reason}") from error


def _fitting_floors(task: Task) -> Iterator[str]:
    for label, path in BUILT_IN.items():
        if path.startswith("eval.methods.floors:"):
            try:
                make_method(label).check(task)
            except ConfigError:
                continue
            yield label
