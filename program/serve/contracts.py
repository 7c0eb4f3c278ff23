"""What the front door hands in: this package may not import the optimizers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from program.store import UserStore


class Outcome(Protocol):
    """What became of one user's alignment."""

    @property
    def user_id(self) -> str:
        """The user."""
        ...

    @property
    def status(self) -> str:
        """``aligned``, or ``done`` if there was nothing to do; anything else is a failure."""
        ...

    @property
    def persona_version(self) -> int | None:
        """The user's version now."""
        ...

    @property
    def error(self) -> Exception | None:
        """What failed."""
        ...


class AlignUsers(Protocol):
    """Aligns users, and yields what became of each; one failure leaves the others alone.

    It runs in a thread of its own, never twice at once.
    """

    def __call__(
        self, store: UserStore, user_ids: Iterable[str], *, lm: Any = None, wikipedia: bool = True
    ) -> Coroutine[Any, Any, AsyncIterator[Outcome]]:
        """Start."""
        ...


@dataclass(frozen=True, kw_only=True)
class Actions:
    """What a server can do beside reading and writing the store.

    Attributes:
        align: Aligns users; ``None`` if this server does not.
        lm: The model that answers and aligns; ``None`` if there is none.
        wikipedia: Whether the agent may search Wikipedia.

    Example:
        >>> Actions(wikipedia=False).align is None
        True
    """

    align: AlignUsers | None = None
    lm: Any = None
    wikipedia: bool = True
