"""Texts and edits from the model of feedback and update, asked for once more if they cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from optimizers.edits import Edit, EditPersona
from program.errors import PersonaError
from program.models.adapter import program_adapter
from program.persona import validate_persona
from program.usage import current_tracker, reserve_call, stage, track_lm


async def ask_text(
    stage_name: str, signature: Any, *, lm: Any, max_chars: int, wait: bool, **inputs: str
) -> str | None:
    """Return the text of the signature's only output field; ``None`` if it cannot be used twice.

    Args:
        stage_name: The stage that the calls are counted under.
        signature: What is asked.
        lm: The model; ``None`` for the configured one.
        max_chars: A longer text cannot be used.
        wait: Whether the call may wait in an event loop; otherwise it blocks.
        **inputs: The signature's input fields.

    Raises:
        BudgetExceededError: The next call would pass a limit.
        dspy.LMError: The model failed.
    """
    predict = dspy.Predict(signature)
    field = next(iter(signature.output_fields))
    for attempt in range(2):
        # The same request would get the same reply from a cache or a deterministic model.
        config = {"rollout_id": attempt, "temperature": 0.7} if attempt else {}
        reserve_call()
        with _asking(stage_name, lm):
            try:
                if wait:
                    prediction = await predict.acall(config=config, **inputs)
                else:
                    prediction = predict(config=config, **inputs)
                return validate_persona(str(prediction[field]), max_chars=max_chars)
            except AdapterParseError:
                # The adapter has asked twice.
                return None
            except PersonaError:
                continue
    return None


async def ask_edits(*, lm: Any, wait: bool, **inputs: str) -> list[Edit] | None:
    """Return the edits that the model of feedback and update proposes; ``None`` if they cannot be read.

    Args:
        lm: The model; ``None`` for the configured one.
        wait: Whether the call may wait in an event loop; otherwise it blocks.
        **inputs: The input fields of `optimizers.edits.EditPersona`.

    Raises:
        BudgetExceededError: The next call would pass a limit.
        dspy.LMError: The model failed.
    """
    predict = dspy.Predict(EditPersona)
    reserve_call()
    with _asking("update", lm):
        try:
            prediction = await predict.acall(**inputs) if wait else predict(**inputs)
        except AdapterParseError:
            return None
    return list(prediction.edits)


@contextmanager
def _asking(stage_name: str, lm: Any) -> Iterator[None]:
    tracker = current_tracker()
    if lm is not None and tracker is not None:
        lm = track_lm(lm, tracker)
    with stage(stage_name), dspy.context(lm=lm or dspy.settings.lm, trace=None), program_adapter():
        yield


def number_feedback(texts: list[str]) -> str:
    """Return all feedback of a batch as the update reads it, numbered from 1."""
    return "\n\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
