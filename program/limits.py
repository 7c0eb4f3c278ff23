"""The largest values that settings take, so that a slip of the finger starts no run without an end."""

from __future__ import annotations

import math

from program.errors import ConfigError

MANY = 1_000_000_000
"""Most interactions, users, queries and characters of a text: the data limit them further."""

MOST_STEPS = 1_000
"""Most steps of an alignment or of an agent, and most threads: each one costs calls."""


def check_at_most(name: str, value: float, most: int) -> None:
    """Raise `ConfigError` if a setting is above its largest value, or is not a number (NaN).

    Example:
        >>> check_at_most("steps", 3, MOST_STEPS)
        >>> check_at_most("steps", 10**24, MOST_STEPS)
        Traceback (most recent call last):
        program.errors.ConfigError: `steps` must be at most 1,000, got 1000000000000000000000000
    """
    if value > most or math.isnan(value):
        raise ConfigError(f"`{name}` must be at most {most:,}, got {value!r}")
