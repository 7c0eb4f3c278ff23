"""Decides how much of each value a trace stores: the text, a fingerprint of it, or its length."""

from __future__ import annotations

import hashlib
import json
import os
import re
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

Content = Literal["none", "hash", "full"]
Redact = Callable[[str], str]

_MAX_DEPTH = 16

# Values under these names are the program's own words, never a user's.
_SAFE_NAMES = frozenset(
    "accept accepted batch decision_reason failed forced gate id interaction_id interaction_ids kind method "
    "metric model model_type name note number optimizer parent parent_version persona_version preset "
    "prompt_model query_id reason role run_id skipped source stage status step task tool type version "
    "versions".split()
)
# The keys of these mappings may be a user's answers.
_OPEN_MAPPINGS = frozenset(("arguments", "counts", "metadata", "probabilities"))

# Every match contains one of the substrings; checking for those first is many times faster.
_SECRETS = (
    (("@",), re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")),
    (("sk-", "pk-", "ghp_", "gho_", "xox"), re.compile(r"\b(?:sk|pk|ghp|gho|xox[abp])[-_][\w-]{16,}")),
    (("earer ",), re.compile(r"\b[Bb]earer +[\w.~+/-]{16,}=*")),
    (("",), re.compile(r"\b\d(?:[ -]?\d){12,18}\b")),
)


def redact_secrets(text: str) -> str:
    """Replace e-mail addresses, API keys, bearer tokens and card numbers by ``[redacted]``.

    Example:
        >>> redact_secrets("write to ana@example.org")
        'write to [redacted]'
    """
    for substrings, pattern in _SECRETS:
        if any(substring in text for substring in substrings):
            text = pattern.sub("[redacted]", text)
    return text


@dataclass(frozen=True, kw_only=True)
class ContentPolicy:
    """Turns values into the plain data that a trace stores.

    Attributes:
        content: ``full`` stores text; ``hash`` stores its length and a keyed fingerprint, which is
            equal for equal texts; ``none`` stores its length. Numbers, booleans, ids and the
            program's own words are always stored; user ids only with ``full``.
        key: This installation's secret, so that a word list cannot reverse fingerprints.
        redact: Applied to every stored text; ``None`` changes nothing.

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
        return user_id if self.content == "full" else self.pseudonym(user_id)

    def clean(self, value: Any) -> Any:
        """Return the part of ``value`` that may be stored, as plain data."""
        return self._clean(value, "", 0)

    def error(self, error: BaseException) -> str:
        """Return an exception in Weave's format: JSON with type, message and traceback."""
        frames = "".join(traceback.format_tb(error.__traceback__)[-8:])
        return json.dumps(
            {
                "type": type(error).__name__,
                "message": self._text(str(error)),
                "traceback": self._text(frames) if self.content == "full" else "",
            }
        )

    def _fingerprint(self, text: str) -> str:
        return hashlib.blake2b(text.encode("utf-8", "replace"), key=self.key, digest_size=8).hexdigest()

    def _text(self, text: str) -> str:
        if self.content == "full":
            return self.redact(text) if self.redact else text
        fingerprint = f", #{self._fingerprint(text)}" if self.content == "hash" else ""
        return f"<text: {len(text)} characters{fingerprint}>"

    def _clean(self, value: Any, name: str, depth: int) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            if name == "user_id":
                return self.user(value)
            if value.startswith("weave:///"):
                return value
            return value if name in _SAFE_NAMES and len(value) <= 200 else self._text(value)
        if depth >= _MAX_DEPTH:
            return f"<{type(value).__name__}>"
        if isinstance(value, Enum):
            return self._clean(value.value, name, depth)
        if isinstance(value, date):
            return value.isoformat()
        if is_dataclass(value) and not isinstance(value, type):
            return {f.name: self._clean(getattr(value, f.name), f.name, depth + 1) for f in fields(value)}
        if isinstance(value, Mapping):
            return self._mapping(value, name, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._clean(item, name, depth + 1) for item in value]
        return self._foreign(value, name, depth)

    def _mapping(self, value: Mapping[Any, Any], name: str, depth: int) -> Any:
        if self.content != "full" and name in _OPEN_MAPPINGS:
            return f"<{len(value)} entries>"
        return {str(key): self._clean(item, str(key), depth + 1) for key, item in value.items()}

    def _foreign(self, value: Any, name: str, depth: int) -> Any:
        if isinstance(value, type):
            return f"<{value.__name__}>"
        for method in ("model_dump", "toDict"):
            if callable(getattr(value, method, None)):
                with suppress(Exception):
                    return self._clean(getattr(value, method)(), name, depth + 1)
        model = getattr(value, "model", None)
        return {"model": model} if isinstance(model, str) else f"<{type(value).__name__}>"


def installation_key(home: Path) -> bytes:
    """Return this installation's secret, created on first use with mode 0600."""
    path = home / "trace.key"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        # Written to a draft and linked into place, so that no process reads half a key.
        draft = path.with_name(f".trace.key.{os.getpid()}.{threading.get_ident()}")
        descriptor = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, os.urandom(32))
            os.close(descriptor)
            if not path.exists():
                os.link(draft, path)
        finally:
            draft.unlink()
    return path.read_bytes()
