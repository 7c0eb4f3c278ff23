"""A session opens a stored user's agent, and `refresh` follows the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest

from program.agent import PersonaAgent
from program.errors import ConfigError, DataError, UnknownUserError
from program.loop import AgentSettings
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile
from program.models.scripted import scripted_lm
from program.session import Session, aopen_session, open_session
from program.store import UserStore
from program.task import get_task
from program.tools.toolset import ToolSet


def finish(system: str, user: str) -> Mapping[str, Any]:
    return {"thought": "", "action": {"tool": "finish", "answer": "Lentils."}}


def outage(system: str, user: str) -> str:
    raise dspy.LMServerError("down")


def interactions(*names: str) -> list[Interaction]:
    return [Interaction(id=name, user_id="ana", query=f"dinner {name}", response="Soup.") for name in names]


def open_ana(store: UserStore, **settings: Any) -> Session:
    return open_session(store, "ana", **{"wikipedia": False, "prose": False, **settings})


def memory_ids(session: Session) -> list[str]:
    return [interaction.id for interaction in session.agent.context.memory.latest()]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UserStore]:
    with UserStore(tmp_path / "users.db") as store:
        store.append("ana", interactions("1", "2"), task="free-text")
        yield store


class TestOpen:
    def test_first_session_stores_the_initial_persona_and_the_profile(self, store: UserStore) -> None:
        session = open_ana(store)
        assert [(v.version, v.parent, v.source) for v in store.persona_history("ana")] == [
            (1, None, "initial")
        ]
        assert session.version == store.persona("ana")
        assert session.agent.persona == session.version.text
        profile = store.profile("ana")
        assert profile is not None
        assert profile.facts.interactions == 2

    def test_second_session_stores_nothing(self, store: UserStore) -> None:
        first, second = open_ana(store), open_ana(store)
        assert first.version == second.version
        assert len(store.persona_history("ana")) == 1

    def test_session_uses_the_current_persona(self, store: UserStore) -> None:
        store.add_persona("ana", "Be brief.", source="edit", why="shorter")
        session = open_ana(store)
        assert (session.version.version, session.agent.persona) == (1, "Be brief.")

    def test_agent_has_only_the_given_tools_and_settings(self, store: UserStore) -> None:
        session = open_ana(store, tools=ToolSet([]), settings=AgentSettings(k=9))
        assert session.agent.context.settings.k == 9
        with dspy.context(lm=scripted_lm(lambda system, user: "Stew.")):
            prediction = session.agent(query="And tomorrow?")
        assert (prediction.answer, prediction.steps) == ("Stew.", ())

    def test_unknown_user_is_rejected(self, store: UserStore) -> None:
        with pytest.raises(UnknownUserError, match="did you mean 'ana'"):
            open_session(store, "anna", wikipedia=False)

    def test_unknown_retrieval_is_rejected_before_anything_is_stored(self, store: UserStore) -> None:
        with pytest.raises(ConfigError, match="psychic"):
            open_ana(store, retrieval="psychic")
        assert store.persona("ana") is None

    def test_model_outage_stores_neither_profile_nor_persona(self, store: UserStore) -> None:
        with dspy.context(lm=scripted_lm(outage)), pytest.raises(dspy.LMError):
            open_ana(store, prose=True)
        assert store.profile("ana") is None
        assert store.persona("ana") is None

    async def test_async_session_answers_with_the_model_of_the_caller(self, store: UserStore) -> None:
        lm = scripted_lm(finish)
        with dspy.context(lm=lm):
            session = await aopen_session(store, "ana", wikipedia=False, prose=False)
            prediction = await session.agent.acall(query="And tomorrow?")
        assert prediction.answer == "Lentils."
        assert session.version.version == 1
        assert len(lm.engine.prompts) == 3


class TestRefresh:
    def test_agent_sees_interactions_only_after_refresh(self, store: UserStore) -> None:
        session = open_ana(store)
        store.append("ana", interactions("3"))
        assert memory_ids(session) == ["1", "2"]
        session.refresh()
        assert memory_ids(session) == ["1", "2", "3"]

    def test_refresh_twice_adds_no_duplicates(self, store: UserStore) -> None:
        session = open_ana(store)
        session.refresh()
        session.refresh()
        assert memory_ids(session) == ["1", "2"]

    def test_refreshed_agent_finds_an_observed_interaction(self, store: UserStore) -> None:
        session = open_ana(store)
        session.observe("Which pancakes?", "Blueberry.")
        session.refresh()
        with dspy.context(lm=scripted_lm(finish)):
            prediction = session.agent(query="pancakes")
        assert "Blueberry." in prediction.steps[0].observation

    def test_refresh_switches_to_a_new_persona_version_and_back(self, store: UserStore) -> None:
        session = open_ana(store)
        initial = session.agent.persona
        store.add_persona("ana", "Be brief.", source="edit", why="shorter")
        assert session.agent.persona == initial
        session.refresh()
        assert (session.version.version, session.agent.persona) == (2, "Be brief.")
        store.rollback("ana", 1)
        session.refresh()
        assert (session.version.version, session.version.source) == (3, "rollback")
        assert session.agent.persona == initial

    def test_refresh_of_the_agent_also_updates_the_version(self, store: UserStore) -> None:
        session = open_ana(store)
        store.add_persona("ana", "Be brief.", source="edit", why="shorter")
        session.agent.refresh()
        assert session.version.version == 2

    def test_refresh_uses_a_new_profile(self, store: UserStore) -> None:
        session = open_ana(store)
        store.save_profile("ana", Profile(facts=Facts(interactions=2), prose="Likes soup."))
        session.refresh()
        assert session.agent.context.profile.prose == "Likes soup."

    def test_refresh_rebuilds_an_outdated_profile(self, store: UserStore) -> None:
        session = open_ana(store)
        store.append("ana", interactions(*map(str, range(10, 60))))
        session.refresh()
        assert session.agent.context.profile.facts.interactions == 52
        assert store.profile("ana") == session.agent.context.profile

    def test_refresh_changes_the_predictor_of_a_copy_alone(self, store: UserStore) -> None:
        session = open_ana(store)
        copied = session.agent.deepcopy()
        store.add_persona("ana", "Be brief.", source="edit", why="shorter")
        copied.refresh()
        assert copied.persona == "Be brief."
        assert session.agent.persona != "Be brief."

    def test_agent_without_a_store_cannot_refresh(self) -> None:
        memory = EpisodicMemory("ana", interactions("1"))
        agent = PersonaAgent.for_user("ana", memory, ToolSet([]), task=get_task("free-text"))
        with pytest.raises(ConfigError, match="use `open_session`"):
            agent.refresh()


def test_session_rejects_an_invalid_response_and_stores_nothing(tmp_path: Path) -> None:
    with UserStore(tmp_path / "films.db") as store:
        store.add_user("ana", task="LaMP-2M")
        session = open_ana(store)
        with pytest.raises(DataError, match="`response`"):
            session.observe("a film", "horror")
        assert store.interactions("ana") == []
