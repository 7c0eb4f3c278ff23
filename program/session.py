"""Opens a stored user's agent, with memory, profile and persona from the store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from program.agent import AgentState, PersonaAgent
from program.home import home as default_home
from program.loop import AgentSettings
from program.memory.interaction import Interaction
from program.memory.semantic import Profile
from program.memory.summary import build_profile
from program.persona import initial_persona
from program.store import UserStore
from program.store.records import PersonaVersion
from program.task import get_task
from program.tools import default_tools
from program.tools.toolset import ToolSet


class Session:
    """One stored user's agent and its persona version. Create it with `open_session`.

    Attributes:
        agent: Answers the user's queries.
        version: The persona version in use; `refresh` updates it.

    Example:
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     session = open_session(store, "ana", prose=False, wikipedia=False)
        ...     _ = session.observe("Which tea?", "Mint.")
        ...     session.refresh()
        ...     print(session.version)
        v1 of 'ana' (initial): made from the user's profile
    """

    agent: PersonaAgent
    version: PersonaVersion

    def __init__(
        self,
        store: UserStore,
        user_id: str,
        *,
        tools: ToolSet,
        retrieval: str = "bm25",
        prose: bool | None = None,
        settings: AgentSettings | None = None,
    ) -> None:
        self._store = store
        self._user_id = user_id
        self._prose = prose
        self._task = get_task(store.user(user_id).task)
        self._memory = store.memory(user_id, retrieval=retrieval)
        self.agent = PersonaAgent.from_source(self._load, tools=tools, settings=settings)

    def observe(self, query: str, response: str) -> Interaction:
        """Record the user's true response to a query. The agent sees it after `refresh`.

        Raises:
            DataError: ``response`` is not a valid answer for the user's task.
        """
        return self._store.observe(self._user_id, query=query, response=response)

    def refresh(self) -> None:
        """Reload interactions, profile and persona from the store."""
        self.agent.refresh()

    def _load(self) -> AgentState:
        for interaction in self._store.interactions(self._user_id):
            self._memory.append(interaction)
        profile = self._current_profile()
        self.version = self._current_version(profile)
        return AgentState(task=self._task, memory=self._memory, profile=profile, persona=self.version.text)

    def _current_profile(self) -> Profile:
        profile = self._store.profile(self._user_id)
        if profile is None or profile.is_stale(len(self._memory)):
            profile = build_profile(self._memory, self._task, prose=self._prose)
            self._store.save_profile(self._user_id, profile)
        return profile

    def _current_version(self, profile: Profile) -> PersonaVersion:
        return self._store.persona(self._user_id) or self._store.add_persona(
            self._user_id,
            initial_persona(profile),
            parent=None,
            source="initial",
            why="made from the user's profile",
        )


def open_session(
    store: UserStore,
    user_id: str,
    *,
    home: Path | None = None,
    prose: bool | None = None,
    wikipedia: bool = True,
    retrieval: str = "bm25",
    tools: ToolSet | None = None,
    settings: AgentSettings | None = None,
) -> Session:
    """Open a stored user's agent.

    A user without a persona gets an initial one, which is stored. A missing or outdated profile is
    rebuilt and stored; its prose summary costs one call of DSPy's configured model.

    Args:
        store: The user's store.
        user_id: A stored user.
        home: The data directory, for caches; ``None`` for `program.home.home`.
        prose: Whether the profile has a model-written summary; ``None`` decides by model
            (`build_profile`).
        wikipedia: Whether the agent may search Wikipedia. Search queries then leave the machine.
        retrieval: How memory is searched: bm25, dense, hybrid or recency.
        tools: Replaces the default tools.
        settings: Limits of the agent's tool loop.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        dspy.LMError: The model failed to write the summary; nothing is stored.

    Example:
        >>> import dspy
        >>> from program import UserStore, scripted_lm
        >>> finish = {"thought": "", "action": {"tool": "finish", "answer": "Lentils."}}
        >>> with UserStore("users.db") as store, dspy.context(lm=scripted_lm(lambda system, user: finish)):
        ...     store.add_user("ana", task="free-text")
        ...     session = open_session(store, "ana", wikipedia=False)
        ...     _ = session.observe("What shall I cook?", "Lentils.")
        ...     session.refresh()
        ...     session.agent(query="And tomorrow?").answer
        'Lentils.'
    """
    if tools is None:
        tools = default_tools((home or default_home()) / "cache", wikipedia=wikipedia)
    return Session(store, user_id, tools=tools, retrieval=retrieval, prose=prose, settings=settings)


async def aopen_session(store: UserStore, user_id: str, **settings: Any) -> Session:
    """Open a stored user's agent like `open_session`, without blocking the event loop.

    Example:
        >>> import dspy
        >>> from program import scripted_lm
        >>> finish = {"thought": "", "action": {"tool": "finish", "answer": "Lentils."}}
        >>> async def ask(store, user_id, query):
        ...     session = await aopen_session(store, user_id, wikipedia=False)
        ...     prediction = await session.agent.acall(query=query)
        ...     return prediction.answer
        >>> with UserStore("users.db") as store, dspy.context(lm=scripted_lm(lambda system, user: finish)):
        ...     store.add_user("ana", task="free-text")
        ...     asyncio.run(ask(store, "ana", "What shall I cook?"))
        'Lentils.'
    """
    return await asyncio.to_thread(open_session, store, user_id, **settings)
