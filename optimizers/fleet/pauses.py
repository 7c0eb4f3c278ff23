"""What happens while calls fail: all users wait if the provider is away, and one user alone if it is not.

Both then go on from the finished pieces. A call fails here only after its own retries
(`program.models.patience`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

LONGEST_PAUSE = 60.0
"""Longest pause before the provider is tried again, in seconds."""

TRIES = 4
"""How often a user is tried again whose calls fail while those of others are answered."""

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
        self._answers = 0
        # Answers over all users when a user was answered, or failed, the last time.
        self._answers_at: dict[str, int] = {}
        self._failures: dict[str, int] = {}

    @property
    def has_worked(self) -> bool:
        """Whether the provider has answered a call of this run."""
        return self._answers > 0

    def works(self, user_id: str) -> None:
        """Note that a call of a user was answered."""
        self._since, self._next = None, _FIRST_PAUSE
        self._answers += 1
        self._answers_at[user_id] = self._answers
        self._failures.pop(user_id, None)

    def ended(self, user_id: str) -> None:
        """Forget a user."""
        self._answers_at.pop(user_id, None)
        self._failures.pop(user_id, None)

    async def wait(self) -> None:
        """Wait until a pause ends, if there is one."""
        while (left := self._until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def after(self, user_id: str, error: Exception) -> bool:
        """Wait after a failure of a user, and return whether to try again.

        If others were answered since the user was, the provider works: the user alone waits, and is given up
        after `TRIES` failures without an answer in between. Else all users wait, and false means that
        patience is at an end.
        """
        if self._answers > self._answers_at.get(user_id, 0):
            self._answers_at[user_id] = self._answers
            self._failures[user_id] = self._failures.get(user_id, 0) + 1
            if self._failures[user_id] > TRIES:
                return False
            pause = min(_FIRST_PAUSE * 2 ** (self._failures[user_id] - 1), LONGEST_PAUSE)
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
            return True
        return await self._pause(error)

    def gave_up(self, user_id: str) -> bool:
        """Return whether a user alone was given up, while others were answered."""
        return self._failures.get(user_id, 0) > TRIES

    async def _pause(self, error: Exception) -> bool:
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
