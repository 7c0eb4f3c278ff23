"""Seeds of sampled answers: never the same twice, and the same again where a run is repeated."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_everywhere = itertools.count(1)
_here: ContextVar[Callable[[], int] | None] = ContextVar("personaagent_draws", default=None)


def next_seed() -> int:
    """Return a seed in [1, 2**31) for one sampled answer."""
    draw = _here.get()
    return next(_everywhere) if draw is None else draw()


@contextmanager
def repeatable_seeds(name: str) -> Iterator[None]:
    """Draw the seeds inside from ``name`` alone: the n-th is the same whatever ran before or beside."""
    numbers = itertools.count(1)

    def draw() -> int:
        digest = hashlib.sha256(f"{name} {next(numbers)}".encode()).digest()
        return 1 + int.from_bytes(digest[:4], "big") % (2**31 - 1)

    token = _here.set(draw)
    try:
        yield
    finally:
        _here.reset(token)
