"""Sampling seeds: every call gets its own, and a repeated run gets the same ones."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_process_seeds = itertools.count(1)
_scope: ContextVar[Callable[[], int] | None] = ContextVar("personaagent_draws", default=None)


def next_seed() -> int:
    """Return the next seed, in [1, 2**31), of the current `repeatable_seeds` or of the process."""
    draw = _scope.get()
    return next(_process_seeds) if draw is None else draw()


@contextmanager
def repeatable_seeds(name: str) -> Iterator[None]:
    """Derive the seeds inside the block from ``name`` and their number alone.

    The n-th seed of a name is always the same, whatever else runs before or at the same time.

    Example:
        >>> with repeatable_seeds("run 1, user ana"):
        ...     first = next_seed()
        >>> with repeatable_seeds("run 1, user ana"):
        ...     next_seed() == first
        True
    """
    numbers = itertools.count(1)

    def draw() -> int:
        digest = hashlib.sha256(f"{name} {next(numbers)}".encode()).digest()
        return 1 + int.from_bytes(digest[:4], "big") % (2**31 - 1)

    token = _scope.set(draw)
    try:
        yield
    finally:
        _scope.reset(token)
