"""What a process does without while it makes many calls at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from program.garbage import few_collections
from program.models.connections import most_connections
from program.models.lookups import few_lookups


@contextmanager
def many_calls(most: int) -> Iterator[None]:
    """Let ``most`` calls be in flight inside the block, each with as little work beside it as there can be.

    It needs a running event loop, whose look-ups it takes out of threads.

    Example:
        >>> import asyncio
        >>> async def main():
        ...     with many_calls(200):
        ...         ...
        >>> asyncio.run(main())
    """
    with few_lookups(), few_collections(), most_connections(most):
        yield
