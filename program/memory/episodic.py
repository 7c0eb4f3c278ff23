"""Episodic memory: what happened, in time order, searchable, append-only."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime, timezone
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
    """One user's interactions: a `program.memory.base.Memory` in the process.

    The index is built by the first search and from then on extended. ``before`` and
    ``exclude`` mask what a search may return; the retriever's statistics (BM25's idf) still come from
    the whole history. Safe to search and append from many threads. A deep copy is the same memory,
    so programs copied by an optimizer see what the user does meanwhile.

    Args:
        user_id: Whose memory this is; interactions of anybody else are refused.
        interactions: What is already known, in order of arrival.
        retrieval: A name for `program.memory.retrieval.make_retriever`, or what makes a retriever.
        indexed: The text of an interaction that a search reads.

    Raises:
        ConfigError: An interaction of another user, a timestamp without timezone, or a ``retrieval``
            that cannot be used.
    """

    def __init__(
        self,
        user_id: str,
        interactions: Iterable[Interaction] = (),
        *,
        retrieval: str | Callable[[], Retriever] = "bm25",
        indexed: Callable[[Interaction], str] = attrgetter("query"),
    ) -> None:
        # Retrieval brings numpy, which would make importing the package slow.
        from program.memory.retrieval import make_retriever

        self._user_id = user_id
        # Made now, so that a wrong name or a missing encoder is found before a model call is paid.
        self._retriever = make_retriever(retrieval) if isinstance(retrieval, str) else retrieval()
        self._text = indexed
        self._indexed = 0
        # Interactions are numbered by arrival, as the retriever numbers its texts.
        self._items: list[Interaction] = []
        self._numbers: dict[str, int] = {}
        self._in_time: list[int] = []
        self._newest_first: npt.NDArray[np.intp] | None = None
        self._lock = threading.RLock()
        for interaction in interactions:
            self.append(interaction)

    def __deepcopy__(self, memo: dict[int, Any]) -> EpisodicMemory:
        return self

    def __repr__(self) -> str:
        return f"EpisodicMemory(user_id={self._user_id!r}, interactions={len(self)})"

    @property
    def user_id(self) -> str:
        """Whose memory this is."""
        return self._user_id

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Interaction]:
        """Iterate over a snapshot in time order, oldest first."""
        return iter(self.latest())

    def get(self, interaction_id: str) -> Interaction:
        """Return one interaction.

        Raises:
            ConfigError: This memory has none of that id.
        """
        with self._lock:
            return self._items[self._number(interaction_id)]

    def append(self, interaction: Interaction) -> bool:
        """Add an interaction at its place in time.

        Returns:
            Whether it was new: an id that is already known changes nothing.

        Raises:
            ConfigError: It is another user's, or its timestamp has no timezone.
        """
        if interaction.user_id != self._user_id:
            raise ConfigError(
                f"interaction {interaction.id!r} is of user {interaction.user_id!r}, "
                f"this is the memory of {self._user_id!r}"
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
        """Return at most ``k`` interactions, best first; equal scores: the newest first.

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
            # The sort is stable: equal scores stay newest first.
            ranked = numbers[np.argsort(-scores[numbers], kind="stable")]
            return self._take(ranked.tolist(), k, exclude)

    def latest(
        self, n: int | None = None, *, before: Before = None, exclude: Collection[str] = ()
    ) -> list[Interaction]:
        """Return the latest ``n`` (``None``: all), oldest of them first.

        Raises:
            ConfigError: ``before`` is an unknown id or a time without timezone.
        """
        with self._lock:
            visible = self._in_time[: self._visible(before)]
            return self._take(visible[::-1], len(visible) if n is None else n, exclude)[::-1]

    def _take(self, numbers: Iterable[int], n: int, exclude: Collection[str]) -> list[Interaction]:
        taken: list[Interaction] = []
        for item in map(self._items.__getitem__, numbers):
            if len(taken) >= n:
                break
            if item.id not in exclude:
                taken.append(item)
        return taken

    def _time(self, number: int) -> tuple[datetime, int]:
        return self._items[number].timestamp or _UNDATED, number

    def _number(self, interaction_id: str) -> int:
        if interaction_id not in self._numbers:
            # A tool shows this to the model, and no user id may reach a prompt.
            raise ConfigError(f"this memory has no interaction {interaction_id!r}")
        return self._numbers[interaction_id]

    def _visible(self, before: Before) -> int:
        """Return how many interactions, in time order, came before ``before``."""
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
