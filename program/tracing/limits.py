"""How long traces are kept and how much they may take: of the command line, or of the environment."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

from program.errors import ConfigError

OLDER_THAN, MAX_MB = "PERSONAAGENT_TRACE_OLDER_THAN", "PERSONAAGENT_TRACE_MAX_MB"
"""Environment variables: each local trace file that is opened is pruned to these limits."""

_SECONDS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
_MOST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class TraceLimits:
    """What is kept.

    Attributes:
        seconds: Traces that ended longer ago are removed; ``None`` keeps all.
        max_bytes: What the file may hold; ``None`` for no limit.
    """

    seconds: float | None = None
    max_bytes: int | None = None

    def __bool__(self) -> bool:
        return self.seconds is not None or self.max_bytes is not None

    @property
    def before(self) -> int | None:
        """The time before which traces must have ended to be removed, in microseconds since 1970."""
        return None if self.seconds is None else int((time.time() - self.seconds) * 1e6)


def trace_limits(older_than: str | None = None, max_mb: float | None = None) -> TraceLimits:
    """Return the limits, by default those of the environment.

    Args:
        older_than: A number with its unit: ``12h``, ``30d`` or ``8w``.
        max_mb: Megabytes, above 0.

    Raises:
        ConfigError: A value cannot be read.

    Example:
        >>> trace_limits("2d", 500)
        TraceLimits(seconds=172800.0, max_bytes=500000000)
        >>> trace_limits("a month")
        Traceback (most recent call last):
        program.errors.ConfigError: `--older-than` must be a number with h, d or w, as in 30d, got 'a month'
    """
    age_name = "--older-than" if older_than is not None else OLDER_THAN
    size_name = "--max-mb" if max_mb is not None else MAX_MB
    age = older_than if older_than is not None else os.environ.get(OLDER_THAN)
    size: object = max_mb if max_mb is not None else os.environ.get(MAX_MB)
    return TraceLimits(seconds=_seconds(age_name, age), max_bytes=_bytes(size_name, size))


def _seconds(name: str, text: str | None) -> float | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([hdw])", text.strip(), re.ASCII)
    if match is None:
        raise ConfigError(f"`{name}` must be a number with h, d or w, as in 30d, got {text[:40]!r}")
    return float(match[1]) * _SECONDS[match[2]]


def _bytes(name: str, value: object) -> int | None:
    if value in (None, ""):
        return None
    try:
        megabytes = float(str(value))
    except ValueError:
        megabytes = 0.0
    if not 0 < megabytes <= _MOST:
        raise ConfigError(f"`{name}` must be a number of megabytes above 0, at most {_MOST:,}, got {value!r}")
    return int(megabytes * 1e6)
