"""The summary of semantic memory: one model call over the newest part of a history."""

from __future__ import annotations

import logging

import dspy
from dspy.utils.exceptions import AdapterParseError

from program.memory.base import Memory
from program.memory.semantic import Profile, count_facts, newest_within, render_facts
from program.models.adapter import program_adapter
from program.spans import about, span
from program.task import Task
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
    memory: Memory, task: Task, *, prose: bool | None = None, max_tokens: int = 1500, max_chars: int = 800
) -> Profile:
    """Make the profile of a user from the whole history (paper, section 2.1, f_s with prompt S_t).

    Args:
        memory: The user's episodic memory; may be empty.
        task: What the user is asked.
        prose: Whether to ask the configured model for a summary; without it no call is made.
            ``None``: unless the model says that its summaries are not worth it (``summarises``).
        max_tokens: How much of the history the model reads, newest first, about.
        max_chars: Longest summary kept, in characters.

    Raises:
        BudgetExceededError: The one call would pass the limit.
        dspy.LMError: The model failed.
    """
    history = memory.latest()
    facts = count_facts(history, task.response_type)
    if prose is None:
        prose = getattr(dspy.settings.lm, "summarises", True)
    if not prose or not history:
        return Profile(facts=facts)
    read = newest_within(history, max_tokens)
    lines = [f"- {i.response}: {i.query[:MAX_ITEM_CHARS]}" for i in read]
    with about(user_id=memory.user_id), span("profile"), stage("profile"), program_adapter():
        reserve_call()
        try:
            summary = dspy.Predict(SummarizeHistory)(
                task=task.question, facts=render_facts(facts), history="\n".join(lines)
            )
        except AdapterParseError:
            logger.warning("a user's summary could not be read; the profile has the counted facts only")
            return Profile(facts=facts)
    text = " ".join(str(summary.profile).split())
    return Profile(facts=facts, prose=text[:max_chars], interaction_ids=tuple(i.id for i in read))
