"""Makes a run's manifest, and compares it when the run is resumed."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eval.contracts import Method
from eval.records import Manifest, MethodEntry
from program.errors import ConfigError
from program.task import Task

_PACKAGES = ("personaagent", "dspy", "numpy", "rank-bm25")
"""Packages whose version may change a result."""
_VERSIONS = (*_PACKAGES, "source")
"""What is compared of a manifest's versions: older manifests name packages that no longer matter."""
_SOURCES = ("program", "optimizers", "eval/methods", "eval/tasks", "eval/data")
_NOT_COMPARED = ("methods", "command", "started_at")
_RULES = ("gate", "choice")
"""Settings that may name a class of the user's own."""
# A module and its attribute, perhaps with settings: not a built-in rule such as ``hardest:pool_factor=6``.
_PATH = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*(:|$)")


def make_manifest(
    *,
    task: Task,
    data: Mapping[str, Any],
    methods: Mapping[str, Method],
    lm: Any = None,
    seed: int = 0,
    official: bool = False,
    command: str = "",
    task_spec: str = "",
    adapter: str | None = None,
) -> Manifest:
    """Return the manifest of a run that is about to start.

    Args:
        task: The task of the run.
        data: The manifest of the data set.
        methods: By label.
        lm: The model; ``None`` if no method needs one.
        seed: Seed of every random choice.
        official: Whether the data are LaMP's own files.
        command: The command line, to reproduce the run.
        task_spec: The argument of `get_task` that returns ``task``; empty for its name.
        adapter: The form in which replies are asked for; ``None`` for what the model takes.
    """
    return Manifest(
        task=task_spec or task.name,
        official=official,
        data=data,
        model={} if lm is None else {**describe_model(lm), **({"adapter": adapter} if adapter else {})},
        methods={
            label: MethodEntry(
                name=method.name,
                settings=dict(method.settings()),
                floor=method.trivial,
                source=_plugin_hash(method, task_spec),
            )
            for label, method in methods.items()
        },
        seed=seed,
        versions={
            **{package: number for package in _PACKAGES if (number := _version(package))},
            "source": source_hash(),
        },
        command=command,
        started_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def describe_model(lm: Any) -> dict[str, Any]:
    """Return a model's name and generation settings, without API keys, addresses and objects.

    ``calibrate`` is there only if it is on, so that runs from before this setting can be resumed.
    """
    from dspy.clients.backend_selection import CLIENT_KEYS

    plain = (str, int, float, bool)
    kwargs = {
        name: value
        for name, value in sorted(lm.kwargs.items())
        if isinstance(value, plain) and name not in CLIENT_KEYS and "key" not in name
    }
    calibrate = {"calibrate": True} if getattr(lm, "calibrate", False) is True else {}
    return {"name": str(lm.model), **kwargs, **calibrate}


def check_resumable(stored: Manifest, now: Manifest, path: Path) -> None:
    """Check that a run can be resumed: all settings are the same, though methods may be added.

    Raises:
        ConfigError: Names the first setting that differs, and both values.
    """
    for name, old, new in _differences(_settings(stored, now), _settings(now, now)):
        raise ConfigError(
            f"`{path}` was run with `{name}` {old!r}, not {new!r}; give the same settings to continue it, "
            "or another `--out`"
        )


def _settings(manifest: Manifest, now: Manifest) -> dict[str, Any]:
    """Return the settings to compare: the methods of ``now``, and versions that still matter."""
    content = asdict(manifest)
    return {
        **{name: value for name, value in content.items() if name not in _NOT_COMPARED},
        "methods": {label: entry for label, entry in content["methods"].items() if label in now.methods},
        "versions": {name: value for name, value in content["versions"].items() if name in _VERSIONS},
    }


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        # Name the selection first, because counts and checksums of the data follow from it.
        for key in sorted({*old, *new}, key=lambda key: (key != "selection", key)):
            if name == "methods" and key not in old:
                continue
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        for index, (old_item, new_item) in enumerate(zip(old, new, strict=False)):
            yield from _differences(old_item, new_item, f"{name}[{index}]")
        if len(old) != len(new):
            yield f"{name} (length)", len(old), len(new)
    elif old != new:
        yield name, old, new


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Return a hash of our own code that can change an answer, 12 hexadecimal digits.

    A package version does not identify the prompts of a checkout.
    """
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in _SOURCES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(file.relative_to(root).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _plugin_hash(method: Method, task_spec: str) -> str:
    """Return a hash of the user's own files behind a method; empty if there are none.

    They are the method's own, those of rules that its settings name by path (``gate=mine:Careful``), and
    the task's. `source_hash` covers our files.
    """
    plugin = type(method).__module__
    specs = [*(str(method.settings().get(name, "")) for name in _RULES), task_spec]
    modules = [plugin] * (not plugin.startswith("eval.methods."))
    modules += [match[1] for spec in specs if (match := _PATH.match(spec))]
    contents = [content for module in dict.fromkeys(modules) if (content := _read_module(module))]
    return hashlib.sha256(b"".join(contents)).hexdigest()[:12] if contents else ""


def _read_module(name: str) -> bytes:
    try:
        return Path(inspect.getfile(import_module(name))).read_bytes()
    except (ImportError, OSError, TypeError):
        return b""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
