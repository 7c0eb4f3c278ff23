"""The last call of every method: the same question, answer type and wording as the agent's.

Methods without a persona differ from the agent only in the system prompt and in the steps before the
answer, so a comparison does not measure the answer format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from eval.contracts import Answer
from program.errors import UnparsableAnswerError
from program.final_question import final_question
from program.loop import AgentSettings, Step
from program.memory.interaction import Interaction
from program.models.adapter import UnusableReply, program_adapter
from program.models.label_probabilities import decision_client, record_probabilities
from program.persona import GENERIC
from program.task import Task
from program.usage import reserve_call


def final_answer(
    task: Task,
    query: str,
    *,
    steps: Sequence[Step] = (),
    shown: Mapping[str, Interaction] | None = None,
    observations: str = "",
    settings: AgentSettings | None = None,
) -> Answer:
    """Ask the model for the answer under a generic system prompt.

    An answer that does not fit the task's type is kept as raw text with ``valid=False``.

    Args:
        task: Gives the question and the answer's type.
        query: The query text.
        steps: What was retrieved, as if the agent had called tools.
        shown: The interactions that the steps show, by id.
        observations: Text to show instead of ``steps``.
        settings: The form of the question (see `program.final_question`).

    Raises:
        BudgetExceededError: The call would exceed a limit.
        UnparsableAnswerError: The model gave no answer, such as a refusal or a cut reply.
        dspy.LMError: The model failed.
    """
    question = final_question(
        GENERIC,
        task,
        query,
        steps=steps,
        shown=shown,
        findings=observations,
        settings=settings or AgentSettings(),
    )
    inputs = question.arguments()
    client = decision_client(dspy.settings.lm, task.answer)
    if client is not None:
        inputs["lm"] = client
    reserve_call()
    with program_adapter(), record_probabilities() as read_probabilities:
        try:
            prediction = dspy.Predict(question.signature)(**inputs)
        except UnusableReply as error:
            message = f"the model gave no answer: {error.reason}"
            raise UnparsableAnswerError(message, unusable=error.reason) from error
        except AdapterParseError as error:
            return Answer(text=str(error.lm_response), valid=False, steps=steps_as_dicts(steps))
        by_label = read_probabilities()
    return _parse(task, prediction.answer, steps=steps_as_dicts(steps), probabilities=by_label)


def _parse(task: Task, raw: object, **details: Any) -> Answer:
    try:
        return Answer(text=task.answer.parse(raw), **details)
    except UnparsableAnswerError as error:
        return Answer(text=error.raw, valid=False, **details)


def steps_as_dicts(steps: Sequence[Step]) -> tuple[dict[str, Any], ...]:
    """Return steps as plain data."""
    return tuple(asdict(step) for step in steps)
