"""Decides how much of each value a trace stores: the text, a fingerprint of it, or its length."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from program.errors import ConfigError
from program.side_files import make_private, set_aside
from program.text_safety import repair
from program.tracing.redaction import REDACTED, is_secret_name, redact_secrets

Content = Literal["none", "hash", "full"]
Redact = Callable[[str], str]

__all__ = ["Content", "ContentPolicy", "Redact", "installation_key", "redact_secrets"]

logger = logging.getLogger("personaagent.program.tracing")

_MAX_DEPTH = 16
_KEY_BYTES = 32

# Values under these names are the program's own words, never a user's.
_SAFE_NAMES = frozenset(
    "accept accepted batch decision_reason failed forced gate id interaction_id interaction_ids kind method "
    "metric model model_type name note number optimizer parent parent_version persona_version preset "
    "prompt_model query_id reason role run_id skipped source stage status step task tool type version "
    "versions".split()
)
# Ids are stored as they are, so that a trace can be found by them.
_ID_NAMES = frozenset("id interaction_id interaction_ids query_id run_id".split())
# The keys of these mappings may be a user's answers.
_OPEN_MAPPINGS = frozenset(("arguments", "counts", "metadata", "probabilities"))


@dataclass(frozen=True, kw_only=True)
class ContentPolicy:
    """Turns values into the plain data that a trace stores.

    Attributes:
        content: ``full`` stores text; ``hash`` stores its length and a keyed fingerprint, which is
            equal for equal texts; ``none`` stores its length. Numbers, booleans, ids and the
            program's own words are always stored; user ids only with ``full``.
        key: This installation's secret, so that a word list cannot reverse fingerprints.
        redact: Applied to every stored text but ids; with ``None``, texts and fields such as
            ``password`` are stored as they are.

    Example:
        >>> ContentPolicy(content="none", key=b"secret").clean({"query": "Which tea?", "score": 1.0})
        {'query': '<text: 10 characters>', 'score': 1.0}
    """

    content: Content
    key: bytes
    redact: Redact | None = redact_secrets

    def __post_init__(self) -> None:
        if self.content not in ("none", "hash", "full"):
            raise ConfigError(f"`content` must be none, hash or full, got {self.content!r}")

    def pseudonym(self, user_id: str) -> str:
        """Return the name of a user's objects: ``u-`` and a keyed fingerprint of the id."""
        return "u-" + self._fingerprint(user_id)

    def user(self, user_id: str) -> str:
        """Return the id to store in attributes and payloads: the pseudonym unless ``full``."""
        return repair(user_id) if self.content == "full" else self.pseudonym(user_id)

    def clean(self, value: Any) -> Any:
        """Return the part of ``value`` that may be stored, as plain data."""
        return self._clean(value, "", ())

    def error(self, error: BaseException) -> str:
        """Return an exception in Weave's format: JSON with type, message and traceback."""
        frames = "".join(traceback.format_tb(error.__traceback__)[-8:])
        try:
            message = str(error)
        except Exception:  # noqa: BLE001 - any class may be raised
            message = ""
        return json.dumps(
            {
                "type": type(error).__name__,
                "message": self._text(message),
                "traceback": self._text(frames) if self.content == "full" else "",
            }
        )

    def _fingerprint(self, text: str) -> str:
        return hashlib.blake2b(text.encode("utf-8", "replace"), key=self.key, digest_size=8).hexdigest()

    def _text(self, text: str) -> str:
        if self.content == "full":
            return self._redacted(repair(text))
        fingerprint = f", #{self._fingerprint(text)}" if self.content == "hash" else ""
        return f"<text: {len(text)} characters{fingerprint}>"

    def _redacted(self, text: str) -> str:
        return self.redact(text) if self.redact else text

    def _own_words(self, text: str) -> str:
        """Return the program's own words, or a name, without secrets that came into them."""
        return redact_secrets(text) if self.redact else text

    def _clean(self, value: Any, name: str, parents: tuple[int, ...]) -> Any:
        """Return the part of ``value`` that may be stored; a part that cannot be read is its type's name.

        Args:
            value: The value.
            name: Its name in the mapping or class around it.
            parents: The identities of the values around it, so that a cycle ends.
        """
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, str):
            return self._string(str(value), name)
        if len(parents) >= _MAX_DEPTH or id(value) in parents:
            return f"<{type(value).__name__}>"
        try:
            return self._compound(value, name, (*parents, id(value)))
        except Exception:  # noqa: BLE001 - the values of a tool or a model may be of any class
            return f"<{type(value).__name__}>"

    def _string(self, text: str, name: str) -> str:
        if name == "user_id":
            return self.user(text)
        if text.startswith("weave:///"):
            return repair(text)
        if self.redact and is_secret_name(name):
            return REDACTED
        if name not in _SAFE_NAMES or len(text) > 200:
            return self._text(text)
        return repair(text) if name in _ID_NAMES else self._own_words(repair(text))

    def _compound(self, value: Any, name: str, parents: tuple[int, ...]) -> Any:
        if isinstance(value, date):
            return value.isoformat()
        if is_dataclass(value) and not isinstance(value, type):
            return {f.name: self._clean(getattr(value, f.name), f.name, parents) for f in fields(value)}
        if isinstance(value, Mapping):
            return self._mapping(value, name, parents)
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._clean(item, name, parents) for item in value]
        return self._foreign(value, name, parents)

    def _mapping(self, value: Mapping[Any, Any], name: str, parents: tuple[int, ...]) -> Any:
        if self.content != "full" and name in _OPEN_MAPPINGS:
            return f"<{len(value)} entries>"
        if self.redact and is_secret_name(name):
            return REDACTED
        items = [(repair(str(key)), item) for key, item in value.items()]
        return {self._own_words(key): self._clean(item, key, parents) for key, item in items}

    def _foreign(self, value: Any, name: str, parents: tuple[int, ...]) -> Any:
        if isinstance(value, type):
            return f"<{value.__name__}>"
        for method in ("model_dump", "toDict"):
            if callable(getattr(value, method, None)):
                with suppress(Exception):
                    return self._clean(getattr(value, method)(), name, parents)
        model = getattr(value, "model", None)
        return {"model": repair(model)} if isinstance(model, str) else f"<{type(value).__name__}>"


def installation_key(home: Path) -> bytes:
    """Return this installation's secret, created on first use with mode 0600.

    A key that is damaged is set aside, with a warning, and a new one is created: the pseudonyms of
    earlier traces can then no longer be computed.

    Raises:
        OSError: The key cannot be read or created.
    """
    path = home / "trace.key"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for _ in range(3):
        # Read once: between two looks another thread or process may create a good key.
        key = _read_key(path)
        if key is not None and len(key) == _KEY_BYTES:
            make_private(path)
            return key
        if key is not None:
            logger.warning("the trace key was damaged and is now %s; a new one is used", set_aside(path).name)
        _create_key(path)
    raise OSError(f"cannot create {str(path)!r}")


def _read_key(path: Path) -> bytes | None:
    """Return what stands in place of the key; ``None`` if nothing does, empty if it is no file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b"" if path.is_symlink() else None
    except IsADirectoryError:
        return b""


def _create_key(path: Path) -> None:
    # Written to a draft and linked into place, so that no process reads half a key.
    draft = path.with_name(f".trace.key.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        try:
            os.write(descriptor, os.urandom(_KEY_BYTES))
        finally:
            os.close(descriptor)
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
