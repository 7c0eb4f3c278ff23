"""The final question: how what was found out about a user, and the query, reach the model.

The form decides what a small model can use: four interactions written as a list of findings gave less than
half of the accuracy of the same four as examples in the query's own form (``eval/RESULTS.md``).
Agents and the methods without an agent ask in the same form, so that a comparison measures neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from program.answers import AnswerType, Rating, fits
from program.loop import AgentSettings, Step, render
from program.memory.interaction import Interaction
from program.signatures import conclusion, continuation
from program.task import Task
from program.text import cut

EXAMPLE_TOOLS = frozenset({"search_memory", "read_examples"})
"""Tools with observations that consist of interactions only."""


@dataclass(frozen=True, kw_only=True)
class FinalQuestion:
    """What a `dspy.Predict` is called with for the final answer.

    Attributes:
        signature: The persona, the task and the fields.
        demos: Interactions as examples, the one next to the query last.
        inputs: The query, and what else was found out.
    """

    signature: Any
    demos: Sequence[Mapping[str, Any]]
    inputs: Mapping[str, str]

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the predictor."""
        return {**self.inputs, "signature": self.signature, "demos": list(self.demos)}


def final_question(
    persona: str,
    task: Task,
    query: str,
    *,
    steps: Sequence[Step] = (),
    shown: Mapping[str, Interaction] | None = None,
    findings: str = "",
    settings: AgentSettings,
) -> FinalQuestion:
    """Return the final question of an answer.

    Args:
        persona: The instructions.
        task: Gives the question and the type of the answer.
        query: The query text.
        steps: What was found out, in order.
        shown: The interactions that the steps may show, by id.
        findings: A text in place of the steps, if they are not of our tools.
        settings: ``history``, ``last``, ``k`` and ``item_chars`` apply.

    Example:
        >>> from program import Interaction, get_task
        >>> film = Interaction(id="1", user_id="ana", query="A heist goes wrong.", response="action")
        >>> step = Step(
        ...     thought="",
        ...     tool="search_memory",
        ...     arguments={"query": "heist"},
        ...     observation="1. tag: action | A heist goes wrong.",
        ...     interaction_ids=("1",),
        ... )
        >>> settings = AgentSettings()
        >>> question = final_question(
        ...     "Be brief.",
        ...     get_task("LaMP-2M"),
        ...     "A robbery.",
        ...     steps=[step],
        ...     shown={"1": film},
        ...     settings=settings,
        ... )
        >>> question.demos
        [{'query': 'A heist goes wrong.', 'answer': 'action'}]
    """
    if settings.history == "findings" or not can_be_examples(task):
        return FinalQuestion(
            signature=conclusion(persona, task.answer),
            demos=(),
            inputs={"task": task.question, "steps": findings or render(steps), "query": query},
        )
    others = [step for step in steps if step.tool not in EXAMPLE_TOOLS or step.failed]
    findings = findings or (render(others) if others else "")
    signature = continuation(persona, task.question, task.answer, findings=bool(findings))
    inputs = {"steps": findings, "query": query} if findings else {"query": query}
    examples = _order(steps, shown or {}, settings)
    demos = [_example(item, task.answer, settings.item_chars) for item in examples]
    return FinalQuestion(signature=signature, demos=demos, inputs=inputs)


def can_be_examples(task: Task) -> bool:
    """Return whether past interactions are queries of the task itself (in LaMP-1 they are not)."""
    return task.pairs is None and task.response_type == task.answer


def _order(
    steps: Sequence[Step], shown: Mapping[str, Interaction], settings: AgentSettings
) -> list[Interaction]:
    """Return at most ``k`` interactions, the one next to the query last."""
    ranks: dict[str, int] = {}
    for step in steps:
        for rank, interaction_id in enumerate(step.interaction_ids):
            if interaction_id in shown:
                ranks[interaction_id] = min(rank, ranks.get(interaction_id, rank))
    # The sort is stable: of equal ranks the earlier search comes first.
    best = sorted(ranks, key=ranks.__getitem__)[: settings.k]
    if settings.last == "similar":
        return [shown[interaction_id] for interaction_id in reversed(best)]
    return [item for interaction_id, item in shown.items() if interaction_id in best]


def _example(item: Interaction, answer: AnswerType, max_chars: int) -> dict[str, Any]:
    response: str | int = cut(item.response, max_chars)
    if isinstance(answer, Rating) and fits(answer, item.response):
        response = int(item.response)
    return {"query": cut(item.query, max_chars), "answer": response}
