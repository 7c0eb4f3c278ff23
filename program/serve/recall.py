"""Keeps the memories of the users who are asking, so that a request does not read a whole history."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from program.memory.episodic import EpisodicMemory
from program.serve.context import MAX_TOKENS, MEMORIES, UserContext, build_context, persona_lines
from program.store import UserStore
from program.store.heads import UserHead
from program.store.records import PersonaVersion
from program.task import Task, get_task

_KEPT = 1000


@dataclass
class _Known:
    """What is kept of one user; only the thread that has the lock changes it."""

    # What is kept is of this state, or of a later one: then the next request reads again.
    head: UserHead
    task: Task
    memory: EpisodicMemory
    version: PersonaVersion | None
    lines: list[str]
    lock: threading.RLock = field(default_factory=threading.RLock)


class Recall:
    """Reads users' memories and personas, and keeps those of the latest thousand users.

    Every read asks the store first, in one statement, so that it sees what other processes wrote, and never
    a forgotten user. If anything of anyone was forgotten since, all that is kept goes. Threads can share it.

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
        self._audited_at = ""
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
            head = self._store.head(user_id)
        except BaseException:  # who cannot be read, for whatever reason, is not served from memory either
            self.drop(user_id)
            raise
        with self._lock:
            if head.audited_at != self._audited_at:
                self._known.clear()
                self._audited_at = head.audited_at
            known = self._known.get(user_id)
            if known is not None:
                self._known.move_to_end(user_id)
        if known is not None:
            with known.lock:
                if known.head == head or self._follow(known, head):
                    return known
        return self._read(head)

    def _follow(self, known: _Known, head: UserHead) -> bool:
        """Add what has arrived; return whether what is kept is the start of what is stored.

        It is not if the user was forgotten and imported again since.
        """
        arrived = len(known.memory)
        if (known.head.added_at, known.head.task) != (head.added_at, head.task):
            return False
        if arrived != known.head.interactions or head.interactions < arrived:
            return False
        if head.interactions > arrived:
            rows = self._store.interactions(head.user_id, arrived_after=max(arrived - 1, 0))
            new = [row for row in rows if row.id != known.head.last_id]
            if len(rows) - len(new) != min(arrived, 1) or arrived + len(new) != head.interactions:
                return False
            for item in new:
                known.memory.append(item)
        elif head.last_id != known.head.last_id:
            return False
        known.version = self._store.persona(head.user_id)
        known.lines = persona_lines(known.version, known.memory.latest(), known.task)
        known.head = head
        return True

    def _read(self, head: UserHead) -> _Known:
        items = self._store.interactions(head.user_id)
        task, version = get_task(head.task), self._store.persona(head.user_id)
        known = _Known(
            head=head,
            task=task,
            memory=EpisodicMemory(head.user_id, items, retrieval=self._retrieval),
            version=version,
            lines=persona_lines(version, items, task),
        )
        with self._lock:
            # Else something may have been forgotten meanwhile, and it could be this.
            if head.audited_at == self._audited_at:
                self._known[head.user_id] = known
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return known
