"""Python's collection of garbage, where many calls are in flight: each one stops all of them."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_RARELY = 20_000, 20, 50
"""New objects until young ones are looked at, such looks until older ones are, and those until all are."""

_lock = threading.Lock()
_blocks = 0
_before, _unfreezes = gc.get_threshold(), True


@contextmanager
def few_collections() -> Iterator[None]:
    """Collect garbage rarely inside the block, and never look at what was there before it.

    With DSPy imported, a full collection takes .1 s or more, in which no reply is read. Only cycles wait
    longer to be freed: other objects go as soon as nobody needs them. Blocks in several threads share it.

    Example:
        >>> import gc
        >>> before = gc.get_threshold()
        >>> with few_collections():
        ...     gc.get_threshold() > before, gc.get_freeze_count() > 0
        (True, True)
        >>> gc.get_threshold() == before
        True
    """
    global _blocks, _before, _unfreezes
    with _lock:
        if _blocks == 0:
            _before, _unfreezes = gc.get_threshold(), gc.get_freeze_count() == 0
            gc.freeze()
            gc.set_threshold(*_RARELY)
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                gc.set_threshold(*_before)
                if _unfreezes:  # or else what the program itself has frozen would be looked at again
                    gc.unfreeze()
