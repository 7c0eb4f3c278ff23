"""Episodic memory: a user's interactions, append-only and searchable."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime, timezone
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from program.errors import ConfigError
from program.memory.base import Before, Retriever
from program.memory.interaction import Interaction

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_UNDATED = datetime.min.replace(tzinfo=timezone.utc)


class EpisodicMemory:
    """One user's interactions, in memory; implements `program.memory.base.Memory`.

    The first search builds the index; later ones extend it. ``before`` and ``exclude`` filter the
    interactions that a search returns; the retriever's statistics (BM25's idf) still use the whole
    history. Thread-safe. A deep copy is the same object, so programs that an optimizer copies see
    new interactions.

    Args:
        user_id: The user; interactions of other users are rejected.
        interactions: Past interactions, in order of arrival.
        retrieval: A name for `program.memory.retrieval.make_retriever` (hybrid: words and embeddings),
            or a function that returns a retriever.
        indexed: Returns the text of an interaction that a search compares with the query.

    Raises:
        ConfigError: An interaction of another user, a timestamp without timezone, or an unknown
            ``retrieval``.
        ModelSetupError: The encoder of ``retrieval`` is not installed, or not the tested one.

    Example:
        >>> from program import Interaction
        >>> memory = EpisodicMemory("ana")
        >>> for number, (query, response) in enumerate([("Dinner?", "Soup."), ("A film?", "Alien.")]):
        ...     _ = memory.append(
        ...         Interaction(id=str(number), user_id="ana", query=query, response=response)
        ...     )
        >>> [interaction.response for interaction in memory.search("A film for today?", 1)]
        ['Alien.']
        >>> memory.latest(before="1")[0].query
        'Dinner?'
    """

    def __init__(
        self,
        user_id: str,
        interactions: Iterable[Interaction] = (),
        *,
        retrieval: str | Callable[[], Retriever] = "hybrid",
        indexed: Callable[[Interaction], str] = attrgetter("query"),
    ) -> None:
        # Retrieval brings numpy, which would make importing the package slow.
        from program.memory.retrieval import make_retriever

        self._user_id = user_id
        # Created eagerly: an unknown name or a missing encoder must fail before any model call.
        self._retriever = make_retriever(retrieval) if isinstance(retrieval, str) else retrieval()
        self._text = indexed
        self._indexed = 0
        # Interactions are numbered in order of arrival, like the retriever's texts.
        self._items: list[Interaction] = []
        self._numbers: dict[str, int] = {}
        self._in_time: list[int] = []
        self._newest_first: npt.NDArray[np.intp] | None = None
        self._lock = threading.RLock()
        for interaction in interactions:
            self.append(interaction)

    def __deepcopy__(self, memo: dict[int, Any]) -> EpisodicMemory:
        return self

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {**vars(self), "_lock": None, "_items": list(self._items), "_numbers": dict(self._numbers)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    def __repr__(self) -> str:
        return f"EpisodicMemory(user_id={self._user_id!r}, interactions={len(self)})"

    @property
    def user_id(self) -> str:
        """The user whose interactions these are."""
        return self._user_id

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Interaction]:
        """Iterate over a snapshot in time order, oldest first."""
        return iter(self.latest())

    def get(self, interaction_id: str) -> Interaction:
        """Return one interaction.

        Raises:
            ConfigError: The id is unknown.
        """
        with self._lock:
            return self._items[self._number(interaction_id)]

    def append(self, interaction: Interaction) -> bool:
        """Insert an interaction in time order.

        Returns:
            Whether its id is new; a known id changes nothing.

        Raises:
            ConfigError: It belongs to another user, or its timestamp has no timezone.
        """
        if interaction.user_id != self._user_id:
            raise ConfigError(
                f"cannot add interaction {interaction.id!r} of user {interaction.user_id!r} "
                f"to the memory of {self._user_id!r}"
            )
        if interaction.timestamp is not None:
            _require_timezone("timestamp", interaction.timestamp)
        with self._lock:
            if interaction.id in self._numbers:
                return False
            number = len(self._items)
            self._items.append(interaction)
            self._numbers[interaction.id] = number
            insort(self._in_time, number, key=self._time)
            self._newest_first = None
            return True

    def search(
        self, query: str, k: int, *, before: Before = None, exclude: Collection[str] = ()
    ) -> list[Interaction]:
        """Return at most ``k`` interactions, best match first; ties rank the newest first.

        Raises:
            ConfigError: ``before`` is an unknown id or a time without timezone.
        """
        import numpy as np

        with self._lock:
            visible = self._visible(before)
            if k <= 0 or visible == 0:
                return []
            self._index()
            scores = self._retriever.scores(query)
            numbers = self._by_newest()[len(self._items) - visible :]
            # The sort is stable, so ties keep the newest first.
            ranked = numbers[np.argsort(-scores[numbers], kind="stable")]
            return self._take(ranked.tolist(), k, exclude)

    def latest(
        self, n: int | None = None, *, before: Before = None, exclude: Collection[str] = ()
    ) -> list[Interaction]:
        """Return the latest ``n`` interactions (``None``: all), oldest first.

        Raises:
            ConfigError: ``before`` is an unknown id or a time without timezone.
        """
        with self._lock:
            visible = self._in_time[: self._visible(before)]
            return self._take(visible[::-1], len(visible) if n is None else n, exclude)[::-1]

    def _take(self, numbers: Iterable[int], n: int, exclude: Collection[str]) -> list[Interaction]:
        items = (self._items[number] for number in numbers)
        return list(islice((item for item in items if item.id not in exclude), max(n, 0)))

    def _time(self, number: int) -> tuple[datetime, int]:
        return self._items[number].timestamp or _UNDATED, number

    def _number(self, interaction_id: str) -> int:
        if interaction_id not in self._numbers:
            # A tool shows this message to the model, and a user id must not reach a prompt.
            raise ConfigError(f"this memory has no interaction {interaction_id!r}")
        return self._numbers[interaction_id]

    def _visible(self, before: Before) -> int:
        """Return the number of interactions before ``before``: a prefix of the time order."""
        if before is None:
            return len(self._items)
        if isinstance(before, str):
            limit = self._time(self._number(before))
        else:
            _require_timezone("before", before)
            limit = (before, -1)
        return bisect_left(self._in_time, limit, key=self._time)

    def _index(self) -> None:
        if self._indexed < len(self._items):
            self._retriever.extend([self._text(item) for item in self._items[self._indexed :]])
            self._indexed = len(self._items)

    def _by_newest(self) -> npt.NDArray[np.intp]:
        import numpy as np

        if self._newest_first is None:
            self._newest_first = np.array(self._in_time[::-1], dtype=np.intp)
        return self._newest_first


def _require_timezone(field: str, time: datetime) -> None:
    if time.tzinfo is None:
        raise ConfigError(f"`{field}` {time.isoformat()!r} has no timezone; give it one, UTC if unsure")
