"""A pinned persona stays, whoever writes; and since when a user is stale."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest

from program.errors import PinnedPersonaError, StoreError, UnknownUserError, UnknownVersionError
from program.memory.interaction import Interaction
from program.session import open_session
from program.store import UserStore


def store_with_versions(location: str, number: int = 3) -> UserStore:
    store = UserStore(location)
    store.add_user("ana", task="free-text")
    for version in range(1, number + 1):
        store.add_persona("ana", f"text {version}", source="edit", why="w")
    return store


def item(name: str) -> Interaction:
    return Interaction(id=name, user_id="ana", query="q", response="r")


def test_pinned_version_is_what_agents_read(location: str) -> None:
    with store_with_versions(location) as store:
        assert store.pin("ana", 2).text == "text 2"
        current = store.persona("ana")
        assert current is not None
        assert current.text == "text 2"
        assert (store.user("ana").persona_version, store.user("ana").pinned) == (2, 2)
        assert [user.pinned for user in store.users()] == [2]
        session = open_session(store, "ana", prose=False, wikipedia=False)
        assert (session.agent.persona, session.version.version) == ("text 2", 2)
        store.unpin("ana")
        assert (session.agent.persona, session.version.version) == ("text 3", 3)


def test_nothing_replaces_a_pinned_persona(location: str) -> None:
    with store_with_versions(location) as store:
        store.pin("ana", 2)
        for change in (
            lambda: store.add_persona("ana", "new", source="edit", why="w"),
            lambda: store.add_persona("ana", "new", source="initial", why="w", expect_head=3),
            lambda: store.rollback("ana", 1),
            lambda: store.start_alignment("ana", {}),
        ):
            with pytest.raises(PinnedPersonaError, match=r"pinned at version 2.*persona unpin USER"):
                change()
        assert [version.version for version in store.persona_history("ana")] == [1, 2, 3]
        assert store.alignments("ana") == []


def test_approval_keeps_the_current_version_and_refuses_others(location: str) -> None:
    with store_with_versions(location) as store:
        with pytest.raises(StoreError, match="is not the current one, which is 3"):
            store.approve("ana", 2)
        with pytest.raises(UnknownVersionError):
            store.approve("ana", 9)
        store.pin("ana", 3)
        with pytest.raises(PinnedPersonaError):
            store.approve("ana", 3)
        store.unpin("ana")
        store.append("ana", [item("new")])
        approved = store.approve("ana", 3)
        assert (approved.version, approved.text, approved.source) == (4, "text 3", "approval")
        assert store.user("ana").stale


def test_alignment_that_was_running_does_not_replace_a_persona_pinned_meanwhile(location: str) -> None:
    with store_with_versions(location) as store:
        run = store.start_alignment("ana", {})
        store.pin("ana", 3)
        with pytest.raises(PinnedPersonaError):
            store.finish_alignment("ana", run, {}, ("new", "w"))
        store.fail_alignment("ana", run, "pinned")
        assert [version.text for version in store.persona_history("ana")][-1] == "text 3"
        assert store.costs("ana")[0].failed == 1


def test_pin_and_alignment_that_ends_at_the_same_time_leave_one_of_two_states(location: str) -> None:
    with store_with_versions(location) as store:
        for number in range(10):
            store.unpin("ana")
            head = store.user("ana").persona_version
            assert head is not None
            run = store.start_alignment("ana", {})
            with ThreadPoolExecutor(2) as pool:
                pinned = pool.submit(store.pin, "ana", head)
                ended = pool.submit(store.finish_alignment, "ana", run, {}, (f"aligned {number}", "w"))
                refused = isinstance(ended.exception(), PinnedPersonaError)
                pinned.result()
            newest = store.persona_history("ana")[-1]
            assert newest.version == (head if refused else head + 1)
            current = store.persona("ana")
            assert current is not None
            assert current.version == head
            if refused:
                store.fail_alignment("ana", run, "pinned")


def test_alignment_that_keeps_the_persona_ends_well_although_it_was_pinned(location: str) -> None:
    with store_with_versions(location) as store:
        store.append("ana", [item("1")])
        run = store.start_alignment("ana", {})
        store.pin("ana", 3)
        assert store.finish_alignment("ana", run, {}) is None
        assert not store.user("ana").stale


def test_unpinned_persona_changes_again(location: str) -> None:
    with store_with_versions(location) as store:
        store.pin("ana", 1)
        newest = store.unpin("ana")
        assert newest is not None
        assert newest.version == 3
        assert store.rollback("ana", 1).version == 4
        assert store.unpin("ana") == store.persona("ana")


def test_only_a_stored_version_can_be_pinned(location: str) -> None:
    with store_with_versions(location, 1) as store:
        store.add_user("ben", task="free-text")
        for user_id, version in (("ana", 2), ("ben", 1), ("ana", 0)):
            with pytest.raises(UnknownVersionError):
                store.pin(user_id, version)
        with pytest.raises(UnknownUserError):
            store.pin("nobody", 1)
        assert store.user("ana").pinned is None
        assert store.unpin("ben") is None


def test_session_keeps_an_outdated_first_persona_that_is_pinned(location: str) -> None:
    with UserStore(location) as store:
        store.add_user("ana", task="free-text")
        store.append("ana", [item("1")])
        open_session(store, "ana", prose=False, wikipedia=False, retrieval="bm25")
        store.add_persona("ana", "freely written", source="edit", why="w")
        store.pin("ana", 1)
        store.append("ana", [item("2")])
        session = open_session(store, "ana", prose=False, wikipedia=False, retrieval="bm25")
        assert session.version.version == 1
        session.refresh()
        assert session.version.version == 1


def test_user_is_stale_since_the_first_interaction_that_is_not_learned_from(location: str) -> None:
    with UserStore(location) as store:
        store.add_user("ana", task="free-text")
        assert store.user("ana").stale_since is None
        before = datetime.now(timezone.utc)
        store.append("ana", [item("1")])
        since = store.user("ana").stale_since
        assert since is not None
        assert before <= since <= before + timedelta(minutes=1)
        store.append("ana", [item("2")])
        assert store.append("ana", [item("2")]) == 0
        assert store.user("ana").stale_since == since
        store.finish_alignment("ana", store.start_alignment("ana", {}), {})
        assert store.user("ana").stale_since is None


def test_interaction_that_arrives_during_an_alignment_makes_stale_since_it_began(location: str) -> None:
    with UserStore(location) as store:
        store.add_user("ana", task="free-text")
        store.append("ana", [item("1")])
        run = store.start_alignment("ana", {})
        store.append("ana", [item("2")])
        store.finish_alignment("ana", run, {}, ("text", "w"))
        user, row = store.user("ana"), store.alignments("ana")[0]
        assert user.stale
        assert user.stale_since == row.started_at
        # An edit learns from nothing.
        store.add_persona("ana", "edited", source="edit", why="w")
        assert store.user("ana").stale_since == row.started_at
