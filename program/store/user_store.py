"""The store of all users: every call names one user and touches no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import TypeAdapter
from sqlalchemy import select

from program.errors import DataError, UnparsableAnswerError
from program.memory.interaction import Interaction
from program.memory.semantic import Profile
from program.store import alignments, interactions, personas, users
from program.store.database import Database
from program.store.records import AlignmentRow, PersonaSource, PersonaVersion, UserSummary
from program.store.schema import profiles
from program.store.upgrade import upgrade
from program.task import get_task

if TYPE_CHECKING:
    from program.memory.base import Retriever
    from program.memory.episodic import EpisodicMemory

_PAGE = 1000
_PROFILE = TypeAdapter(Profile)


class UserStore:
    """Users, interactions, profiles, persona versions and alignments, in a database.

    Each call is one transaction: when it returns, what it wrote survives a crash of the process
    and (SQLite) of the machine; when it raises, nothing was written. One store may be shared by
    threads, and one database by processes.

    Any call may raise `StoreError` where the database cannot be used, and any call that names a
    user `UnknownUserError` where there is none of that id.

    Args:
        where: A file path, or an SQLAlchemy URL of SQLite or PostgreSQL. A new SQLite file is
            readable by its owner only; its folder must exist.

    Raises:
        ConfigError: The URL is not one of a store.
        StoreError: The file is no database, another program's, or of a newer personaagent; it is
            left as it was.
    """

    def __init__(self, where: str | Path) -> None:
        self._database = Database(where)
        try:
            upgrade(self._database)
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close all connections; closing twice is harmless."""
        self._database.close()

    def __enter__(self) -> UserStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> UserStore:
        # Optimizers deep-copy programs, and with them their handles.
        return self

    def __repr__(self) -> str:
        return f"UserStore({self._database.name!r})"

    # Users

    def add_user(self, user_id: str, *, task: str) -> None:
        """Add a user; adding the same one again does nothing.

        Args:
            user_id: 1 to 256 characters, no control characters.
            task: Name of the task that the user's interactions belong to (`program.task`).

        Raises:
            StoreError: The id cannot be one, or is already stored with another task.
        """
        with self._database.write() as connection:
            users.add(connection, user_id, task)

    def users(self) -> Iterator[UserSummary]:
        """Yield all users in id order, a page at a time; those added meanwhile may be missed."""
        after = ""
        while True:
            with self._database.read() as connection:
                page = users.page(connection, after, _PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].user_id

    def user(self, user_id: str) -> UserSummary:
        """Return one user. ``stale``: interactions arrived that no persona was held against yet."""
        with self._database.read() as connection:
            return users.summary(users.get(connection, user_id))

    def forget(self, user_id: str) -> None:
        """Delete everything about a user.

        On SQLite the bytes are overwritten in the file, and in its write-ahead log as soon as no
        other reader needs it.
        """
        with self._database.write() as connection:
            users.forget(connection, user_id)
        if self._database.is_sqlite:
            self._database.pragma("wal_checkpoint(TRUNCATE)")

    # Interactions and what is read from them

    def append(self, user_id: str, new: Iterable[Interaction], *, task: str | None = None) -> int:
        """Add interactions, all or none; the profile and the persona are then stale.

        An interaction that is already stored is skipped, so a call can be repeated.

        Args:
            user_id: Whose they are; each must carry the same id.
            new: In order of arrival. It is read inside the transaction, which other writers wait
                for: pass a list where reading is slow.
            task: Add the user for this task first, where there is none of that id.

        Returns:
            How many were new.

        Raises:
            StoreError: Another user's interaction, a stored id with other content, another task,
                or text that a database cannot hold.
        """
        with self._database.write() as connection:
            if task is not None:
                users.add(connection, user_id, task)
            return interactions.append(connection, user_id, new)

    def observe(self, user_id: str, *, query: str, response: str) -> Interaction:
        """Record what a user really answered just now; the profile and the persona are then stale.

        Raises:
            DataError: ``response`` is not an answer to the user's task.
        """
        task = get_task(self.user(user_id).task)
        try:
            response = task.response_type.parse(response)
        except UnparsableAnswerError as error:
            raise DataError(f"`response`: {error}; {task.name} needs {task.response_type.hint}") from error
        interaction = Interaction(
            id=uuid4().hex,
            user_id=user_id,
            query=query,
            response=response,
            timestamp=datetime.now(timezone.utc),
        )
        self.append(user_id, [interaction])
        return interaction

    def interactions(self, user_id: str, *, latest: int | None = None) -> list[Interaction]:
        """Return the latest interactions (``None``: all), oldest of them first.

        Time order is timestamp, then arrival; those without a timestamp come first.

        Raises:
            ConfigError: ``latest`` is negative.
        """
        with self._database.read() as connection:
            return interactions.latest(connection, user_id, latest)

    def memory(self, user_id: str, retrieval: str | Callable[[], Retriever] = "bm25") -> EpisodicMemory:
        """Return the user's episodic memory as it stands now (``retrieval``: see `EpisodicMemory`)."""
        from program.memory.episodic import EpisodicMemory

        return EpisodicMemory(user_id, self.interactions(user_id), retrieval=retrieval)

    def save_profile(self, user_id: str, profile: Profile) -> None:
        """Keep the user's profile; it replaces the last one."""
        body = _PROFILE.dump_python(profile, mode="json")
        with self._database.write() as connection:
            users.get(connection, user_id, lock=True)
            users.put(connection, profiles, {"user_id": user_id}, {"profile": body})

    def profile(self, user_id: str) -> Profile | None:
        """Return the user's last profile; ``facts.interactions`` says how many it rests on."""
        with self._database.read() as connection:
            users.get(connection, user_id)
            body = connection.scalar(select(profiles.c.profile).where(profiles.c.user_id == user_id))
        return None if body is None else _PROFILE.validate_python(body)

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
        alignment_id: str | None = None,
    ) -> PersonaVersion:
        """Add a version and make it the current one.

        Args:
            user_id: Whose persona it is.
            text: The persona.
            source: What made it.
            why: The reason, in words.
            parent: The version it was made from; ``None``: the current one.
            expect_head: Write only if this is still the current version (0: there is none yet);
                ``None``: whatever is current. Pass the version you started from, and nobody's
                change is overwritten unseen.
            alignment_id: The alignment that made it.

        Raises:
            StoreError: Another version is current than ``expect_head``.
            UnknownVersionError: There is no version ``parent``.
        """
        with self._database.write() as connection:
            return personas.add(
                connection,
                user_id,
                text,
                source=source,
                why=why,
                parent=parent,
                expect_head=expect_head,
                alignment_id=alignment_id,
            )

    def persona(self, user_id: str, version: int | None = None) -> PersonaVersion | None:
        """Return a version, or the current one (``None`` where there is none yet).

        Raises:
            UnknownVersionError: There is no such version.
        """
        with self._database.read() as connection:
            head: int = users.get(connection, user_id).head
            if version is None and head == 0:
                return None
            return personas.get(connection, user_id, head if version is None else version)

    def persona_history(self, user_id: str) -> list[PersonaVersion]:
        """Return all versions, oldest first."""
        with self._database.read() as connection:
            return personas.history(connection, user_id)

    def rollback(self, user_id: str, version: int) -> PersonaVersion:
        """Make an old text current again, as a new version; nothing is deleted.

        Raises:
            UnknownVersionError: There is no such version.
        """
        with self._database.write() as connection:
            users.get(connection, user_id, lock=True)
            old = personas.get(connection, user_id, version)
            return personas.add(
                connection, user_id, old.text, source="rollback", why=f"back to version {version}"
            )

    # Alignments

    def start_alignment(self, user_id: str, config: Mapping[str, Any]) -> str:
        """Open an alignment run and return its id.

        Earlier runs of this user whose process has died are marked as interrupted.

        Args:
            user_id: Whose persona is aligned.
            config: Every setting that changes the result, as plain data.
        """
        with self._database.write() as connection:
            return alignments.start(connection, user_id, config)

    def save_step(self, user_id: str, alignment_id: str, number: int, data: Mapping[str, Any]) -> None:
        """Keep what one step of a running alignment did; the same number again replaces it.

        Raises:
            StoreError: No such alignment of this user, or it has ended.
        """
        with self._database.write() as connection:
            alignments.save_step(connection, user_id, alignment_id, number, data)

    def steps(self, user_id: str, alignment_id: str) -> list[dict[str, Any]]:
        """Return the steps of an alignment kept so far, in order.

        Raises:
            StoreError: No such alignment of this user.
        """
        with self._database.read() as connection:
            return alignments.read_steps(connection, user_id, alignment_id)

    def finish_alignment(
        self,
        user_id: str,
        alignment_id: str,
        record: Mapping[str, Any],
        persona: tuple[str, str] | None = None,
    ) -> PersonaVersion | None:
        """Close an alignment: its record, its status and its persona, all or none.

        Args:
            user_id: Whose persona was aligned.
            alignment_id: The running alignment.
            record: What happened, as plain data.
            persona: The new text and why it was kept; ``None`` where the old one stands.

        Returns:
            The new version, or ``None`` where the old one stands.

        Raises:
            StoreError: No such alignment of this user, it has ended, or there is a new persona and
                somebody else changed the persona since the alignment was started.
        """
        with self._database.write() as connection:
            return alignments.finish(connection, user_id, alignment_id, record, persona)

    def fail_alignment(self, user_id: str, alignment_id: str, error: str) -> None:
        """Close an alignment as failed.

        Raises:
            StoreError: No such alignment of this user, or it has ended.
        """
        with self._database.write() as connection:
            alignments.fail(connection, user_id, alignment_id, error)

    def alignments(self, user_id: str) -> list[AlignmentRow]:
        """Return the user's alignments, oldest first.

        One whose process has died is reported as ``interrupted``. What cannot be asked (a process
        on another host) counts as running.
        """
        with self._database.read() as connection:
            return alignments.of_user(connection, user_id)
