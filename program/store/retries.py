"""Says which failures of PostgreSQL pass by themselves, and tries again after a short random wait."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)
from tenacity.stop import stop_base

T = TypeVar("T")

TRIES = 30
"""How often a transaction is run before its error is raised; the waits between are about 12 s in all."""

_FIRST_WAIT, _LONGEST_WAIT = 0.02, 1.0
"""Seconds. The wait is a random part of a limit that doubles from the first to the longest."""

# The server has undone the whole transaction. After a lost connection nobody knows whether it was stored.
_CONFLICTS = {"40001": "a serialization failure", "40P01": "a deadlock"}

# An error while connecting has no SQLSTATE.
_NO_CONNECTION = re.compile(
    r"too many (?:clients|connections)|connection slots"
    r"|database system is (?:starting up|in recovery|not yet accepting)"
)


def run_again(transaction: Callable[[], T]) -> T:
    """Return what ``transaction`` returns, run again while it conflicts with other transactions.

    Args:
        transaction: One whole transaction. It may run `TRIES` times, and all but the last change nothing.
    """
    return _retrying(lambda error: conflict(error) != "", stop_after_attempt(TRIES))(transaction)


def when_free(connect: Callable[[], T], seconds: float) -> T:
    """Return the connection that ``connect`` opens, asking again while the server has none to give.

    Args:
        connect: Opens one connection.
        seconds: How long to ask.
    """
    return _retrying(is_without_connection, stop_after_delay(seconds))(connect)


def conflict(error: BaseException) -> str:
    """Return which conflict with other transactions this error, or its cause, is; empty if none."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, DBAPIError) and (state := getattr(candidate.orig, "sqlstate", None)):
            return _CONFLICTS.get(state, "")
    return ""


def is_without_connection(error: BaseException) -> bool:
    """Return whether the server took no connection now but will take one later."""
    return isinstance(error, OperationalError) and _NO_CONNECTION.search(str(error.orig)) is not None


def _retrying(passes: Callable[[BaseException], bool], stop: stop_base) -> Retrying:
    return Retrying(
        stop=stop,
        wait=wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
        retry=retry_if_exception(passes),
        reraise=True,
    )
