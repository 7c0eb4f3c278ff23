"""What identifies a run: made before it starts, compared when it is continued."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eval.contracts import Method
from eval.records import Manifest, MethodEntry
from program.errors import ConfigError
from program.task import Task

_PACKAGES = ("personaagent", "dspy", "numpy", "rank-bm25", "bm25s")
_SOURCES = ("program", "optimizers", "eval/methods", "eval/tasks", "eval/data")
_NOT_COMPARED = ("methods", "command", "started_at")


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
) -> Manifest:
    """Return the manifest of a run that is about to start; arguments as in `Manifest`.

    ``task_spec`` is what `get_task` finds the task by; empty for its name.
    """
    return Manifest(
        task=task_spec or task.name,
        official=official,
        data=data,
        model={} if lm is None else describe_model(lm),
        methods={
            label: MethodEntry(
                name=method.name,
                settings=dict(method.settings()),
                floor=method.trivial,
                source=_own_source(method),
            )
            for label, method in methods.items()
        },
        seed=seed,
        versions={
            **{name: found for name in _PACKAGES if (found := _version(name))},
            "source": source_hash(),
        },
        command=command,
        started_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def describe_model(lm: Any) -> dict[str, Any]:
    """Return a model's name and generation settings, without keys, addresses and objects."""
    from dspy.clients.backend_selection import CLIENT_KEYS

    plain = (str, int, float, bool)
    kwargs = {
        name: value
        for name, value in sorted(lm.kwargs.items())
        if isinstance(value, plain) and name not in CLIENT_KEYS and "key" not in name
    }
    return {"name": str(lm.model), **kwargs}


def check_same(before: Manifest, now: Manifest, path: Path) -> None:
    """Refuse to continue a run under other settings; further methods are no difference.

    Raises:
        ConfigError: Names the first setting that differs, and both values.
    """
    old, new = _compared(before, now), _compared(now, now)
    for name, was, wanted in _differences(old, new):
        raise ConfigError(
            f"`{path}` was run with `{name}` {was!r}, not {wanted!r}; give the same settings to continue it, "
            "or another `--out`"
        )


def _compared(manifest: Manifest, now: Manifest) -> dict[str, Any]:
    """Return the settings that have to agree; of the methods, those that both have."""
    content = asdict(manifest)
    shared = {label: entry for label, entry in content["methods"].items() if label in now.methods}
    rest = {name: value for name, value in content.items() if name not in _NOT_COMPARED}
    return {**rest, "methods": shared}


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        # The selection first: counts and checksums of the data follow from it.
        for key in sorted({*old, *new}, key=lambda key: (key != "selection", key)):
            if name == "methods" and key not in old:
                continue
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        for index, (was, wanted) in enumerate(zip(old, new, strict=False)):
            yield from _differences(was, wanted, f"{name}[{index}]")
        if len(old) != len(new):
            yield f"{name} (length)", len(old), len(new)
    elif old != new:
        yield name, old, new


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Return a hash of the code that decides an answer: all of ours but the report and the commands.

    The version of a checkout says nothing about its prompts.
    """
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in _SOURCES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(file.relative_to(root).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _own_source(method: Method) -> str:
    """Return a hash of the file of a user's method; ours are in `source_hash`."""
    made = type(method)
    if made.__module__.startswith("eval.methods."):
        return ""
    try:
        return hashlib.sha256(Path(inspect.getfile(made)).read_bytes()).hexdigest()[:12]
    except (OSError, TypeError):
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
