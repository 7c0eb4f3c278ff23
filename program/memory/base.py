"""The contracts of a memory and of the retriever that it searches with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from program.memory.interaction import Interaction

if TYPE_CHECKING:  # numpy adds an eighth to the import time of dspy, which does not need it
    import numpy as np
    import numpy.typing as npt

Before = str | datetime | None
"""A limit in time: an interaction id (only earlier interactions), a time (only strictly older ones),
or ``None`` (no limit)."""


class Memory(Protocol):
    """One user's interactions in time order.

    Time order is ``(timestamp, order of arrival)``; interactions without a timestamp come first.

    Failure: an unknown id in ``before`` raises `ConfigError`; nothing else raises. An empty memory
    returns an empty list.

    Example:
        >>> from program import EpisodicMemory
        >>> memory: Memory = EpisodicMemory("ana")
        >>> memory.search("pasta", 3), memory.latest(3)
        ([], [])
    """

    @property
    def user_id(self) -> str:
        """The user whose interactions these are."""
        ...

    def __len__(self) -> int:
        """Return the number of interactions."""
        ...

    def search(
        self, query: str, k: int, *, before: Before = None, exclude: Collection[str] = ()
    ) -> list[Interaction]:
        """Return at most ``k`` interactions, best match first; ties rank the newest first.

        Args:
            query: The text to compare interactions with.
            k: Maximum number of interactions.
            before: Only interactions before this.
            exclude: Interaction ids to leave out.
        """
        ...

    def latest(
        self, n: int | None = None, *, before: Before = None, exclude: Collection[str] = ()
    ) -> list[Interaction]:
        """Return the latest ``n`` interactions (``None``: all), oldest first."""
        ...


class Retriever(Protocol):
    """Scores texts against a query. Created once for a user and extended, never rebuilt.

    Texts are numbered in the order of `extend`. Scores are only compared with each other.

    Example:
        >>> import numpy as np
        >>> class Overlap(Retriever):
        ...     def __init__(self):
        ...         self.texts = []
        ...     def extend(self, texts):
        ...         self.texts += texts
        ...     def scores(self, query):
        ...         words = set(query.split())
        ...         return np.array([len(words & set(text.split())) for text in self.texts], dtype=float)
        >>> retriever = Overlap()
        >>> retriever.extend(["red apple", "blue sky"])
        >>> retriever.scores("blue whale").tolist()
        [0.0, 1.0]
    """

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts to the index."""
        ...

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """Return one score for each text, shape ``(n,)``; higher is better."""
        ...
