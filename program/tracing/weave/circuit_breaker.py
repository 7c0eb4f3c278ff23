"""Failures of tracing: counted, said once, and never felt by the traced program."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("personaagent.program.tracing")

_FAILURES_BEFORE_PAUSE = 3
_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 300.0


class CircuitBreaker:
    """Runs what may fail; after some failures in a row it stops trying for a while.

    Each pause is twice as long as the one before, until something succeeds, so that a dead server
    or a full disk costs next to no time.

    Attributes:
        failed: How many actions failed or were left out.
    """

    def __init__(self) -> None:
        self.failed = 0
        self._in_a_row = 0
        self._pause = _FIRST_PAUSE
        self._paused_until = 0.0
        self._lock = threading.Lock()

    def attempt(self, action: Callable[[], None]) -> None:
        """Do something for the trace; a failure is counted and never raised."""
        if time.monotonic() < self._paused_until:
            self.failed += 1
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - a failing trace must never change what is traced
            self._note(error)
        else:
            if self._in_a_row:
                self._in_a_row, self._pause = 0, _FIRST_PAUSE

    def _note(self, error: Exception) -> None:
        with self._lock:
            self.failed += 1
            self._in_a_row += 1
            first = self.failed == 1
            if self._in_a_row >= _FAILURES_BEFORE_PAUSE:
                self._paused_until = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if first:
            # The message of the error could hold what was to be stored.
            logger.warning("tracing failed (%s); the run goes on without its trace", type(error).__name__)
