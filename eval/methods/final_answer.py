"""The last call of every method: the same question, the same answer type, the same words as the agent's.

Methods without a persona differ from the agent in the system prompt and in what was found out
beforehand, and in nothing else, so a comparison does not measure the answer format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from eval.contracts import Answer
from program.errors import UnparsableAnswerError
from program.loop import Step, render
from program.models.adapter import program_adapter
from program.models.label_probabilities import decision_client, record_probabilities
from program.persona import GENERIC
from program.signatures import conclusion
from program.task import Task
from program.usage import reserve_call


def final_answer(task: Task, query: str, *, steps: Sequence[Step] = (), seen: str = "") -> Answer:
    """Ask the model for the answer, under a system prompt that knows no user.

    Args:
        task: Gives the question and the answer's type.
        query: The query text.
        steps: What was found out, as if the agent had done it.
        seen: The same as text, where there are no steps.

    Raises:
        BudgetExceededError: The call would pass the limit.
        dspy.LMError: The model failed.
    """
    inputs: dict[str, Any] = {"task": task.question, "steps": seen or render(steps), "query": query}
    client = decision_client(dspy.settings.lm, task.answer)
    if client is not None:
        inputs["lm"] = client
    reserve_call()
    with program_adapter(), record_probabilities() as read:
        try:
            said = dspy.Predict(conclusion(GENERIC, task.answer))(**inputs)
        except AdapterParseError as error:
            return Answer(text=str(error.lm_response), valid=False, steps=plain(steps))
        found = read()
    return _checked(task, said.answer, steps=plain(steps), probabilities=found)


def _checked(task: Task, raw: object, **more: Any) -> Answer:
    """Return ``raw`` as an answer; what does not fit the task's type is kept as it is, as invalid."""
    try:
        return Answer(text=task.answer.parse(raw), **more)
    except UnparsableAnswerError as error:
        return Answer(text=error.raw, valid=False, **more)


def plain(steps: Sequence[Step]) -> tuple[dict[str, Any], ...]:
    """Return steps as plain data."""
    return tuple(asdict(step) for step in steps)
