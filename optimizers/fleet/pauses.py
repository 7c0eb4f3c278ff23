"""What happens while the provider is away: everybody waits, then goes on from the finished pieces."""

from __future__ import annotations

import asyncio
import logging
import time

import dspy

LONGEST_PAUSE = 60.0
"""Longest pause before the provider is tried again, in seconds."""

_FIRST_PAUSE = 2.0

logger = logging.getLogger("personaagent.optimizers")


class Pauses:
    """Pauses a run while the provider fails for everybody.

    Args:
        patience: Seconds of failures in a row after which the run stops.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: float | None = None
        self._next = _FIRST_PAUSE
        self._until = 0.0

    def works(self) -> None:
        """Note that a call succeeded."""
        self._since, self._next = None, _FIRST_PAUSE

    async def wait(self) -> None:
        """Wait until a pause ends, if there is one."""
        while (left := self._until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def pause(self, error: Exception) -> bool:
        """Pause after a failure, and return whether to try again; false if patience is at an end."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if now >= self._until:
            asked = getattr(error, "retry_after", None) or 0.0
            seconds = max(self._next, asked)
            if now + seconds > self._since + self._patience:
                return False
            logger.warning("the provider fails (%s); trying again in %.0f s", type(error).__name__, seconds)
            self._until = now + seconds
            self._next = min(2 * self._next, LONGEST_PAUSE)
        await self.wait()
        return True


def passes(error: BaseException) -> bool:
    """Return whether an error is an outage that ends by itself: a limit, a time-out, a server that is away.

    Example:
        >>> passes(dspy.LMRateLimitError("slow down")), passes(dspy.LMAuthError("no key"))
        (True, False)
    """
    return isinstance(error, dspy.LMError) and bool(dspy.is_retryable_lm_error(error))
