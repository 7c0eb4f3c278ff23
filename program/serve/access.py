"""Who asks, and what they may do: each route names the right that it needs."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Request

from program.serve.failures import ApiError
from program.serve.keys import Key, Keys, Right

USER_HEADER = "X-PersonaAgent-User"
_MOST_BUCKETS = 10_000


class RateLimit:
    """Limits the requests of each key: a bucket that fills evenly, of one minute's requests.

    Args:
        per_minute: Requests; 0 for no limit.

    Example:
        >>> limit = RateLimit(2)
        >>> [limit.wait("a", now=0), limit.wait("a", now=0), limit.wait("a", now=0), limit.wait("b", now=0)]
        [0.0, 0.0, 30.0, 0.0]
    """

    def __init__(self, per_minute: int) -> None:
        self._rate = per_minute / 60
        self._size = float(per_minute)
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, name: str, now: float | None = None) -> float:
        """Count a request; return 0, or the seconds until one is free, and then it is not counted."""
        if not self._size:
            return 0.0
        now = time.monotonic() if now is None else now
        left, then = self._buckets.get(name, (self._size, now))
        left = min(self._size, left + (now - then) * self._rate)
        if left < 1:
            return (1 - left) / self._rate
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.clear()
        self._buckets[name] = (left - 1, now)
        return 0.0


@dataclass(frozen=True)
class Doorkeeper:
    """Finds the key of a request.

    Args:
        keys: The keys.
        limit: Requests of each key.
    """

    keys: Keys
    limit: RateLimit

    def admit(self, authorization: str | None) -> Key:
        """Return what the request's key allows.

        Raises:
            ApiError: 401 without a key or with a wrong or expired one; 429 after too many requests.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _refused("missing_key", "send a key as `Authorization: Bearer KEY`")
        key = self.keys.find(token.strip())
        if key is None:
            raise _refused("wrong_key", "the key is wrong or was revoked")
        if key.expired(datetime.now(timezone.utc)):
            raise _refused("expired_key", "the key has expired")
        if (seconds := self.limit.wait(key.id)) > 0:
            raise ApiError(
                429,
                "rate_limit_exceeded",
                "too many requests with this key; wait and try again",
                headers={"Retry-After": str(int(seconds) + 1)},
            )
        return key


def _refused(code: str, message: str) -> ApiError:
    return ApiError(401, code, message, headers={"WWW-Authenticate": "Bearer"})


async def caller(request: Request) -> Key:
    """Return the key of a request."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    key = doorkeeper.admit(request.headers.get("authorization"))
    request.state.key_id = key.id
    return key


Caller = Annotated[Key, Depends(caller)]


def check_right(key: Key, right: Right) -> None:
    """Raise `ApiError` 403 if a key lacks a right."""
    if not key.has(right):
        raise ApiError(403, "missing_right", f"the key lacks the right `{right}`")


def check_user(key: Key, user_id: str) -> None:
    """Raise `ApiError` 403 if a key is for another user; it does not say whether the user exists."""
    if not key.opens(user_id):
        raise ApiError(403, "other_user", "the key is for another user")


def of_user(right: Right) -> Callable[[str, Key], Awaitable[str]]:
    """Return a dependency that gives the user id in the path to whoever has the right to this user."""

    async def allowed(user_id: str, key: Caller) -> str:
        check_right(key, right)
        # `program.serve.guards` leaves only what would divide the path encoded.
        name = unquote(user_id)
        check_user(key, name)
        return name

    return allowed


def of_all_users(right: Right) -> Callable[[Key], Awaitable[Key]]:
    """Return a dependency that admits keys for all users with a right."""

    async def allowed(key: Caller) -> Key:
        check_right(key, right)
        if key.user_id is not None:
            raise ApiError(403, "other_user", "this needs a key for all users")
        return key

    return allowed


def chosen_user(key: Key, header: str | None, *fields: object) -> str:
    """Return the user of a chat request: the key's, else the header's, else the first field that is a text.

    Raises:
        ApiError: 403 if the header names another user than the key's; 400 if nothing names one.
    """
    header = unquote(header) if header else None
    if key.user_id is not None:
        if header is not None:
            check_user(key, header)
        return key.user_id
    for name in (header, *fields):
        if isinstance(name, str) and name:
            return name
    raise ApiError(
        400,
        "missing_user",
        f"name the user in the header `{USER_HEADER}`, or in `safety_identifier` or `user`",
    )
