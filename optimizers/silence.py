"""Suppress what DSPy's optimizers print while they compile."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from tqdm import tqdm

_compiling: ContextVar[bool] = ContextVar("personaagent_compiling", default=False)


class _Silence:
    """Drops the output, log lines and warnings of a compile.

    GEPA and MIPROv2 draw progress bars on both streams, and DSPy's log lines show whole examples. Only
    what a compile writes is dropped, so the caller's own progress display still works. Compiles may
    overlap in several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._undo = contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        token = _compiling.set(True)
        self._enter()
        try:
            yield
        finally:
            self._exit()
            _compiling.reset(token)

    def _enter(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                self._undo.enter_context(contextlib.redirect_stdout(_Muffled(sys.stdout)))
                self._undo.enter_context(contextlib.redirect_stderr(_Muffled(sys.stderr)))
                self._undo.callback(setattr, tqdm, "_instances", tqdm._instances)
                tqdm._instances = _Bars(tqdm._instances)
                for name in ("dspy", "optuna"):
                    logger = logging.getLogger(name)
                    self._undo.callback(logger.setLevel, logger.level)
                    logger.setLevel(logging.CRITICAL + 1)
            self._depth += 1

    def _exit(self) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._undo.close()


class _Bars(WeakSet[Any]):
    """tqdm's list of bars, safe for several compiles at once.

    DSPy empties the list before each evaluation, with the bars of other threads in it, and tqdm raises
    if a bar is missing.
    """

    def remove(self, item: Any) -> None:
        self.discard(item)


class _Muffled:
    """A stream that drops what a compile writes, also in threads that inherit its context."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if _compiling.get() else int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


silence = _Silence()
"""Context manager: a compile inside prints nothing."""
