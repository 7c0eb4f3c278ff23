"""MemoryBank: summarised days and a forgetting curve (Zhong et al. 2023, arXiv 2305.10250).

From the paper: daily summaries of events, a portrait of the user from these summaries, and Ebbinghaus
retention R = exp(-t / S). Here t is the time since a memory was last recalled; its strength S grows by
one with each recall.

Our deviations: the wording of the prompts; time counts only days on which the user was active, because
histories have gaps of years; forgetting weights the rank instead of dropping memories at random, so
results are reproducible; before the first query, each interaction recalls the memories it retrieves.
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
from eval.methods.final_answer import final_answer
from eval.methods.retrieval import SearchesHistory, make_memory, search_words, show_examples, text_step
from program.errors import ConfigError
from program.loop import Step
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.summary import MAX_ITEM_CHARS
from program.models.adapter import program_adapter
from program.task import Task
from program.usage import reserve_call, stage

_MAX_SUMMARY_CHARS = 400
_MAX_EVENTS = 12
_CANDIDATES = 4
"""Retention reranks this many times `k` search results."""


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
class MemoryBank(SearchesHistory):
    """Memories weighted by retention, beside a portrait made from daily summaries.

    The search gives the candidates that retention ranks again.

    Attributes:
        days: How many of the latest days are summarised, at most; ``k`` undated interactions make a day.
        strength: Strength S of a memory that was never recalled, in active days.
    """

    name: ClassVar[str] = "membank"
    days: int = 5
    strength: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.days < 1 or self.strength <= 0:
            raise ConfigError(
                f"`days` must be 1 or more and `strength` above 0, got {self.days!r} and {self.strength!r}"
            )

    def prepare(self, user: UserView) -> Mapping[str, Any]:
        """Summarise the latest days, then the user, in at most ``days`` + 1 calls."""
        latest = _split_by_day(user.history, self.k)[-self.days :]
        with stage("profile"), program_adapter():
            summaries = [_summarize(SummarizeDay, user.task, events=_format_events(day)) for day in latest]
            listed = "\n".join(f"- {summary}" for summary in summaries)
            portrait = _summarize(DescribeUser, user.task, summaries=listed) if summaries else ""
        return {"summaries": summaries, "portrait": portrait}

    def open(self, user: UserView, learned: Mapping[str, Any]) -> _Bank:
        """Return the memories, the retention of each, and the portrait."""
        memory = make_memory(user, self.retrieval)
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
        user_id, task = prepared.memory.user_id, prepared.task
        memories = show_examples(user_id, recalled, task, self.form)
        steps = [prepared.portrait, memories.step]
        return final_answer(task, query.text, steps=steps, shown=memories.items, settings=self.form)


@dataclass(frozen=True, kw_only=True)
class _Bank:
    task: Task
    memory: EpisodicMemory
    portrait: Step
    retention: Mapping[str, float]

    def recall(self, query: str, k: int) -> list[Interaction]:
        """Return the ``k`` memories with the highest retention / rank, in time order."""
        candidates = self.memory.search(search_words(self.task, query), _CANDIDATES * k)
        weight = {item.id: self.retention[item.id] / rank for rank, item in enumerate(candidates, 1)}
        recalled = {item.id for item in sorted(candidates, key=lambda item: -weight[item.id])[:k]}
        return [item for item in self.memory.latest() if item.id in recalled]


def _retention(user: UserView, memory: EpisodicMemory, k: int, strength: float) -> dict[str, float]:
    """Return R = exp(-t / S), in (0, 1), of each memory the day after the history ends."""
    days = _split_by_day(user.history, k)
    last_recall = {item.id: number for number, day in enumerate(days) for item in day}
    recalls = dict.fromkeys(last_recall, 0)
    for number, day in enumerate(days):
        for item in day:
            for recalled in memory.search(item.query, k, before=item.id):
                recalls[recalled.id] += 1
                last_recall[recalled.id] = number
    now = len(days)
    return {
        item_id: math.exp(-(now - number) / (strength + recalls[item_id]))
        for item_id, number in last_recall.items()
    }


def _split_by_day(history: Sequence[Interaction], undated: int) -> list[list[Interaction]]:
    """Split a history into days, and interactions without a date into groups of ``undated``."""
    days: list[list[Interaction]] = []
    for date, items in groupby(history, key=lambda item: item.timestamp and item.timestamp.date()):
        same = list(items)
        if date is not None:
            days.append(same)
        else:
            days += [same[start : start + undated] for start in range(0, len(same), undated)]
    return days


def _format_events(day: Sequence[Interaction]) -> str:
    return "\n".join(f"- {item.response}: {item.query[:MAX_ITEM_CHARS]}" for item in day[-_MAX_EVENTS:])


def _summarize(signature: Any, task: Task, **inputs: str) -> str:
    """Return the model's text, shortened; empty if the reply cannot be parsed."""
    reserve_call()
    try:
        prediction = dspy.Predict(signature)(task=task.question, **inputs)
    except AdapterParseError:
        return ""
    text = str(prediction[next(iter(signature.output_fields))])
    return " ".join(text.split())[:_MAX_SUMMARY_CHARS]
