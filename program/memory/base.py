"""What the rest of the program may ask of a memory, and a memory of its retriever."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from program.memory.interaction import Interaction

if TYPE_CHECKING:  # numpy costs an eighth of importing dspy, which does not need it
    import numpy as np
    import numpy.typing as npt

Before = str | datetime | None
"""How far a reader may look: an interaction id (only what came before that interaction), a time
(only what is strictly older), or ``None`` (everything)."""


class Memory(Protocol):
    """One user's interactions in time order.

    Time order is ``(timestamp, order of arrival)``; interactions without a timestamp come first.

    Failure: an unknown id in ``before`` raises `ConfigError`; nothing else raises, and an empty
    memory answers with an empty list.
    """

    @property
    def user_id(self) -> str:
        """Whose memory this is."""
        ...

    def __len__(self) -> int:
        """Return the number of interactions."""
        ...

    def search(
        self, query: str, k: int, *, before: Before = None, exclude: Collection[str] = ()
    ) -> list[Interaction]:
        """Return at most ``k`` interactions, best first; equal scores: the newest first."""
        ...

    def latest(
        self, n: int | None = None, *, before: Before = None, exclude: Collection[str] = ()
    ) -> list[Interaction]:
        """Return the latest ``n`` (``None``: all), oldest of them first."""
        ...


class Retriever(Protocol):
    """Scores texts against a query; built once for a user and extended, never rebuilt.

    Texts are numbered in the order they were added. Scores are only compared with each other.
    """

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts to the index."""
        ...

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """Return one score for each text, shape ``(n,)``, higher is better."""
        ...
