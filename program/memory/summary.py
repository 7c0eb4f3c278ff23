"""Builds a profile: counted facts, and a summary in one model call over the newest interactions."""

from __future__ import annotations

import logging

import dspy
from dspy.utils.exceptions import AdapterParseError

from program.memory.base import Memory
from program.memory.semantic import Profile, count_facts, newest_within, render_facts
from program.models.adapter import program_adapter
from program.spans import about, span
from program.sync import run_now
from program.task import Task
from program.text import cut
from program.usage import reserve_call, stage

MAX_ITEM_CHARS = 400

logger = logging.getLogger("personaagent.program.memory")


class SummarizeHistory(dspy.Signature):  # type: ignore[misc]
    """Describe one user so that an assistant can answer as this user would.

    Say what the user prefers, cares about and avoids, as far as the history shows it. Use only what
    is written in the history. Three sentences at most, no names of people, no introduction.
    """

    task: str = dspy.InputField(desc="what the user is asked each time")
    facts: str = dspy.InputField(desc="exact counts over the whole history")
    history: str = dspy.InputField(desc="the user's latest answers, newest first")
    profile: str = dspy.OutputField(desc="who this user is, in plain prose")


def build_profile(
    memory: Memory,
    task: Task,
    *,
    prose: bool | None = None,
    max_tokens: int = 1500,
    max_chars: int = 800,
    max_input_chars: int = 12_000,
) -> Profile:
    """Build a user's profile from the whole history (paper, section 2.1, f_s with prompt S_t).

    Args:
        memory: The user's episodic memory; may be empty.
        task: The user's task.
        prose: Whether the configured model writes a summary, in one call. ``None``: unless its
            attribute ``summarises`` is false.
        max_tokens: Approximate part of the history that the model reads, newest first.
        max_chars: Maximum length of the summary; a longer one is cut.
        max_input_chars: Maximum length of a response that the model reads; a longer one is cut.

    Raises:
        BudgetExceededError: The call would exceed the budget.
        dspy.LMError: The model failed.

    Example:
        >>> import dspy
        >>> from program import EpisodicMemory, Interaction, get_task, scripted_lm
        >>> film = Interaction(id="1", user_id="ana", query="A film for today?", response="Alien.")
        >>> with dspy.context(lm=scripted_lm(lambda system, user: "Likes science fiction.")):
        ...     profile = build_profile(EpisodicMemory("ana", [film]), get_task("free-text"))
        >>> profile.prose, profile.facts.interactions
        ('Likes science fiction.', 1)
    """
    return run_now(
        _build(
            memory,
            task,
            prose=prose,
            max_tokens=max_tokens,
            max_chars=max_chars,
            max_input_chars=max_input_chars,
            wait=False,
        )
    )


async def abuild_profile(memory: Memory, task: Task, *, max_input_chars: int = 12_000) -> Profile:
    """Build a user's profile like `build_profile`, without blocking the event loop."""
    return await _build(
        memory, task, prose=None, max_tokens=1500, max_chars=800, max_input_chars=max_input_chars, wait=True
    )


async def _build(
    memory: Memory,
    task: Task,
    *,
    prose: bool | None,
    max_tokens: int,
    max_chars: int,
    max_input_chars: int,
    wait: bool,
) -> Profile:
    history = memory.latest()
    facts = count_facts(history, task.response_type)
    if prose is None:
        prose = getattr(dspy.settings.lm, "summarises", True)
    if not prose or not history:
        return Profile(facts=facts)
    newest = newest_within(history, max_tokens, max_chars=max_input_chars)
    lines = [f"- {cut(i.response, max_input_chars)}: {i.query[:MAX_ITEM_CHARS]}" for i in newest]
    with about(user_id=memory.user_id), span("profile"), stage("profile"), program_adapter():
        reserve_call()
        inputs = {"task": task.question, "facts": render_facts(facts), "history": "\n".join(lines)}
        predict = dspy.Predict(SummarizeHistory)
        try:
            summary = await predict.acall(**inputs) if wait else predict(**inputs)
        except AdapterParseError:
            logger.warning("cannot parse the summary of a user; the profile has only the counted facts")
            return Profile(facts=facts)
    text = " ".join(str(summary.profile).split())
    return Profile(facts=facts, prose=text[:max_chars], interaction_ids=tuple(i.id for i in newest))
