"""Retrieval for methods without an agent, as steps in the words of the agent's tools.

A baseline and the agent therefore read a user's history in the same form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from eval.contracts import UserView
from eval.methods.base import ShowsHistory
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


def check_retrieval(retrieval: str) -> None:
    """Check the name of a retriever without a model call.

    Raises:
        ConfigError: The retriever is unknown.
        ModelSetupError: The retriever's encoder cannot be used.
    """
    from program.memory.retrieval import make_retriever

    make_retriever(retrieval)


@dataclass(frozen=True)
class Shown:
    """A step of a method without an agent, and the interactions that it shows, by id and in time order."""

    step: Step
    items: Mapping[str, Interaction]


@dataclass(frozen=True, kw_only=True)
class SearchesHistory(ShowsHistory):
    """A method without an agent that searches the user's history for each query.

    Attributes:
        retrieval: hybrid, bm25, static, dense or recency (see `program.memory.retrieval.make_retriever`).
    """

    retrieval: str = "hybrid"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_retrieval(self.retrieval)

    def search(self, memory: Memory, task: Task, query: str) -> Shown:
        """Return a memory search for ``query`` and its results."""
        words = search_words(task, query)
        return _show("search_memory", {"query": words}, memory, task, words, self.form)


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


def show_examples(user_id: str, examples: Sequence[Interaction], task: Task, form: AgentSettings) -> Shown:
    """Return the given interactions as if a search had found them, newest first."""
    memory = EpisodicMemory(user_id, examples, retrieval="recency")
    return _show("read_examples", {}, memory, task, "", form)


def profile_step(profile: Profile) -> Step:
    """Return the profile as the agent's `read_profile` tool shows it."""
    return _make_step("read_profile", {}, render(profile))


def text_step(tool: str, text: str) -> Step:
    """Return ``text`` as the observation of a tool without arguments."""
    return _make_step(tool, {}, text)


def _show(
    tool: str, arguments: dict[str, str], memory: Memory, task: Task, words: str, form: AgentSettings
) -> Shown:
    context = ToolContext(
        memory=memory,
        profile=_empty_profile,
        k=form.k,
        max_chars=form.item_chars,
        response_noun=task.response_noun,
    )
    step = _make_step(tool, arguments, search_memory(context, words))
    ids = tuple(item.id for item in context.shown)
    shown = [item for item in memory.latest() if item.id in ids]
    return Shown(replace(step, interaction_ids=ids), {item.id: item for item in shown})


def _make_step(tool: str, arguments: dict[str, str], observation: str) -> Step:
    return Step(thought="", tool=tool, arguments=arguments, observation=observation)


def _empty_profile(before: Before) -> Profile:
    return EMPTY_PROFILE
