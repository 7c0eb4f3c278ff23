"""MemoryBank: summarised days and a forgetting curve (Zhong et al. 2023, arXiv 2305.10250).

What is theirs: events summarised by day, a portrait of the user made from the summaries, and
retention R = exp(-t / S) by Ebbinghaus, where t is the time since a memory was last recalled and S,
its strength, grows by one with each recall. What is ours: the wording; time counted in days on which the
user was active, because histories have gaps of years; forgetting as a weight on the rank instead of a
random draw, so that results can be repeated; recalls before the test are those that the user's own
later interactions would have caused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import dspy
from dspy.utils.exceptions import AdapterParseError

from eval.contracts import Answer, Query, UserView
from eval.methods.base import BaseMethod
from eval.methods.final_answer import final_answer
from eval.methods.retrieval import check_retrieval, examples_step, memory_of, search_words, text_step
from program.errors import ConfigError
from program.loop import AgentSettings, Step
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.summary import MAX_ITEM_CHARS
from program.models.adapter import program_adapter
from program.task import Task
from program.usage import reserve_call, stage

_MAX_SUMMARY_CHARS = 400
_ITEMS_READ = 12
_CANDIDATES = 4
"""How many times `k` memories are ranked anew by what is left of them."""


class SummarizeDay(dspy.Signature):  # type: ignore[misc]
    """Summarise what this user did on one day, in one or two sentences, with the user's preferences."""

    task: str = dspy.InputField(desc="what the user is asked each time")
    events: str = dspy.InputField(desc="the user's answers of that day")
    summary: str = dspy.OutputField(desc="one or two sentences")


class DescribeUser(dspy.Signature):  # type: ignore[misc]
    """Describe this user's preferences as the daily summaries show them, in three sentences at most."""

    task: str = dspy.InputField(desc="what the user is asked each time")
    summaries: str = dspy.InputField(desc="daily summaries, oldest first")
    portrait: str = dspy.OutputField(desc="the user's preferences")


@dataclass(frozen=True, kw_only=True)
class MemoryBank(BaseMethod):
    """Memories weighted by how much of them is left, beside a portrait made from daily summaries.

    Attributes:
        k: Memories shown with a query.
        days: Most days that are summarised, the latest; a day without a date has ``k`` interactions.
        strength: Strength S of a memory never recalled, in days of activity.
        retrieval: How memories are found, before forgetting counts.
        item_chars: Longest text shown of one interaction, in characters.
    """

    name: ClassVar[str] = "membank"
    k: int = 4
    days: int = 5
    strength: float = 5.0
    retrieval: str = "bm25"
    item_chars: int = AgentSettings.item_chars

    def __post_init__(self) -> None:
        check_retrieval(self.k, self.retrieval, self.item_chars)
        if self.days < 1 or self.strength <= 0:
            raise ConfigError(
                f"`days` must be 1 or more and `strength` above 0, got {self.days!r} and {self.strength!r}"
            )

    def prepare(self, user: UserView) -> Mapping[str, Any]:
        """Summarise the latest days, then the user: ``days`` + 1 calls at most."""
        latest = _by_day(user.history, self.k)[-self.days :]
        with stage("profile"), program_adapter():
            summaries = [_ask(SummarizeDay, user.task, events=_listed(day)) for day in latest]
            listed = "\n".join(f"- {summary}" for summary in summaries)
            portrait = _ask(DescribeUser, user.task, summaries=listed) if summaries else ""
        return {"summaries": summaries, "portrait": portrait}

    def open(self, user: UserView, learned: Mapping[str, Any]) -> _Bank:
        """Return the memories with what is left of each."""
        memory = memory_of(user, self.retrieval)
        text = "\n".join([learned["portrait"], *(f"- {summary}" for summary in learned["summaries"])])
        return _Bank(
            task=user.task,
            memory=memory,
            portrait=text_step("read_portrait", text.strip() or "Nothing is known about this user yet."),
            retention=_retention(user, memory, self.k, self.strength),
        )

    def answer(self, prepared: _Bank, query: Query) -> Answer:
        """Recall, then answer in one call."""
        recalled = prepared.recall(query.text, self.k)
        shown = examples_step(prepared.memory.user_id, recalled, prepared.task, item_chars=self.item_chars)
        return final_answer(prepared.task, query.text, steps=[prepared.portrait, shown])


@dataclass(frozen=True, kw_only=True)
class _Bank:
    task: Task
    memory: EpisodicMemory
    portrait: Step
    retention: Mapping[str, float]

    def recall(self, query: str, k: int) -> list[Interaction]:
        """Return the ``k`` memories whose rank and retention are best together, in time order."""
        found = self.memory.search(search_words(self.task, query), _CANDIDATES * k)
        weight = {item.id: self.retention[item.id] / rank for rank, item in enumerate(found, 1)}
        best = sorted(found, key=lambda item: -weight[item.id])[:k]
        chosen = {item.id for item in best}
        return [item for item in self.memory.latest() if item.id in chosen]


def _retention(user: UserView, memory: EpisodicMemory, k: int, strength: float) -> dict[str, float]:
    """Return R = exp(-t / S) of each memory after the whole history, in (0, 1]."""
    days = _by_day(user.history, k)
    last = {item.id: number for number, day in enumerate(days) for item in day}
    recalls = dict.fromkeys(last, 0)
    for number, day in enumerate(days):
        for item in day:
            for recalled in memory.search(item.query, k, before=item.id):
                recalls[recalled.id] += 1
                last[recalled.id] = number
    now = len(days)
    return {item: math.exp(-(now - last[item]) / (strength + recalls[item])) for item in last}


def _by_day(history: Sequence[Interaction], undated: int) -> list[list[Interaction]]:
    """Split a history into days; interactions without a date into groups of ``undated``."""
    days: list[list[Interaction]] = []
    for date, items in groupby(history, key=lambda item: item.timestamp and item.timestamp.date()):
        same = list(items)
        if date is not None:
            days.append(same)
        else:
            days += [same[start : start + undated] for start in range(0, len(same), undated)]
    return days


def _listed(day: Sequence[Interaction]) -> str:
    return "\n".join(f"- {item.response}: {item.query[:MAX_ITEM_CHARS]}" for item in day[-_ITEMS_READ:])


def _ask(signature: Any, task: Task, **inputs: str) -> str:
    """Return a short text; an empty one where the model's cannot be read."""
    reserve_call()
    try:
        said = dspy.Predict(signature)(task=task.question, **inputs)
    except AdapterParseError:
        return ""
    text = str(said[next(iter(signature.output_fields))])
    return " ".join(text.split())[:_MAX_SUMMARY_CHARS]
