"""Counts failures of tracing, logs the first one, and never lets one reach the traced program."""

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
    """Runs actions that may fail; after three failures in a row it skips them for a while.

    The first pause is 5 seconds; each further failure doubles it, up to 300 seconds, until an
    action succeeds. A dead server or a full disk then costs almost no time.

    Attributes:
        failed: Number of actions that failed or were skipped.

    Example:
        >>> breaker = CircuitBreaker()
        >>> breaker.attempt(lambda: None)
        >>> breaker.failed
        0
    """

    def __init__(self) -> None:
        self.failed = 0
        self._in_a_row = 0
        self._pause = _FIRST_PAUSE
        self._paused_until = 0.0
        self._lock = threading.Lock()

    def attempt(self, action: Callable[[], None]) -> None:
        """Run an action, unless pausing. A failure is counted, never raised."""
        if time.monotonic() < self._paused_until:
            self.failed += 1
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - tracing must never change the traced program
            self._record_failure(error)
        else:
            if self._in_a_row:
                self._in_a_row, self._pause = 0, _FIRST_PAUSE

    def _record_failure(self, error: Exception) -> None:
        with self._lock:
            self.failed += 1
            self._in_a_row += 1
            first = self.failed == 1
            if self._in_a_row >= _FAILURES_BEFORE_PAUSE:
                self._paused_until = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if first:
            # The error's message may quote user text.
            logger.warning("tracing failed (%s); the run goes on without its trace", type(error).__name__)
