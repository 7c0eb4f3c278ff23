"""Opens a stored user's agent, with memory, profile and persona from the store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from program.agent import AgentState, PersonaAgent
from program.errors import StoreError
from program.home import home as default_home
from program.loop import AgentSettings
from program.memory.interaction import Interaction
from program.memory.semantic import Profile
from program.memory.summary import build_profile
from program.persona import initial_persona, is_initial
from program.store import UserStore
from program.store.records import PersonaVersion
from program.task import get_task
from program.tools import Tools, make_tools
from program.tools.toolset import ToolSet


class Session:
    """One stored user's agent and its persona version. Create it with `open_session`.

    Attributes:
        version: The persona version in use.

    Example:
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     session = open_session(store, "ana", prose=False, wikipedia=False)
        ...     _ = session.observe("Which tea?", "Mint.")
        ...     print(len(session.agent.context.memory), session.version)
        1 v1 of 'ana' (initial): made from the user's profile
    """

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
        learns: bool = True,
    ) -> None:
        self._store = store
        self._user_id = user_id
        self._prose = prose
        # Whether an initial persona counts as learning from the history.
        self._learns = learns
        self._max_input_chars = (settings or AgentSettings()).max_input_chars
        self._task = get_task(store.user(user_id).task)
        self._memory = store.memory(user_id, retrieval=retrieval)
        self._arrived = len(self._memory)
        self._agent = PersonaAgent.from_source(self._load, tools=tools, settings=settings)

    @property
    def agent(self) -> PersonaAgent:
        """The agent that answers the user's queries.

        Reading this attribute costs one read of the store: new interactions and a new persona version
        are then loaded, without any model call. A profile that they made outdated waits for `refresh`.
        A reference to the agent itself stays as it is until then.

        Raises:
            UnknownUserError: The user was forgotten.
        """
        if not self._store.closed:
            user = self._store.user(self._user_id)
            if user.interactions != self._arrived or user.persona_version != self.version.version:
                self._read_interactions()
                self.version = self._store.persona(self._user_id) or self.version
                self._agent.persona = self.version.text
        return self._agent

    def observe(self, query: str, response: str) -> Interaction:
        """Record the user's true response to a query.

        Raises:
            DataError: ``response`` is not a valid answer for the user's task.
        """
        return self._store.observe(self._user_id, query=query, response=response)

    def refresh(self) -> None:
        """Reload interactions, profile and persona from the store; an outdated profile is rebuilt."""
        self._agent.refresh()

    def _load(self) -> AgentState:
        self._read_interactions()
        profile = self._current_profile()
        self.version = self._current_version(profile)
        return AgentState(task=self._task, memory=self._memory, profile=profile, persona=self.version.text)

    def _read_interactions(self) -> None:
        start = self._arrived
        new = self._store.interactions(self._user_id, arrived_after=start)
        for interaction in new:
            self._memory.append(interaction)
        self._arrived = start + len(new)

    def _current_profile(self) -> Profile:
        profile = self._store.profile(self._user_id)
        if profile is None or profile.is_stale(len(self._memory)):
            profile = build_profile(
                self._memory, self._task, prose=self._prose, max_input_chars=self._max_input_chars
            )
            self._store.save_profile(self._user_id, profile)
        return profile

    def _current_version(self, profile: Profile) -> PersonaVersion:
        """Return the persona; an initial one is made, and made again if its profile has moved."""
        version, text = self._store.persona(self._user_id), initial_persona(profile)
        if version is None:
            why, settled = "made from the user's profile", profile.facts.interactions if self._learns else 0
        elif version.source == "initial" and is_initial(version.text) and version.text != text:
            # Its counts would contradict the profile. The new answers are still not learned from.
            why, settled = "the user's profile has moved", 0
        else:
            return version
        head = version.version if version else 0
        try:
            return self._store.add_persona(
                self._user_id, text, source="initial", why=why, expect_head=head, settled=settled
            )
        except StoreError:
            # Another session was faster.
            newest = self._store.persona(self._user_id)
            if newest is None or newest.version == head:
                raise
            return newest


def open_session(
    store: UserStore,
    user_id: str,
    *,
    home: Path | None = None,
    prose: bool | None = None,
    wikipedia: bool = True,
    retrieval: str = "bm25",
    tools: Tools = None,
    settings: AgentSettings | None = None,
) -> Session:
    """Open a stored user's agent.

    A user without a persona gets an initial one, which is stored. A missing or outdated profile is
    rebuilt and stored; its prose summary costs one call of DSPy's configured model. A persona that is
    still the initial one follows the profile, as a new version.

    Args:
        store: The user's store.
        user_id: A stored user.
        home: The data directory, for caches; ``None`` for `program.home.home`.
        prose: Whether the profile has a model-written summary; ``None`` decides by model
            (`build_profile`).
        wikipedia: Whether the agent may search Wikipedia. Search queries then leave the machine.
        retrieval: How memory is searched: bm25, dense, hybrid or recency.
        tools: Functions or tools beside the default ones; a `ToolSet` replaces those.
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
        ...     session.agent(query="And tomorrow?").answer
        'Lentils.'
    """
    return Session(
        store,
        user_id,
        tools=make_tools(tools, (home or default_home()) / "cache", wikipedia=wikipedia),
        retrieval=retrieval,
        prose=prose,
        settings=settings,
    )


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
