"""Saves and loads programs: private files without secrets, and errors that say what is damaged."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dspy

from program.errors import DataError, PersonaError
from program.json_text import read
from program.persona import validate_persona
from program.text import one_line
from program.text_safety import find_problem
from program.values import kind

_PREDICTOR = {"traces": list, "train": list, "demos": list, "signature": dict}
_OTHER_FIELDS = ("lm", "fields", "extended_signature")
_MAX_REASON = 160
_ADVICE = "save the program again, or restore a copy"
# Everything else that a model takes can hold a secret: headers, cloud keys, tokens, request bodies.
_SETTINGS = frozenset(
    {
        "api_version",
        "drop_params",
        "frequency_penalty",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "min_p",
        "n",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "rollout_id",
        "seed",
        "stop",
        "temperature",
        "timeout",
        "top_k",
        "top_logprobs",
        "top_p",
    }
)
_ADDRESSES = ("api_base", "base_url")


def check_saved(path: Path, fields: int) -> None:
    """Check a saved program of one predictor, ``act``, before anything of it is used.

    Args:
        path: A JSON file that `dspy.Module.save` wrote.
        fields: Number of fields of the predictor.

    Raises:
        DataError: The file is not such a program; the message names the field.
    """
    state = _expect(path, "", read(path), dict)
    versions = _expect(path, "metadata", state.get("metadata"), dict)
    _expect(path, "metadata.dependency_versions", versions.get("dependency_versions"), dict)
    act = _expect(path, "act", state.get("act"), dict)
    for name, expected in _PREDICTOR.items():
        _expect(path, f"act.{name}", act.get(name), expected)
    if unknown := sorted(set(act) - set(_PREDICTOR) - set(_OTHER_FIELDS)):
        raise _damaged(path, f"act.{unknown[0][:40]}", "is unknown")
    for number, demo in enumerate(act["demos"]):
        _expect(path, f"act.demos[{number}]", demo, dict)
    if "lm" not in act:
        raise _damaged(path, "act.lm", "is missing")
    if act["lm"] is not None:
        model = _expect(path, "act.lm", act["lm"], dict).get("model")
        _expect(path, "act.lm.model", model, str)
    _check_signature(path, act["signature"], fields)


def _check_signature(path: Path, signature: Mapping[str, Any], count: int) -> None:
    name = "act.signature.instructions"
    persona = _expect(path, name, signature.get("instructions"), str)
    try:
        validate_persona(persona)
    except PersonaError as error:
        raise _damaged(path, name, f"cannot be used: {error}") from error
    if problem := find_problem(persona):
        raise _damaged(path, name, problem)
    fields = _expect(path, "act.signature.fields", signature.get("fields"), list)
    if len(fields) != count:
        raise _damaged(path, "act.signature.fields", f"has {len(fields)} items, not {count}")
    for number, field in enumerate(fields):
        at = f"act.signature.fields[{number}]"
        texts = _expect(path, at, field, dict)
        for part in ("prefix", "description"):
            if problem := find_problem(_expect(path, f"{at}.{part}", texts.get(part), str)):
                raise _damaged(path, f"{at}.{part}", problem)


def _expect(path: Path, field: str, value: Any, expected: type) -> Any:
    if isinstance(value, expected):
        return value
    is_wrong = "is missing" if value is None else f"must be {kind(expected())}, not {kind(value)}"
    raise _damaged(path, field, is_wrong)


def _damaged(path: Path, field: str, problem: str) -> DataError:
    at = f" field `{field}`" if field else ""
    return DataError(f"saved program `{path}`:{at} {problem}; {_ADVICE}")


@contextmanager
def explain_load_errors(path: Path) -> Iterator[None]:
    """Turn what DSPy raises for damaged content into `DataError`.

    Raises:
        DataError: The content cannot be loaded.
    """
    try:
        yield
    except (DataError, OSError, MemoryError):
        raise
    except Exception as error:  # DSPy and pickle raise any kind for a damaged state
        reason = one_line(error, _MAX_REASON) or "no reason given"
        raise DataError(
            f"saved program `{path}` cannot be loaded: {type(error).__name__}: {reason}; {_ADVICE}"
        ) from error


def write_private(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file in one step by what ``write`` writes; only the owner can read it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        part.replace(path)
    except BaseException:  # an interrupt, too, must leave no draft
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file that only its owner can read.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        write_private(path, lambda part: part.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot write `{path}`: {error.strerror}") from error


def without_secrets(lm: dspy.BaseLM | None) -> dspy.BaseLM | None:
    """Return a copy of a model that has its sampling settings and address, but no keys or headers."""
    if lm is None:
        return None
    bare = copy(lm)
    bare.kwargs = {name: value for name, value in lm.kwargs.items() if _is_harmless(name, value)}
    bare.history = []
    for name in ("launch_kwargs", "train_kwargs"):
        if getattr(bare, name, None):
            setattr(bare, name, {})
    return bare


def _is_harmless(name: str, value: object) -> bool:
    if name in _ADDRESSES and isinstance(value, str):
        address = urlsplit(value)
        return not (address.username or address.password or address.query)
    return name in _SETTINGS
