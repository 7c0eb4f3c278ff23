"""How long a call may wait: retries with a capped wait, and a line that says what is waited for."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from program.models.outages import ends_by_itself

LONGEST_WAIT = 60.0
"""Longest wait before one retry, in seconds; ``PERSONAAGENT_MAX_WAIT`` sets another one.

If a provider asks for more, the call fails at once and the error names the time.
"""

logger = logging.getLogger("personaagent.program.models")


def call_with_patience(call: Callable[[], Any], retries: int) -> Any:
    """Call, and retry a passing failure of the provider at most ``retries`` times.

    Raises:
        dspy.LMError: The failure does not pass, or outlasts the retries or the longest wait.
    """
    try:
        return call()
    except dspy.LMError as error:
        if not retries or not _passes(error):
            raise
        failures = [error]

    def again() -> Any:
        # The first attempt is made above: a retrying object costs as much as a short call.
        if failures:
            raise failures.pop()
        return call()

    return Retrying(**_policy(retries))(again)


async def acall_with_patience(call: Callable[[], Awaitable[Any]], retries: int) -> Any:
    """Await ``call()`` like `call_with_patience`."""
    try:
        return await call()
    except dspy.LMError as error:
        if not retries or not _passes(error):
            raise
        failures = [error]

    async def again() -> Any:
        if failures:
            raise failures.pop()
        return await call()

    return await AsyncRetrying(**_policy(retries))(again)


def longest_wait() -> float:
    """Return the longest wait before one retry, in seconds.

    Example:
        >>> longest_wait()
        60.0
    """
    try:
        return float(os.environ.get("PERSONAAGENT_MAX_WAIT", LONGEST_WAIT))
    except ValueError:
        return LONGEST_WAIT


def _policy(retries: int) -> dict[str, Any]:
    return {
        "retry": retry_if_exception(_passes),
        "stop": stop_after_attempt(retries + 1),
        "wait": _seconds,
        "before_sleep": _log,
        "reraise": True,
    }


def _passes(error: BaseException) -> bool:
    return ends_by_itself(error) and (getattr(error, "retry_after", None) or 0.0) <= longest_wait()


def _seconds(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = getattr(error, "retry_after", None)
    if asked is not None and asked >= 0:
        return float(asked)
    # Calls that failed together must not come again together.
    return random.uniform(0.5, 1.0) * min(2.0 ** (state.attempt_number - 1), longest_wait())


def _log(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait = state.next_action.sleep if state.next_action else 0.0
    model = getattr(error, "model", None) or "the model"
    logger.warning("%s: %s; retry %d in %.0f s", model, type(error).__name__, state.attempt_number, wait)
