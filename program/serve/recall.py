"""Keeps the memories of the users who are asking, so that a request does not read a whole history."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.serve.context import MAX_TOKENS, MEMORIES, UserContext, build_context, persona_lines
from program.store import UserStore
from program.store.records import PersonaVersion, UserSummary
from program.task import Task, get_task

_KEPT = 1000


@dataclass
class _Known:
    """What is kept of one user; only the thread that has the lock changes it."""

    task: Task
    memory: EpisodicMemory
    # The interaction that arrived last.
    last: Interaction | None
    version: PersonaVersion | None = None
    lines: list[str] = field(default_factory=list)
    # Of how many interactions the lines are.
    counted: int = -1
    lock: threading.RLock = field(default_factory=threading.RLock)


class Recall:
    """Reads users' memories and personas, and keeps those of the latest thousand users.

    Every read asks the store first, so that it sees what other processes wrote, and never a forgotten user.
    Threads can share it.

    Args:
        store: The users' store.
        retrieval: How memories are searched (see `program.session.open_session`).

    Example:
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     _ = store.observe("ana", query="What shall I cook?", response="Lentils.")
        ...     recall = Recall(store, retrieval="bm25")
        ...     len(recall.context("ana", "cook").memories)
        1
    """

    def __init__(self, store: UserStore, *, retrieval: str = "hybrid") -> None:
        self._store = store
        self._retrieval = retrieval
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def context(self, user_id: str, query: str = "", *, max_tokens: int = MAX_TOKENS) -> UserContext:
        """Return what to tell a model about a user; without a query, no interactions.

        Raises:
            UnknownUserError: ``user_id`` is not in the store.
        """
        known = self._current(user_id)
        with known.lock:
            lines, version, memory = known.lines, known.version, known.memory
        return build_context(
            lines,
            memory.search(query, MEMORIES) if query.strip() else [],
            persona_version=version.version if version else None,
            response_noun=known.task.response_noun,
            max_tokens=max_tokens,
        )

    def memory(self, user_id: str) -> EpisodicMemory:
        """Return the user's memory as it is now; do not change it.

        Raises:
            UnknownUserError: ``user_id`` is not in the store.
        """
        return self._current(user_id).memory

    def drop(self, user_id: str) -> None:
        """Keep nothing of a user."""
        with self._lock:
            self._known.pop(user_id, None)

    def _current(self, user_id: str) -> _Known:
        try:
            user = self._store.user(user_id)
            version = self._store.persona(user_id)
        except BaseException:
            self.drop(user_id)
            raise
        with self._lock:
            known = self._known.get(user_id)
            if known is not None:
                self._known.move_to_end(user_id)
        if known is None or not self._follow(known, user):
            known = self._read(user)
        with known.lock:
            if known.version != version or known.counted != len(known.memory):
                known.version, known.counted = version, len(known.memory)
                known.lines = persona_lines(version, known.memory.latest(), known.task)
        return known

    def _follow(self, known: _Known, user: UserSummary) -> bool:
        """Add what has arrived; return whether what is kept is the start of what is stored.

        It is not if the user was forgotten and imported again since.
        """
        with known.lock:
            arrived = len(known.memory)
            if user.interactions < arrived or user.task != known.task.name:
                return False
            rows = self._store.interactions(user.user_id, arrived_after=max(arrived - 1, 0))
            if known.last is not None:
                if known.last not in rows:
                    return False
                rows.remove(known.last)
            if user.interactions != arrived + len(rows):
                return False
            if rows:
                for item in rows:
                    known.memory.append(item)
                known.last = self._last(user.user_id, len(known.memory))
            return len(known.memory) == user.interactions

    def _last(self, user_id: str, arrived: int) -> Interaction | None:
        """Return the interaction that arrived at a place, counted from 1."""
        rows = self._store.interactions(user_id, arrived_after=arrived - 1) if arrived else []
        later = self._store.interactions(user_id, arrived_after=arrived) if len(rows) > 1 else []
        return next((row for row in rows if row not in later), None)

    def _read(self, user: UserSummary) -> _Known:
        items = self._store.interactions(user.user_id)
        known = _Known(
            task=get_task(user.task),
            memory=EpisodicMemory(user.user_id, items, retrieval=self._retrieval),
            last=self._last(user.user_id, len(items)),
        )
        with self._lock:
            self._known[user.user_id] = known
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return known
