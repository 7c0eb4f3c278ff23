"""Opens a stored user's agent, with memory, profile and persona from the store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from program.agent import PersonaAgent
from program.context import AgentState
from program.errors import PinnedPersonaError, StoreError
from program.home import home as default_home
from program.loop import AgentSettings
from program.memory.interaction import Interaction
from program.memory.semantic import Profile
from program.memory.summary import abuild_profile, build_profile
from program.persona import Persona, first_persona, initial_persona, is_initial
from program.store import UserStore
from program.store.records import PersonaVersion
from program.task import get_task
from program.tools import Tools, make_tools
from program.tools.toolset import ToolSet

if TYPE_CHECKING:
    from program.memory.episodic import EpisodicMemory


class Session:
    """One stored user's agent and its persona version. Create it with `open_session`.

    Attributes:
        version: The persona version that the agent used when `agent` was last read, or at `refresh`.

    Example:
        >>> with UserStore("users.db") as store:
        ...     store.add_user("ana", task="free-text")
        ...     session = open_session(store, "ana", prose=False, wikipedia=False)
        ...     _ = session.observe("Which tea?", "Mint.")
        ...     print(len(session.agent.context.memory), session.version)
        1 v1 of 'ana' (initial): nothing is learned yet
    """

    version: PersonaVersion

    def __init__(
        self,
        store: UserStore,
        user_id: str,
        *,
        tools: ToolSet,
        retrieval: str = "hybrid",
        prose: bool | None = None,
        settings: AgentSettings | None = None,
        learns: bool = True,
        parts: bool | None = None,
    ) -> None:
        self._store = store
        self._user_id = user_id
        self._prose = prose
        # Whether an initial persona counts as learning from the history.
        self._learns = learns
        # Whether an initial persona is made of parts, which can be edited; `None`: unless a text is stored.
        self._parts = parts
        self._max_input_chars = (settings or AgentSettings()).max_input_chars
        self._task = get_task(store.user(user_id).task)
        self._retrieval = retrieval
        self._memory: EpisodicMemory | None = None
        self._agent = PersonaAgent.from_source(self._load, tools=tools, settings=settings)

    @property
    def agent(self) -> PersonaAgent:
        """The agent that answers the user's queries.

        Each read of this attribute looks into the store and loads new interactions and a new persona
        version, and moves `version` to it. It calls no model, so the profile stays as it is, even if the
        new interactions make it outdated; `refresh` rebuilds it. Only if interactions were forgotten is all
        of it read again, as by `refresh`. An agent that you keep in a variable
        changes only when this attribute is read or `refresh` is called.

        Raises:
            UnknownUserError: The user was forgotten.
        """
        if not self._store.closed:
            user = self._store.user(self._user_id)
            if user.interactions != self._arrived or user.persona_version != self.version.version:
                if self._holds_forgotten():
                    self._agent.refresh()
                    return self._agent
                assert self._memory is not None, "the agent is loaded"
                self._read_interactions(self._memory)
                self.version = self._store.persona(self._user_id) or self.version
                self._agent.persona = _persona_of(self.version)
        return self._agent

    @property
    def opened(self) -> PersonaAgent:
        """The agent as it was loaded last, without a look into the store."""
        return self._agent

    def observe(self, query: str, response: str) -> Interaction:
        """Record the user's true response to a query.

        Raises:
            DataError: ``response`` is not a valid answer for the user's task.
        """
        return self._store.observe(self._user_id, query=query, response=response)

    def refresh(self) -> None:
        """Load what reading `agent` loads, and rebuild the profile if it is outdated.

        An initial persona that was made from the profile is written again from the new one, as a new
        version.
        A profile with a prose summary costs one call of DSPy's configured model. `version` moves to the
        current persona version.
        """
        self._agent.refresh()

    def _load(self) -> AgentState:
        if self._memory is None or self._holds_forgotten():
            memory = self._open_memory()
        else:
            memory = self._read_interactions(self._memory)
        profile = self._current_profile(memory)
        self.version = self._current_version(profile)
        persona = _persona_of(self.version)
        return AgentState(task=self._task, memory=memory, profile=profile, persona=persona)

    def _open_memory(self) -> EpisodicMemory:
        self._memory = self._store.memory(self._user_id, retrieval=self._retrieval)
        self._arrived = len(self._memory)
        self._forgets = self._count_forgets()
        return self._memory

    def _count_forgets(self) -> int:
        return sum(row.source == "forget" for row in self._store.persona_history(self._user_id))

    def _holds_forgotten(self) -> bool:
        """Return whether interactions that this session holds were forgotten."""
        stored = self._store.user(self._user_id).interactions
        return stored < self._arrived or self._count_forgets() != self._forgets

    def _read_interactions(self, memory: EpisodicMemory) -> EpisodicMemory:
        start = self._arrived
        new = self._store.interactions(self._user_id, arrived_after=start)
        for interaction in new:
            memory.append(interaction)
        self._arrived = start + len(new)
        return memory

    def _current_profile(self, memory: EpisodicMemory) -> Profile:
        profile = self._store.profile(self._user_id)
        if profile is None or profile.is_stale(len(memory)):
            profile = build_profile(
                memory, self._task, prose=self._prose, max_input_chars=self._max_input_chars
            )
            self._store.save_profile(self._user_id, profile)
        return profile

    def _first_persona(self, profile: Profile, stored: PersonaVersion | None) -> _First:
        """Return the persona that the user begins with: of parts, or the paper's, made from the profile."""
        of_parts = self._parts if self._parts is not None else stored is None or stored.parts is not None
        if of_parts:
            bare = first_persona()
            return _First(bare.render([]), bare.as_dict(), "nothing is learned yet", 0)
        learned = profile.facts.interactions if self._learns else 0
        return _First(initial_persona(profile), None, "made from the user's profile", learned)

    def _current_version(self, profile: Profile) -> PersonaVersion:
        """Return the current version; the initial persona is written if none is stored or it is outdated."""
        version = self._store.persona(self._user_id)
        if version is not None and self._store.user(self._user_id).pinned:
            return version
        first = self._first_persona(profile, version)
        if version is None:
            why, settled = first.why, first.settled
        elif _is_first(version) and version.text != first.text:
            # A text's counts would contradict the profile. The new answers are still to be learned from.
            same_kind = (version.parts is None) == (first.parts is None)
            why, settled = "the user's profile has changed" if same_kind else first.why, 0
        else:
            return version
        head = version.version if version else 0
        try:
            return self._store.add_persona(
                self._user_id,
                first.text,
                source="initial",
                why=why,
                expect_head=head,
                settled=settled,
                parts=first.parts,
            )
        except StoreError as error:
            # Another session was faster, or somebody pinned a version.
            newest = self._store.persona(self._user_id)
            if newest is None or (newest.version == head and not isinstance(error, PinnedPersonaError)):
                raise
            return newest


@dataclass(frozen=True)
class _First:
    """The persona that a user begins with, and what its version says."""

    text: str
    parts: dict[str, Any] | None
    why: str
    settled: int


def _is_first(version: PersonaVersion) -> bool:
    """Return whether nobody has changed the persona that the user began with."""
    return version.source == "initial" and (
        is_initial(version.text)
        if version.parts is None
        else Persona.from_dict(version.parts) == first_persona()
    )


def _persona_of(version: PersonaVersion) -> str | Persona:
    return version.text if version.parts is None else Persona.from_dict(version.parts)


def open_session(
    store: UserStore,
    user_id: str,
    *,
    home: Path | None = None,
    prose: bool | None = None,
    wikipedia: bool = True,
    retrieval: str = "hybrid",
    tools: Tools = None,
    settings: AgentSettings | None = None,
) -> Session:
    """Open a stored user's agent.

    A missing or outdated profile is built and stored; its prose summary costs one call of DSPy's
    configured model. A user without a persona gets `program.persona.first_persona`, which alignment adds
    facts and lines to.

    Args:
        store: The user's store.
        user_id: A stored user.
        home: The data directory, for caches; ``None`` for `program.home.home`.
        prose: Whether a model writes a summary into the profile; ``None``: unless the model's
            summaries are known to be unreliable.
        wikipedia: Whether the agent may search Wikipedia; its search words then leave the machine.
        retrieval: How memory is searched: hybrid, bm25, static, dense or recency.
        tools: Functions or tools to add to the default ones; a `ToolSet` replaces the default ones.
        settings: Limits of the agent's tool loop.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        dspy.LMError: The model failed to write the summary; nothing is stored.

    Example:
        >>> import dspy
        >>> from program import UserStore, scripted_lm
        >>> finish = {"thought": "", "action": {"tool": "finish", "answer": "Lentils."}}
        >>> def reply(system, user):
        ...     return finish if "`action`" in user else "Lentils."
        >>> with UserStore("users.db") as store, dspy.context(lm=scripted_lm(reply)):
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
        >>> def reply(system, user):
        ...     return finish if "`action`" in user else "Lentils."
        >>> async def ask(store, user_id, query):
        ...     session = await aopen_session(store, user_id, wikipedia=False)
        ...     prediction = await session.agent.acall(query=query)
        ...     return prediction.answer
        >>> with UserStore("users.db") as store, dspy.context(lm=scripted_lm(reply)):
        ...     store.add_user("ana", task="free-text")
        ...     asyncio.run(ask(store, "ana", "What shall I cook?"))
        'Lentils.'
    """
    return await asyncio.to_thread(open_session, store, user_id, **settings)


async def aprepare_profile(
    store: UserStore, user_id: str, *, max_input_chars: int = AgentSettings.max_input_chars
) -> None:
    """Build and store a user's profile if it is missing or outdated, as opening a session does.

    The call of the model does not keep a thread busy, so that many users can wait for theirs at once.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        dspy.LMError: The model failed; nothing is stored.

    Example:
        >>> import dspy
        >>> from program import scripted_lm
        >>> with (
        ...     UserStore("users.db") as store,
        ...     dspy.context(lm=scripted_lm(lambda system, user: "Likes tea.")),
        ... ):
        ...     store.add_user("ana", task="free-text")
        ...     _ = store.observe("ana", query="Which tea?", response="Mint.")
        ...     asyncio.run(aprepare_profile(store, "ana"))
        ...     store.profile("ana").prose
        'Likes tea.'
    """

    def outdated() -> EpisodicMemory | None:
        profile, n = store.profile(user_id), store.user(user_id).interactions
        if profile is not None and not profile.is_stale(n):
            return None
        return store.memory(user_id, retrieval="recency")

    memory = await asyncio.to_thread(outdated)
    if memory is not None:
        task = get_task(store.user(user_id).task)
        profile = await abuild_profile(memory, task, max_input_chars=max_input_chars)
        await asyncio.to_thread(store.save_profile, user_id, profile)
