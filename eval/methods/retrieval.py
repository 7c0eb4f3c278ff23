"""Retrieval for methods without an agent, as steps in the words of the agent's tools.

A baseline and the agent therefore read a user's history in the same form.
"""

from __future__ import annotations

from collections.abc import Sequence

from eval.contracts import UserView
from eval.methods.profiles import EMPTY_PROFILE
from eval.tasks.base import LampTask
from program.errors import DataError
from program.loop import AgentSettings, Step
from program.memory.base import Before, Memory
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.semantic import Profile, render
from program.task import Task
from program.tools.base import ToolContext
from program.tools.search_memory import search_memory


def check_retrieval(k: int, retrieval: str, item_chars: int) -> None:
    """Check retrieval settings without a model call.

    Raises:
        ConfigError: The retriever is unknown, ``k`` is below 1, or ``item_chars`` is too small.
        ModelSetupError: The retriever's encoder cannot be used.
    """
    from program.memory.retrieval import make_retriever

    AgentSettings(k=k, item_chars=item_chars)
    make_retriever(retrieval)


def make_memory(user: UserView, retrieval: str = "hybrid") -> EpisodicMemory:
    """Return the user's history as a memory that indexes the same fields as LaMP's retrievers.

    On LaMP's tasks ``bm25`` is ``lamp-bm25``: words split at white space, as in LaMP. The name in
    settings, run folders and reports stays ``bm25``. All other names mean what they mean to agents.
    """
    text = LampTask.of(user.task).retrieval_text
    if isinstance(user.task, LampTask) and retrieval == "bm25":
        retrieval = "lamp-bm25"
    return EpisodicMemory(user.user_id, user.history, retrieval=retrieval, indexed=text)


def search_words(task: Task, query: str) -> str:
    """Return LaMP's retrieval query for a query text."""
    try:
        return LampTask.of(task).retrieval_query(query)
    except DataError:
        # A known defect of LaMP's files: a LaMP-1 query without two options.
        return query


def search_step(memory: Memory, task: Task, query: str, *, k: int, item_chars: int) -> Step:
    """Return a memory search for ``query`` and its results."""
    words = search_words(task, query)
    return _make_step("search_memory", {"query": words}, _search(memory, task, words, k, item_chars))


def examples_step(user_id: str, examples: Sequence[Interaction], task: Task, *, item_chars: int) -> Step:
    """Return the given interactions in the form of search results, newest first."""
    memory = EpisodicMemory(user_id, examples, retrieval="recency")
    return _make_step("read_examples", {}, _search(memory, task, "", len(examples) or 1, item_chars))


def profile_step(profile: Profile) -> Step:
    """Return the profile as the agent's `read_profile` tool shows it."""
    return _make_step("read_profile", {}, render(profile))


def text_step(tool: str, text: str) -> Step:
    """Return ``text`` as the observation of a tool without arguments."""
    return _make_step(tool, {}, text)


def _search(memory: Memory, task: Task, words: str, k: int, item_chars: int) -> str:
    context = ToolContext(
        memory=memory,
        profile=_empty_profile,
        k=k,
        max_chars=item_chars,
        response_noun=task.response_noun,
    )
    return search_memory(context, words)


def _make_step(tool: str, arguments: dict[str, str], observation: str) -> Step:
    return Step(thought="", tool=tool, arguments=arguments, observation=observation)


def _empty_profile(before: Before) -> Profile:
    return EMPTY_PROFILE
