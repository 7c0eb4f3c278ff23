"""A session opens a stored user's agent, and `refresh` follows the store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import dspy
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from program.agent import PersonaAgent
from program.errors import ConfigError, DataError, UnknownUserError
from program.loop import AgentSettings
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile
from program.models.scripted import scripted_lm
from program.persona import first_persona
from program.session import Session, aopen_session, open_session
from program.store import UserStore
from program.store.records import PersonaSource
from program.task import get_task
from program.tools.toolset import ToolSet


def finish(system: str, user: str) -> Any:
    if "`action`" in user:
        return {"thought": "", "action": {"tool": "finish", "answer": "Lentils."}}
    return "Lentils."


def outage(system: str, user: str) -> str:
    raise dspy.LMServerError("down")


def interactions(*names: str) -> list[Interaction]:
    return [Interaction(id=name, user_id="ana", query=f"dinner {name}", response="Soup.") for name in names]


def open_ana(store: UserStore, **settings: Any) -> Session:
    return open_session(store, "ana", **{"wikipedia": False, "prose": False, **settings})


def memory_ids(session: Session) -> list[str]:
    return [interaction.id for interaction in session.agent.context.memory.latest()]


@pytest.fixture
def store(location: str) -> Iterator[UserStore]:
    with UserStore(location) as store:
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
        # One step, and the final question with what the first search showed.
        assert len(lm.engine.prompts) == 2


class TestRefresh:
    def test_held_agent_sees_interactions_and_personas_only_after_refresh(self, store: UserStore) -> None:
        agent = open_ana(store).agent
        initial = agent.persona
        store.append("ana", interactions("3"))
        store.add_persona("ana", "Be brief.", source="edit", why="shorter")
        assert (len(agent.context.memory), agent.persona) == (2, initial)
        agent.refresh()
        assert (len(agent.context.memory), agent.persona) == (3, "Be brief.")

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


class TestNotice:
    """`Session.agent` follows the store without a model call."""

    def test_next_use_of_the_agent_sees_what_another_process_stored(
        self, store: UserStore, location: str
    ) -> None:
        session = open_ana(store)
        assert memory_ids(session) == ["1", "2"]
        with UserStore(location) as other:
            other.append("ana", interactions("3", "4"))
            other.add_persona("ana", "Be brief.", source="edit", why="shorter")
        assert memory_ids(session) == ["1", "2", "3", "4"]
        assert (session.version.version, session.agent.persona) == (2, "Be brief.")

    def test_interactions_of_the_past_are_noticed_too(self, store: UserStore) -> None:
        store.observe("ana", query="dinner now", response="Rice.")
        session = open_ana(store)
        old = datetime(2001, 1, 1, tzinfo=timezone.utc)
        store.append("ana", [replace(interactions("3")[0], timestamp=old), *interactions("4")])
        assert memory_ids(session) == [item.id for item in store.interactions("ana")]

    def test_noticing_makes_no_model_call_and_stores_nothing(self, store: UserStore) -> None:
        with dspy.context(lm=scripted_lm(lambda system, user: "Likes soup very much.")):
            session = open_ana(store, prose=True)
        profile, versions = store.profile("ana"), store.persona_history("ana")
        store.append("ana", interactions(*map(str, range(10, 60))))
        with dspy.context(lm=scripted_lm(outage)):
            assert len(session.agent.context.memory) == 52
        assert session.agent.context.profile == profile
        assert (store.profile("ana"), store.persona_history("ana")) == (profile, versions)

    def test_unchanged_store_is_read_once(self, store: UserStore) -> None:
        session = open_ana(store)
        statements: list[str] = []

        def record_statement(_c: object, _k: object, statement: str, *_: object) -> None:
            statements.append(statement)

        event.listen(Engine, "before_cursor_execute", record_statement)
        try:
            assert session.agent is session.agent
        finally:
            event.remove(Engine, "before_cursor_execute", record_statement)
        assert [statement[:6] for statement in statements if not statement.startswith("BEGIN")] == [
            "SELECT"
        ] * 2

    def test_forgotten_user_has_no_agent(self, store: UserStore) -> None:
        session = open_ana(store)
        store.forget("ana")
        with pytest.raises(UnknownUserError):
            session.agent  # noqa: B018 - the access is the test

    def test_agent_of_a_closed_store_still_answers(self, location: str) -> None:
        with UserStore(location) as store:
            store.append("ana", interactions("1"), task="free-text")
            session = open_ana(store)
        with dspy.context(lm=scripted_lm(finish)):
            assert session.agent(query="And tomorrow?").answer == "Lentils."


class TestCounts:
    """The persona and the profile agree on what they count."""

    @staticmethod
    def open_films(store: UserStore, *tags: str) -> Session:
        for number, tag in enumerate(tags):
            film = Interaction(
                id=f"{len(store.interactions('bo'))}-{number}", user_id="bo", query="a film", response=tag
            )
            store.append("bo", [film])
        return TestCounts.open_bo(store)

    @staticmethod
    def open_bo(store: UserStore) -> Session:
        """Open a session that begins with the paper's persona, which counts."""
        return Session(store, "bo", tools=ToolSet([]), prose=False, parts=False)

    @pytest.fixture
    def films(self, store: UserStore) -> UserStore:
        store.add_user("bo", task="LaMP-2M")
        return store

    def test_initial_persona_follows_the_profile_as_a_new_version(self, films: UserStore) -> None:
        self.open_films(films, *["comedy"] * 6)
        session = self.open_films(films, "action", "action")
        assert "answered 8 times" in session.agent.persona
        assert "comedy (6), action (2)" in session.agent.persona
        assert [str(version) for version in films.persona_history("bo")] == [
            "v1 of 'bo' (initial): made from the user's profile",
            "v2 of 'bo' (initial, from v1): the user's profile has changed",
        ]
        assert films.user("bo").stale, "the two new films are not learned from"

    def test_small_growth_moves_neither(self, films: UserStore) -> None:
        self.open_films(films, *["comedy"] * 20)
        session = self.open_films(films, "action")
        assert session.version.version == 1
        assert session.agent.context.profile.facts.interactions == 20

    def test_refresh_of_an_open_session_follows_too(self, films: UserStore) -> None:
        session = self.open_films(films, *["comedy"] * 6)
        for _ in range(2):
            session.observe("a film", "action")
        session.refresh()
        assert (session.version.version, "answered 8 times" in session.agent.persona) == (2, True)

    @pytest.mark.parametrize("source", ["edit", "alignment", "rollback", "initial"])
    def test_text_of_another_origin_stays(self, films: UserStore, source: PersonaSource) -> None:
        self.open_films(films, *["comedy"] * 6)
        films.add_persona("bo", "This user answered 6 times.", source=source, why="w")
        session = self.open_films(films, *["action"] * 6)
        assert session.agent.persona == "This user answered 6 times."
        assert session.version.version == 2

    def test_restored_initial_text_stays(self, films: UserStore) -> None:
        first = self.open_films(films, *["comedy"] * 6).agent.persona
        films.add_persona("bo", "Be brief.", source="edit", why="w")
        films.rollback("bo", 1)
        assert self.open_films(films, *["action"] * 6).agent.persona == first

    def test_two_sessions_at_once_make_one_version(
        self, films: UserStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.open_films(films, *["comedy"] * 6)
        add = UserStore.add_persona

        def slower(store: UserStore, *args: Any, **kwargs: Any) -> Any:
            monkeypatch.setattr(UserStore, "add_persona", add)
            self.open_bo(store)
            return add(store, *args, **kwargs)

        films.append("bo", [Interaction(id="x", user_id="bo", query="q", response="action")])
        monkeypatch.setattr(UserStore, "add_persona", slower)
        session = self.open_bo(films)
        assert session.version.version == 2
        assert len(films.persona_history("bo")) == 2

    def test_the_kind_of_an_initial_persona_stays_unless_an_alignment_needs_the_other(
        self, films: UserStore
    ) -> None:
        self.open_films(films, *["comedy"] * 6)
        assert open_session(films, "bo", wikipedia=False).agent.parts is None
        Session(films, "bo", tools=ToolSet([]), prose=False, parts=True)
        assert open_session(films, "bo", wikipedia=False).agent.parts == first_persona()
        assert [version.why for version in films.persona_history("bo")] == [
            "made from the user's profile",
            "nothing is learned yet",
        ]


class TestTools:
    @staticmethod
    def weather(city: str, days: int = 3) -> str:
        """Say what the weather in a city will be."""
        return f"sun in {city} for {days} days"

    def test_functions_come_beside_the_default_tools(self, store: UserStore) -> None:
        session = open_ana(store, tools=[self.weather])
        assert list(session.agent.context.tools.tools) == ["search_memory", "read_profile", "weather"]

        def reply(system: str, user: str) -> Mapping[str, Any]:
            if "sun in Rome" in user or "`action`" not in user:
                return finish(system, user)
            return {"thought": "", "action": {"tool": "weather", "city": "Rome", "days": None}}

        with dspy.context(lm=scripted_lm(reply)):
            steps = session.agent(query="A picnic?").steps
        assert steps[1].observation == "sun in Rome for 3 days"

    def test_async_session_takes_functions(self, store: UserStore) -> None:
        session = asyncio.run(aopen_session(store, "ana", wikipedia=False, prose=False, tools=[self.weather]))
        assert "weather" in session.agent.context.tools.tools


def test_very_long_response_is_cut_in_the_profile_and_the_user_can_be_asked(store: UserStore) -> None:
    store.observe("ana", query="My newsletter?", response="Dear all, " + "word " * 20_000)
    prompts: list[str] = []

    def reply(system: str, user: str) -> Any:
        prompts.append(user)
        return "Writes letters to many." if "write the profile" in user.lower() else finish(system, user)

    with dspy.context(lm=scripted_lm(reply)):
        session = open_ana(store, prose=True, settings=AgentSettings(max_input_chars=500))
        assert session.agent(query="And tomorrow?").answer == "Lentils."
    assert max(map(len, prompts)) < 3000
    assert "dinner 1" in prompts[0], "shorter interactions still fit beside it"


def test_session_rejects_an_invalid_response_and_stores_nothing(location: str) -> None:
    with UserStore(location) as store:
        store.add_user("ana", task="LaMP-2M")
        session = open_ana(store)
        with pytest.raises(DataError, match="`response`"):
            session.observe("a film", "horror")
        assert store.interactions("ana") == []
