"""From the store to a user's program: the one place that puts memory, profile and persona together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from program.agent import PersonaAgent
from program.loop import AgentSettings
from program.memory.summary import build_profile
from program.persona import initial_persona
from program.store import UserStore
from program.store.records import PersonaVersion
from program.task import get_task
from program.tools import default_tools
from program.tools.toolset import ToolSet


@dataclass(frozen=True, kw_only=True)
class Session:
    """One user's program and the persona version it runs under."""

    agent: PersonaAgent
    version: PersonaVersion


def open_session(
    store: UserStore,
    user_id: str,
    *,
    home: Path,
    prose: bool | None = None,
    wikipedia: bool = True,
    retrieval: str = "bm25",
    tools: ToolSet | None = None,
    settings: AgentSettings | None = None,
) -> Session:
    """Return a user's program as stored; a user without a persona gets the initial one, stored first.

    The profile is made anew when the history has outgrown it; its prose costs one call of the
    configured model (``None``: where that is worth it, see `build_profile`).

    Raises:
        UnknownUserError: No such user.
        dspy.LMError: The model failed while summarising; nothing was stored.
    """
    task = get_task(store.user(user_id).task)
    memory = store.memory(user_id, retrieval=retrieval)
    profile = store.profile(user_id)
    if profile is None or profile.is_stale(len(memory)):
        profile = build_profile(memory, task, prose=prose)
        store.save_profile(user_id, profile)
    version = store.persona(user_id)
    if version is None:
        version = store.add_persona(
            user_id,
            initial_persona(profile),
            parent=None,
            source="initial",
            why="made from the user's profile",
        )
    agent = PersonaAgent.for_user(
        user_id,
        memory,
        tools if tools is not None else default_tools(home / "cache", wikipedia=wikipedia),
        task=task,
        profile=profile,
        persona=version.text,
        settings=settings,
    )
    return Session(agent=agent, version=version)
