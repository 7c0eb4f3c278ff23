"""What methods without an agent find out before they answer, in the agent's own words.

The texts are those of the agent's tools, so that a baseline and the agent read a user's history in
the same form.
"""

from __future__ import annotations

from collections.abc import Sequence

from eval.contracts import UserView
from eval.tasks.base import LampTask
from program.errors import DataError
from program.loop import AgentSettings, Step
from program.memory.base import Before, Memory
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile, render
from program.task import Task
from program.tools.base import ToolContext
from program.tools.search_memory import search_memory


def check_retrieval(k: int, retrieval: str, item_chars: int) -> None:
    """Refuse settings that cannot work, before anything is paid.

    Raises:
        ConfigError: No such retriever, ``k`` below 1, or ``item_chars`` too small to read.
        ModelSetupError: The retriever's encoder cannot be used.
    """
    from program.memory.retrieval import make_retriever

    AgentSettings(k=k, item_chars=item_chars)
    make_retriever(retrieval)


def memory_of(user: UserView, retrieval: str = "bm25") -> EpisodicMemory:
    """Return the user's history as a memory that is searched in what LaMP's retrievers read of an item."""
    text = LampTask.of(user.task).retrieval_text
    return EpisodicMemory(user.user_id, user.history, retrieval=retrieval, indexed=text)


def search_words(task: Task, query: str) -> str:
    """Return LaMP's retrieval query for a query text."""
    try:
        return LampTask.of(task).retrieval_query(query)
    except DataError:
        # One of the known defects of the files: a LaMP-1 query that shows no two options.
        return query


def search_step(memory: Memory, task: Task, query: str, *, k: int, item_chars: int) -> Step:
    """Return what a search of the memory gives for a query."""
    words = search_words(task, query)
    return _step("search_memory", {"query": words}, _search(memory, task, words, k, item_chars))


def examples_step(user_id: str, examples: Sequence[Interaction], task: Task, *, item_chars: int) -> Step:
    """Return given interactions as a search would have shown them, newest first."""
    memory = EpisodicMemory(user_id, examples, retrieval="recency")
    return _step("read_examples", {}, _search(memory, task, "", len(examples) or 1, item_chars))


def profile_step(profile: Profile) -> Step:
    """Return what reading the profile gives."""
    return _step("read_profile", {}, render(profile))


def text_step(tool: str, text: str) -> Step:
    """Return any text as what a tool of that name gave."""
    return _step(tool, {}, text)


def _search(memory: Memory, task: Task, words: str, k: int, item_chars: int) -> str:
    context = ToolContext(
        memory=memory,
        profile=_no_profile,
        k=k,
        max_chars=item_chars,
        response_noun=task.response_noun,
    )
    return search_memory(context, words)


def _step(tool: str, arguments: dict[str, str], text: str) -> Step:
    return Step(thought="", tool=tool, arguments=arguments, observation=text)


def _no_profile(before: Before) -> Profile:
    return Profile(facts=Facts(interactions=0))
