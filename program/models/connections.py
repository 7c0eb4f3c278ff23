"""Connections that DSPy opens to a provider: by default at most 100, however many calls are in flight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from dspy.clients import execution


@contextmanager
def most_connections(number: int) -> Iterator[None]:
    """Let the pools that are made inside the block have ``number`` connections; 100 or fewer change nothing.

    DSPy makes one pool for each event loop and model, at the first call, and has no setting for its size.

    Example:
        >>> with most_connections(200):
        ...     pass  # asyncio.run(...)
    """
    make = execution.RouterConfig
    if number > 100:
        execution.RouterConfig = partial(make, max_connections=number)
    try:
        yield
    finally:
        execution.RouterConfig = make
