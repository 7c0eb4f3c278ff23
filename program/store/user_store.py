"""`UserStore`, the facade of the store.

Each method reads or changes one user, but `users`, `last_tries`, `total_costs` and `monthly_costs`, which
return ids, times and numbers, and `trials`, which returns numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, select

from program.errors import ConfigError, DataError, StoreError, UnparsableAnswerError
from program.memory.interaction import Interaction
from program.memory.semantic import Profile
from program.store import (
    alignments,
    costs,
    erasers,
    forgetting,
    heads,
    interactions,
    personas,
    tombstones,
    users,
)
from program.store.checks import check_cohort, check_trials
from program.store.damage import advice
from program.store.database import Database
from program.store.erasers import Receipt
from program.store.heads import UserHead
from program.store.pool import PoolSettings
from program.store.records import (
    AlignmentRow,
    AlignmentStatus,
    AuditEntry,
    PersonaSource,
    PersonaVersion,
    UserCost,
    UserSummary,
)
from program.store.schema import profiles
from program.store.upgrade import upgrade
from program.task import Task, get_task, task_spec

if TYPE_CHECKING:
    from program.memory.base import Retriever
    from program.memory.episodic import EpisodicMemory
    from program.usage import Usage

_PAGE = 1000
_FARTHEST_ZONE = timedelta(hours=14)
"""No local time is farther ahead of UTC."""

_PROFILE = TypeAdapter(Profile)


class UserStore:
    """Stores users, interactions, profiles, persona versions and alignments in a database.

    Each method is one transaction. If it returns, its writes survive a crash of the process and, on
    SQLite, of the machine. If it raises, nothing is written. Threads can share a store, and processes
    a database.

    Every method raises `StoreError` if the database cannot be used, and `UnknownUserError` if its
    ``user_id`` is not stored.

    On PostgreSQL a write that conflicts with another one is run again, and a connection that the server
    cannot give now is asked for again (`program.store.retries`); if that never helps, the error is
    `StoreUnavailableError`.

    Args:
        location: A file path, or an SQLAlchemy URL of SQLite or PostgreSQL (the extra ``postgres``). A new
            SQLite file is readable by its owner only; its folder must exist.
        pool_size: How many connections stay open between uses, 1 to 10,000; by default 16 on SQLite, 5 on
            PostgreSQL. All stores together need fewer than the server's ``max_connections``.
        max_overflow: How many more may be open at once, 0 to 10,000, or -1 for any number; by default any
            number on SQLite, 10 on PostgreSQL.
        pool_timeout: Seconds to wait for a connection if all are in use, or if the server has none to give,
            above 0 and at most 3600.

    Raises:
        ConfigError: The URL is invalid or names an unsupported database, its driver is missing, or a number
            is out of range.
        StoreError: The file is not a database, belongs to another program, or needs a newer
            personaagent. It is not changed.

    Example:
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     _ = store.observe("ana", query="What shall I cook?", response="Lentils.")
        ...     [interaction.response for interaction in store.interactions("ana")]
        ['Lentils.']
    """

    def __init__(
        self,
        location: str | Path,
        *,
        pool_size: int | None = None,
        max_overflow: int | None = None,
        pool_timeout: float = 30.0,
    ) -> None:
        pool = PoolSettings(size=pool_size, overflow=max_overflow, timeout=pool_timeout)
        self._database = Database(location, pool)
        try:
            upgrade(self._database)
        except BaseException:  # an interrupt, too, must close the database
            self._database.close()
            raise

    def close(self) -> None:
        """Close all connections; closing twice is harmless."""
        self._database.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._database.closed

    def __enter__(self) -> UserStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> UserStore:
        # Optimizers deep-copy agents; the copies share the store.
        return self

    def __reduce__(self) -> Any:
        """Let a process that gets the store open it again; a URL with a password must not be pickled."""
        if not self._database.is_sqlite:
            raise TypeError("a store of a database server cannot be pickled; open it again by its URL")
        pool = self._database.pool
        opened = partial(
            type(self), pool_size=pool.size, max_overflow=pool.overflow, pool_timeout=pool.timeout
        )
        return opened, (self._database.name,)

    def __repr__(self) -> str:
        return f"UserStore({self._database.name!r})"

    # Users

    def add_user(self, user_id: str, *, task: str | Task) -> None:
        """Add a user; do nothing if the user is already stored with this task.

        Args:
            user_id: 1 to 256 characters, without control characters and others that nobody can see.
            task: An installed task or its name, or ``module:TASK`` (`program.task`).

        Raises:
            UnknownTaskError: The task cannot be loaded.
            ConfigError: The task could not be found again (`program.task.task_spec`).
            StoreError: The id is invalid, or is stored with another task.
        """
        spec = task_spec(task)
        self._database.change(lambda connection: users.add(connection, user_id, spec))

    def users(self) -> Iterator[UserSummary]:
        """Yield all users in id order. Users added during the iteration may be missing."""
        after = ""
        while True:
            with self._database.read() as connection:
                page = users.page(connection, after, _PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].user_id

    def user(self, user_id: str) -> UserSummary:
        """Return one user."""
        with self._database.read() as connection:
            return users.summary(users.get(connection, user_id))

    def head(self, user_id: str) -> UserHead:
        """Return what is newest of a user: the cheapest way to know whether anything has changed.

        Example:
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     before = store.head("ana")
            ...     _ = store.observe("ana", query="What shall I cook?", response="Lentils.")
            ...     before == store.head("ana"), store.head("ana").interactions
            (False, 1)
        """
        while True:
            with self._database.read_once() as connection:
                if (head := heads.read(connection, user_id)) is not None:
                    return head
            self.user(user_id)  # raises, unless the user was added just now

    # Forgetting

    def forget(
        self,
        user_id: str,
        *,
        home: Path | None = None,
        actor: str = "python",
        also: Sequence[str | Path] = (),
    ) -> Receipt:
        """Delete a user with everything that is kept anywhere; a hash keeps an import from bringing it back.

        First the store, in one transaction; then traces, cached answers (all of them: they do not say whom
        they are about) and the steps of the fleet. A call that was interrupted is repeated and goes on. Users
        of whom only traces are left can be forgotten, too.

        On SQLite the file is rewritten and its log emptied. On PostgreSQL `compact` does that, later, for all
        users at once.

        Args:
            user_id: The user.
            home: The data directory; ``None`` for `program.home.home`.
            actor: Who asked for it, for the audit log.
            also: Run folders of evaluations, which lose the user's records and the reports on them.

        Raises:
            ConfigError: ``also`` names something else; nothing was forgotten.
            UnknownUserError: There is nothing about the user anywhere.
            StoreError: Something outside the store could not be deleted; the message says what to do.

        Example:
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     _ = store.forget("ana")
            ...     store.add_user("ana", task="free-text")
            Traceback (most recent call last):
            ...
            program.errors.ForgottenUserError: user 'ana' was forgotten and does not come back by itself; ...
        """
        return erasers.forget_user(self, self._database, user_id, home=home, actor=actor, also=also)

    def forget_interactions(
        self,
        user_id: str,
        interaction_ids: Collection[str],
        *,
        home: Path | None = None,
        actor: str = "python",
        also: Sequence[str | Path] = (),
    ) -> Receipt:
        """Delete interactions and everything that rests on them or may quote them.

        Persona versions lose the learned lines that rest on them, and their facts are counted again. Versions
        written freely, the profile, the records of all alignments, the user's traces, the cached answers and
        the steps of the fleet are deleted. A new persona version is made from what remains. No import brings
        the interactions back. It can be repeated.

        Args:
            user_id: The user.
            interaction_ids: The ids of the interactions.
            home: As for `forget`, like the next two.
            actor: Who asked for it.
            also: Run folders; all of the user's records in them go, because each may quote any interaction.

        Raises:
            ConfigError: As for `forget`.
            UnknownInteractionError: The user has no such interaction, and none with this id was forgotten.
            StoreError: As for `forget`.

        Example:
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     secret = store.observe("ana", query="Where do I live?", response="In Rome.")
            ...     _ = store.observe("ana", query="Which tea?", response="Mint.")
            ...     _ = store.forget_interactions("ana", [secret.id])
            ...     [interaction.response for interaction in store.interactions("ana")]
            ['Mint.']
        """
        return erasers.forget_interactions(
            self, self._database, user_id, interaction_ids, home=home, actor=actor, also=also
        )

    def readmit(self, user_id: str, *, actor: str = "python") -> bool:
        """Let a forgotten user be added again; forgotten interactions stay forgotten.

        Returns:
            Whether the user was forgotten.

        Example:
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     _ = store.forget("ana")
            ...     store.readmit("ana")
            ...     store.add_user("ana", task="free-text")
            True
        """

        def admit(connection: Connection) -> bool:
            if not tombstones.readmit(connection, user_id):
                return False
            forgetting.log(connection, "readmit", user_id, actor, {})
            return True

        return self._database.change(admit)

    def audit(self) -> list[AuditEntry]:
        """Return who had what forgotten or corrected and when, oldest first; without content and user ids.

        Example:
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     _ = store.forget("ana", actor="support desk")
            ...     [(entry.action, entry.actor, entry.details["users"]) for entry in store.audit()]
            [('forget user', 'support desk', 1)]
        """
        with self._database.read() as connection:
            return forgetting.read_log(connection)

    def compact(self, *, wait: float = 10.0) -> str:
        """Rewrite the tables without the bytes of deleted rows.

        Takes time in proportion to the size of the store and, for a moment, the space of a second one. On
        PostgreSQL each table is locked meanwhile.

        Args:
            wait: Seconds to wait for other connections, 0 or more.

        Returns:
            Why some bytes may be left; empty if none are.

        Example:
            >>> with UserStore("users.db") as store:
            ...     store.compact()
            ''
        """
        return self._database.compact(wait=wait)

    # Interactions and profiles

    def append(self, user_id: str, new: Iterable[Interaction], *, task: str | Task | None = None) -> int:
        """Add interactions, all or none. New ones make the profile and the persona stale.

        Stored interactions are skipped, so a call can be repeated.

        Args:
            user_id: The user of all interactions.
            new: The interactions, in order of arrival. Iterated inside the transaction, while other
                writers wait: pass a list if reading is slow. An iterator can be read once, so that its
                transaction is never run again.
            task: Add a missing user with this task first (see `add_user`).

        Returns:
            The number of new interactions.

        Raises:
            StoreError: An interaction belongs to another user, has a stored id with other content, or
                has invalid text; or the user is stored with another task.
        """
        spec = None if task is None else task_spec(task)

        def add(connection: Connection) -> int:
            if spec is not None:
                users.add(connection, user_id, spec)
            return interactions.append(connection, user_id, new)

        return self._database.change(add, again=isinstance(new, Collection))

    def append_many(self, new: Mapping[str, Sequence[Interaction]], *, task: str | Task) -> int:
        """Add interactions of several users in one transaction, all or none; missing users are added.

        It stores thousands of rows about ten times as fast as `append` for each user. Other writers
        wait until it is done: some thousand interactions at once are enough.

        Args:
            new: Each user's interactions, in order of arrival.
            task: The users' task (see `add_user`).

        Returns:
            The number of new interactions.

        Raises:
            StoreError: As `append`, for any of the users.

        Example:
            >>> from program import Interaction
            >>> new = {
            ...     name: [Interaction(id="1", user_id=name, query="What shall I cook?", response="Lentils.")]
            ...     for name in ("ana", "ben")
            ... }
            >>> with UserStore("users.db") as store:
            ...     store.append_many(new, task="free-text"), store.append_many(new, task="free-text")
            (2, 0)
        """
        spec = task_spec(task)
        return self._database.change(lambda connection: interactions.append_many(connection, new, spec))

    def observe(self, user_id: str, *, query: str, response: str) -> Interaction:
        """Store the user's true response to a query, with the current time and a new id.

        It is the latest interaction also if imported local times without a timezone lie in the future:
        then its time is just after the last of those. The profile and the persona are then stale.

        Raises:
            DataError: ``response`` is not a valid answer for the user's task.
        """
        task = get_task(self.user(user_id).task)
        try:
            response = task.response_type.parse(response)
        except UnparsableAnswerError as error:
            raise DataError(f"`response`: {error}; {task.name} needs {task.response_type.hint}") from error
        newest = next((item.timestamp for item in self.interactions(user_id, latest=1)), None)
        interaction = Interaction(
            id=uuid4().hex,
            user_id=user_id,
            query=query,
            response=response,
            timestamp=_now_after(newest),
        )
        self.append(user_id, [interaction])
        return interaction

    def interactions(
        self, user_id: str, *, latest: int | None = None, arrived_after: int = 0
    ) -> list[Interaction]:
        """Return interactions in time order: by timestamp, then by arrival; undated ones first.

        Args:
            user_id: The user.
            latest: Return only this many of the latest; ``None`` for all.
            arrived_after: Leave out this many of the first ones that arrived; a reader that has read
                them gets only new ones.

        Raises:
            ConfigError: ``latest`` is negative.
        """
        with self._database.read_once() as connection:
            return interactions.latest(connection, user_id, latest, arrived_after)

    def memory(self, user_id: str, retrieval: str | Callable[[], Retriever] = "hybrid") -> EpisodicMemory:
        """Return a memory with the user's current interactions (``retrieval``: see `EpisodicMemory`)."""
        from program.memory.episodic import EpisodicMemory

        return EpisodicMemory(user_id, self.interactions(user_id), retrieval=retrieval)

    def save_profile(self, user_id: str, profile: Profile) -> None:
        """Store the user's profile and replace the previous one."""
        body = _PROFILE.dump_python(profile, mode="json")

        def save(connection: Connection) -> None:
            users.get(connection, user_id, lock=True)
            users.put(connection, profiles, {"user_id": user_id}, {"profile": body})

        self._database.change(save)

    def profile(self, user_id: str) -> Profile | None:
        """Return the stored profile, or ``None``; ``facts.interactions`` is the number it summarizes."""
        with self._database.read() as connection:
            users.get(connection, user_id)
            body = connection.scalar(select(profiles.c.profile).where(profiles.c.user_id == user_id))
        try:
            return None if body is None else _PROFILE.validate_python(body)
        except ValidationError as error:
            reason = f"the profile of user {user_id!r} cannot be read"
            raise StoreError(
                advice(self._database.name, reason, is_sqlite=self._database.is_sqlite)
            ) from error

    # Persona versions

    def add_persona(
        self,
        user_id: str,
        text: str,
        *,
        source: PersonaSource,
        why: str,
        parent: int | None = None,
        expect_head: int | None = None,
        settled: int | None = None,
        alignment_id: str | None = None,
        parts: Mapping[str, Any] | None = None,
    ) -> PersonaVersion:
        """Add a version and make it the current one.

        An edit or a rollback leaves a stale user stale: the new interactions are still not learned from.

        Args:
            user_id: The user.
            text: The persona.
            source: The kind of change.
            why: The reason for the change, in words.
            parent: The version that the text was rewritten from; ``None`` for the current one.
            expect_head: Write only if this version is still current (0: no version yet); ``None``
                always writes. Pass the version you started from to avoid overwriting another change.
            settled: How many interactions the text accounts for; they no longer make the user stale.
                ``None``: all that are stored if the source is ``initial`` or ``alignment``, else none.
            alignment_id: The alignment that wrote the text.
            parts: The parts behind the text, as JSON data. Lines without an origin get this version.

        Raises:
            PinnedPersonaError: A version is pinned.
            StoreError: ``expect_head`` is not the newest version, or ``parts`` is not JSON data.
            UnknownVersionError: ``parent`` does not exist.
        """

        def add(connection: Connection) -> PersonaVersion:
            learned = settled
            if learned is None:
                learns = source in ("initial", "alignment")
                learned = users.get(connection, user_id, lock=True).interactions if learns else 0
            return personas.add(
                connection,
                user_id,
                text,
                source=source,
                why=why,
                parent=parent,
                expect_head=expect_head,
                settled=learned,
                alignment_id=alignment_id,
                parts=parts,
            )

        return self._database.change(add)

    def persona(self, user_id: str, version: int | None = None) -> PersonaVersion | None:
        """Return a persona version, by default the current one; ``None`` if the user has no persona.

        The current one is the version that is pinned, or else the newest.

        Raises:
            UnknownVersionError: ``version`` does not exist.
        """
        if version is None:
            with self._database.read_once() as connection:
                return personas.current(connection, user_id)
        with self._database.read() as connection:
            users.get(connection, user_id)
            return personas.get(connection, user_id, version)

    def persona_history(self, user_id: str) -> list[PersonaVersion]:
        """Return all versions, oldest first."""
        with self._database.read() as connection:
            return personas.history(connection, user_id)

    def correct(
        self,
        user_id: str,
        *,
        line: str | int | None = None,
        text: str | None = None,
        why: str = "",
        actor: str = "python",
    ) -> PersonaVersion:
        """Add a version with a correction of the person, which no later version undoes.

        Alignment with any preset, edits, rewrites and rollbacks keep the person's own lines, and bring back
        nothing that the person took out; another correction can. The audit log notes it.

        Args:
            user_id: The user. Without a persona, it begins with this correction.
            line: The line to replace or take out: its text, or its number in
                `program.corrections.list_lines`, from 1. ``None`` adds a line.
            text: What the person says instead, 1 to 240 characters; ``None`` takes ``line`` out.
            why: The reason, in words; it is shown with the version.
            actor: Who asked for it, for the audit log.

        Raises:
            DataError: There is no such line, or the text cannot be one.
            PinnedPersonaError: A version is pinned.

        Example:
            >>> from program import Persona
            >>> learned = Persona().with_line("Likes heists.", ["7"])
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     _ = store.add_persona("ana", "...", source="edit", why="w", parts=learned.as_dict())
            ...     print(store.correct("ana", line="Likes heists.", text="Likes old comedies."))
            ...     rewrite = store.add_persona("ana", "Likes heists. Be brief.", source="edit", why="w")
            v2 of 'ana' (correction, from v1): the person replaced a line
            >>> print(rewrite.text)
            Be brief.
            <BLANKLINE>
            What this user says, which counts most:
            - Likes old comedies.
        """

        def add(connection: Connection) -> PersonaVersion:
            version = personas.correct(connection, user_id, line=line, text=text, why=why)
            details = {"persona version": version.version}
            forgetting.log(connection, "correct persona", user_id, actor, details)
            return version

        return self._database.change(add)

    def rollback(self, user_id: str, version: int) -> PersonaVersion:
        """Add a new version with the text and parts of an older one; nothing is deleted.

        A stale user stays stale. What the person corrected since then stays corrected, and `why` says so.

        Raises:
            PinnedPersonaError: A version is pinned.
            UnknownVersionError: ``version`` does not exist.
        """

        def add(connection: Connection) -> PersonaVersion:
            user = users.get(connection, user_id, lock=True)
            old = personas.get(connection, user_id, version)
            text, parts = personas.with_corrections(connection, user, old.text, old.parts)
            kept = "" if (text, parts) == (old.text, old.parts) else ", with what the person corrected since"
            return personas.add(
                connection,
                user_id,
                text,
                source="rollback",
                why=f"back to version {version}{kept}",
                parts=parts,
                has_corrections=True,
            )

        return self._database.change(add)

    def restore(
        self,
        user_id: str,
        versions: Sequence[PersonaVersion],
        *,
        profile: Profile | None = None,
        pinned: int | None = None,
        stale: bool = False,
        stale_since: datetime | None = None,
    ) -> bool:
        """Take over the profile and the persona versions of an export; `import_users` does it.

        Args:
            user_id: A stored user, with the interactions of the export.
            versions: In rising order, with their numbers; each parent is one of them.
            profile: The profile; ``None`` for none.
            pinned: The version to pin.
            stale: Whether there is something to learn.
            stale_since: Since when.

        Returns:
            Whether it was done; it is not if the user has a persona or a profile already.

        Example:
            >>> with UserStore("users.db") as store, UserStore("other.db") as other:
            ...     store.add_user("ana", task="free-text")
            ...     other.add_user("ana", task="free-text")
            ...     _ = store.add_persona("ana", "Be brief.", source="edit", why="she said so")
            ...     print(other.restore("ana", store.persona_history("ana")), other.persona("ana"))
            True v1 of 'ana' (edit): she said so
        """
        body = None if profile is None else _PROFILE.dump_python(profile, mode="json")

        def add(connection: Connection) -> bool:
            user = users.get(connection, user_id, lock=True)
            query = select(profiles.c.user_id).where(profiles.c.user_id == user_id)
            if user.head or connection.scalar(query) is not None:
                return False
            if versions:
                personas.restore(connection, user_id, versions, pinned)
            if body is not None:
                users.put(connection, profiles, {"user_id": user_id}, {"profile": body})
            if not stale:
                users.settle(connection, user, user.interactions, users.now())
            elif stale_since is not None:
                users.change(connection, user_id, stale_since=stale_since)
            return True

        return self._database.change(add)

    def approve(self, user_id: str, version: int) -> PersonaVersion:
        """Keep the current version because a person approved it, as a new version with its text and parts.

        A provisional version is then tested no further, and no later interaction rolls it back by itself.

        Raises:
            PinnedPersonaError: A version is pinned.
            StoreError: ``version`` is not the current one.
            UnknownVersionError: ``version`` does not exist.

        Example:
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     _ = store.add_persona("ana", "Be brief.", source="edit", why="a try")
            ...     print(store.approve("ana", 1))
            v2 of 'ana' (approval, from v1): version 1 approved by a person
        """
        return self._database.change(lambda connection: personas.approve(connection, user_id, version))

    def pin(self, user_id: str, version: int) -> PersonaVersion:
        """Keep a version as the current one until `unpin`; return it.

        Agents use it, and no alignment, edit or rollback replaces it: they raise `PinnedPersonaError`, also
        an alignment that was running when the version was pinned. Pinning another version replaces the pin.

        Raises:
            StoreError: The version lacks what the person corrected since.
            UnknownVersionError: ``version`` does not exist.

        Example:
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     for text in ("Be brief.", "Be exact."):
            ...         _ = store.add_persona("ana", text, source="edit", why="a try")
            ...     _ = store.pin("ana", 1)
            ...     print(store.persona("ana").text)
            ...     store.add_persona("ana", "Be kind.", source="edit", why="a try")
            Traceback (most recent call last):
            program.errors.PinnedPersonaError: the persona of user 'ana' is pinned at version 1 ...
        """
        return self._database.change(lambda connection: personas.pin(connection, user_id, version))

    def unpin(self, user_id: str) -> PersonaVersion | None:
        """Let the persona change again, and return the current version, which is the newest one.

        Without a pinned version nothing changes. To go on from an older version, roll back to it.

        Example:
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     version = store.add_persona("ana", "Be brief.", source="edit", why="a try")
            ...     _ = store.pin("ana", version.version)
            ...     print(store.user("ana"))
            ...     print(store.unpin("ana"))
            'ana' (free-text): 0 interactions, persona v1 (pinned)
            v1 of 'ana' (edit): a try
        """
        return self._database.change(lambda connection: personas.unpin(connection, user_id))

    # Costs

    def record_answer(self, user_id: str, usage: Usage) -> None:
        """Add what an answer cost to the user's current month. `finish_alignment` adds alignments itself.

        Args:
            user_id: The user.
            usage: What the calls cost, as from `UsageTracker.total`.

        Example:
            >>> from program import Usage
            >>> usage = Usage(calls=1, input_tokens=600, output_tokens=20, usd=0.0002)
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     for _ in range(2):
            ...         store.record_answer("ana", usage)
            ...     [(cost.answers, cost.calls, cost.tokens, cost.price) for cost in store.costs("ana")]
            [(2, 2, 1240, '$0.0004')]
        """

        def add(connection: Connection) -> None:
            users.get(connection, user_id, lock=True)
            costs.add(connection, user_id, users.now(), answers=1, **costs.amounts(usage))

        self._database.change(add)

    def costs(self, user_id: str) -> list[UserCost]:
        """Return what a user cost and how well the agent did, by month, oldest first.

        Alignments count in the month in which they end. Alignments of a store of version 0.1 count too.

        Example:
            >>> record = {
            ...     "usage": {"simulate": {"calls": 3, "input_tokens": 900, "usd": 0.0003}},
            ...     "steps": [{"simulations": [{"score": 1.0}, {"score": 0.0}, {"score": None}]}],
            ... }
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     run = store.start_alignment("ana", {})
            ...     _ = store.finish_alignment("ana", run, record)
            ...     [(cost.alignments, cost.calls, cost.price, cost.agreement) for cost in store.costs("ana")]
            [(1, 3, '$0.0003', 0.5)]
        """
        with self._database.read() as connection:
            users.get(connection, user_id)
            return costs.of_user(connection, user_id)

    def cost(self, user_id: str) -> UserCost:
        """Return what a user cost in all; see `costs`."""
        return costs.total(self.costs(user_id), user_id)

    def total_costs(self) -> Iterator[UserCost]:
        """Yield what each user cost in all, in id order; users that cost nothing are left out.

        Example:
            >>> from program import Usage
            >>> with UserStore("users.db") as store:
            ...     for user_id in ("ana", "ben"):
            ...         store.add_user(user_id, task="free-text")
            ...     store.record_answer("ben", Usage(calls=1, input_tokens=600, output_tokens=20, usd=0.0002))
            ...     print(*store.total_costs())
            'ben': 0 alignments, 1 answer, 1 call, 620 tokens, $0.0002
        """
        after = ""
        while True:
            with self._database.read() as connection:
                page = costs.page_by_user(connection, after, _PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].user_id or ""

    def monthly_costs(self) -> list[UserCost]:
        """Return what all users together cost, and how well their agents did, by month, oldest first.

        It returns sums alone. What was recorded of a forgotten user is forgotten too.

        Example:
            >>> from program import Usage
            >>> with UserStore("users.db") as store:
            ...     for user_id in ("ana", "ben"):
            ...         store.add_user(user_id, task="free-text")
            ...         store.record_answer(user_id, Usage(calls=1, input_tokens=600, usd=0.0002))
            ...     [(cost.user_id, cost.answers, cost.price) for cost in store.monthly_costs()]
            [(None, 2, '$0.0004')]
        """
        with self._database.read() as connection:
            return costs.by_month(connection)

    # Alignments

    def start_alignment(self, user_id: str, config: Mapping[str, Any]) -> str:
        """Start an alignment run and return its id.

        Earlier runs of this user are marked as interrupted if their process is dead.

        Args:
            user_id: The user.
            config: Every setting that changes the result, as JSON data.

        Raises:
            PinnedPersonaError: A version is pinned.
        """
        return self._database.change(lambda connection: alignments.start(connection, user_id, config))

    def save_step(self, user_id: str, alignment_id: str, number: int, data: Mapping[str, Any]) -> None:
        """Store one step of a running alignment; an existing step with this number is replaced.

        Raises:
            StoreError: The user has no such alignment, or it has ended.
        """
        self._database.change(
            lambda connection: alignments.save_step(connection, user_id, alignment_id, number, data)
        )

    def steps(self, user_id: str, alignment_id: str) -> list[dict[str, Any]]:
        """Return the stored steps of an alignment, in order.

        Raises:
            StoreError: The user has no such alignment.
        """
        with self._database.read() as connection:
            return alignments.read_steps(connection, user_id, alignment_id)

    def finish_alignment(
        self,
        user_id: str,
        alignment_id: str,
        record: Mapping[str, Any],
        persona: tuple[str, str] | None = None,
        *,
        parts: Mapping[str, Any] | None = None,
        trials: Sequence[tuple[float, float]] = (),
        cohort: str = "",
        cost: Usage | None = None,
        last_steps: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> PersonaVersion | None:
        """End an alignment and store its record, status, persona, trials and cost, all or none.

        Args:
            user_id: The user.
            alignment_id: The running alignment.
            record: The finished run, as JSON data.
            persona: The new text and the reason for it; ``None`` keeps the current persona.
            parts: The parts behind the new text; not stored without a new persona.
            trials: Gains and losses of each candidate that was tested. Other users' alignments read them
                (see `trials`).
            cohort: What the trials can be compared by: task, model and settings, but nothing of the user.
            cost: What was paid and is not recorded yet; ``None`` for what the record says under ``usage``.
            last_steps: Steps by number that `save_step` has not stored.

        Returns:
            The new version, or ``None`` if the current persona is kept.

        Raises:
            ConfigError: A trial is not two numbers of 0 or more, or there are trials without a cohort.
            PinnedPersonaError: There is a new persona, and a version was pinned since the alignment started.
            StoreError: The user has no such alignment, it has ended, or there is a new persona and the
                stored one changed since the alignment started.
        """
        check_trials(trials, cohort)
        return self._database.change(
            lambda connection: alignments.finish(
                connection,
                user_id,
                alignment_id,
                record,
                persona,
                parts=parts,
                trials=trials,
                cohort=cohort,
                cost=cost,
                last_steps=last_steps,
            )
        )

    def trials(self, cohort: str, *, excluding: str, limit: int = 2000) -> list[tuple[float, float]]:
        """Return the gains and losses of other users' candidates, newest first: numbers alone.

        It is the only read that spans users. It returns no id, text or time, so nothing that a user wrote
        can get from one user to another; it can show how well alignment worked for others, and in a store
        of two users for the other one. It never returns a number of ``excluding``, whose own trials must
        not decide what is expected of them, or of a forgotten user.

        Args:
            cohort: As in `finish_alignment`.
            excluding: A user whose trials are left out.
            limit: At most this many.

        Raises:
            ConfigError: ``cohort`` is empty, too long or invalid text, or ``limit`` is negative.
        """
        check_cohort(cohort)
        if limit < 0:
            raise ConfigError(f"`limit` must be 0 or more, got {limit!r}")
        with self._database.read() as connection:
            return alignments.read_trials(connection, cohort, excluding, limit)

    def fail_alignment(
        self,
        user_id: str,
        alignment_id: str,
        error: str,
        *,
        usage: Mapping[str, Usage] | None = None,
        cost: Usage | None = None,
    ) -> None:
        """End an alignment as failed.

        Args:
            user_id: The user.
            alignment_id: The running alignment.
            error: One line.
            usage: What its calls cost, by stage; stored as the only part of its record.
            cost: What was paid and is not recorded yet; ``None`` for the sum of ``usage``.

        Raises:
            StoreError: The user has no such alignment, or it has ended.
        """
        self._database.change(
            lambda connection: alignments.fail(connection, user_id, alignment_id, error, usage or {}, cost)
        )

    def interrupt_alignments(self, user_id: str, *, since: datetime) -> None:
        """End a user's running alignments as interrupted.

        Args:
            user_id: The user.
            since: Those that started at this time or later. The caller knows that their processes have
                ended, such as by a lock that ends with them; without that, `alignments` tells it for
                processes of this host alone.
        """
        self._database.change(lambda connection: alignments.interrupt(connection, user_id, since))

    def alignments(self, user_id: str) -> list[AlignmentRow]:
        """Return the user's alignments, oldest first.

        A run of a dead process has the status ``interrupted``. A process on another host cannot be
        checked and counts as running.
        """
        with self._database.read() as connection:
            return alignments.history(connection, user_id)

    def last_tries(self, user_ids: Iterable[str]) -> dict[str, tuple[UserSummary, datetime | None]]:
        """Return several users, each with when the newest of its alignments that ended started.

        Args:
            user_ids: Stored users.

        Returns:
            By user id, in the order of ``user_ids``; ``None`` instead of a time if no alignment has ended,
            well or with an error.

        Raises:
            UnknownUserError: A user is not in the store.

        Example:
            >>> with UserStore("users.db") as store:
            ...     store.add_user("ana", task="free-text")
            ...     [(user.interactions, time) for user, time in store.last_tries(["ana"]).values()]
            [(0, None)]
        """
        tries: dict[str, tuple[UserSummary, datetime | None]] = {}
        ids = iter(user_ids)
        while page := list(islice(ids, _PAGE)):
            with self._database.read() as connection:
                rows = users.get_many(connection, page)
                times = alignments.last_tries(connection, page)
            tries |= {user_id: (users.summary(rows[user_id]), times.get(user_id)) for user_id in page}
        return tries

    def latest_alignment(self, user_id: str, status: AlignmentStatus = "done") -> AlignmentRow | None:
        """Return the user's newest alignment with this status, or ``None`` (see `alignments`)."""
        with self._database.read() as connection:
            return alignments.latest(connection, user_id, status)


def _now_after(newest: datetime | None) -> datetime:
    """Return the current time, or the moment after ``newest`` if that may be a local time read as UTC."""
    now = datetime.now(timezone.utc)
    if newest is not None and now < newest < now + _FARTHEST_ZONE:
        return newest + timedelta(microseconds=1)
    return now
