"""Sessions: a stored user's agent, put together from memory, profile and persona in one place."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from program.agent import AgentState, PersonaAgent
from program.home import home as default_home
from program.loop import AgentSettings
from program.memory.interaction import Interaction
from program.memory.summary import build_profile
from program.persona import initial_persona
from program.store import UserStore
from program.store.records import PersonaVersion
from program.task import get_task
from program.tools import default_tools
from program.tools.toolset import ToolSet


class Session:
    """One stored user's agent, and the persona version that it runs under.

    Attributes:
        agent: Answers the user's queries.
        version: The persona version in use; `refresh` moves it on.

    Example: see `open_session`.
    """

    agent: PersonaAgent
    version: PersonaVersion

    def __init__(self, store: UserStore, user_id: str, *, retrieval: str, prose: bool | None) -> None:
        self._store = store
        self._user_id = user_id
        self._prose = prose
        self._task = get_task(store.user(user_id).task)
        self._memory = store.memory(user_id, retrieval=retrieval)

    def observe(self, query: str, response: str) -> Interaction:
        """Record what the user really answered; `refresh` shows it to the agent.

        Raises:
            DataError: ``response`` is not an answer to the user's task.
        """
        return self._store.observe(self._user_id, query=query, response=response)

    def refresh(self) -> None:
        """Let the agent see what the store has learned since the session was opened."""
        self.agent.refresh()

    def load(self) -> AgentState:
        """Read the user's memory, profile and persona; the first persona and the profile are stored."""
        for interaction in self._store.interactions(self._user_id):
            self._memory.append(interaction)
        profile = self._store.profile(self._user_id)
        if profile is None or profile.is_stale(len(self._memory)):
            profile = build_profile(self._memory, self._task, prose=self._prose)
            self._store.save_profile(self._user_id, profile)
        version = self._store.persona(self._user_id)
        if version is None:
            version = self._store.add_persona(
                self._user_id,
                initial_persona(profile),
                parent=None,
                source="initial",
                why="made from the user's profile",
            )
        self.version = version
        return AgentState(task=self._task, memory=self._memory, profile=profile, persona=version.text)


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
    """Open a stored user's agent. A user without a persona gets the initial one, which is stored first.

    The profile is made again if the history has outgrown it; its prose costs one call of DSPy's
    configured model.

    Args:
        store: The user's store.
        user_id: A stored user.
        home: The data directory, for caches; ``None`` for `program.home.home`.
        prose: Whether the profile has a model's summary; ``None`` asks the model (`build_profile`).
        wikipedia: Whether the agent may search Wikipedia; its search words leave the machine.
        retrieval: How memory is searched: bm25, dense, hybrid or recency.
        tools: The agent's tools, in place of the default ones.
        settings: The agent's settings.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        dspy.LMError: The model failed while it wrote a summary; nothing is stored.

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
    session = Session(store, user_id, retrieval=retrieval, prose=prose)
    if tools is None:
        tools = default_tools((home or default_home()) / "cache", wikipedia=wikipedia)
    session.agent = PersonaAgent.from_source(session.load, tools=tools, settings=settings)
    return session


async def aopen_session(store: UserStore, user_id: str, **settings: Any) -> Session:
    """Open a stored user's agent like `open_session`, without blocking the event loop.

    Example:
        >>> import inspect
        >>> inspect.iscoroutinefunction(aopen_session)
        True
    """
    return await asyncio.to_thread(open_session, store, user_id, **settings)
