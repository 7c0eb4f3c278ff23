"""DSPy signatures of the agent: one step, and the final answer in its two forms.

Their docstrings are placeholders: the user's persona replaces them.
"""

from __future__ import annotations

from abc import ABCMeta
from functools import lru_cache
from typing import Any

import dspy

from program.answers import AnswerType

_GENERATED = "StringSignature"
"""DSPy's name of classes that are in no module: they are saved with their fields."""


class Act(dspy.Signature):  # type: ignore[misc]
    """You are a personal assistant."""

    task: str = dspy.InputField(desc="what every query asks for")
    tools: str = dspy.InputField(desc="the tools you can call; `finish` gives the answer")
    query: str = dspy.InputField(desc="what to answer")
    steps: str = dspy.InputField(desc="what you did so far and what came of it")
    thought: str = dspy.OutputField(desc="one sentence: what you still need to know")
    action: Any = dspy.OutputField(desc='one tool call, such as {"tool": "NAME", "ARGUMENT": "..."}')


class Conclude(dspy.Signature):  # type: ignore[misc]
    """You are a personal assistant."""

    task: str = dspy.InputField(desc="what every query asks for")
    steps: str = dspy.InputField(desc="what was found out about the user")
    query: str = dspy.InputField(desc="what to answer")
    answer: Any = dspy.OutputField(desc="the final answer")


class Continue(dspy.Signature):  # type: ignore[misc]
    """You are a personal assistant."""

    query: str = dspy.InputField(desc="what to answer")
    answer: Any = dspy.OutputField(desc="the final answer")


@lru_cache(maxsize=256)
def acting(action: Any) -> Any:
    """Return the signature of a step whose action has this type. Cached: it is the same for many users."""
    return Act.with_updated_fields("action", type_=action)


def own_class(signature: Any, text: str) -> Any:
    """Return a class like ``signature`` with other instructions, as DSPy's ``with_instructions`` does.

    It inherits the fields, so that pydantic need not compile them again: 0.02 ms instead of 0.8 ms.

    Example:
        >>> brief = own_class(Conclude, "Be brief.")
        >>> brief.instructions, list(brief.fields) == list(Conclude.fields), Conclude.instructions
        ('Be brief.', True, 'You are a personal assistant.')
    """
    has_fields = next(kind for kind in signature.__mro__ if "__pydantic_fields__" in vars(kind))
    names = {"__doc__": text, "__module__": __name__, "__qualname__": _GENERATED}
    # Not by pydantic's metaclass, which would compile them.
    return ABCMeta.__new__(type(signature), _GENERATED, (has_fields,), names)


@lru_cache(maxsize=4096)
def with_instructions(signature: Any, text: str) -> Any:
    """Return ``signature`` with other instructions. Cached, so that what is kept by signature is, too."""
    return own_class(signature, text)


@lru_cache(maxsize=4096)
def continuation(persona: str, question: str, answer: AnswerType, *, findings: bool) -> Any:
    """Return the signature of a final answer that follows examples in its own form.

    The question stands with the persona, so that an example needs a query and an answer alone.

    Args:
        persona: The instructions.
        question: The task's question.
        answer: The type of the answer.
        findings: Whether the query comes with what tools found besides the examples.
    """
    return own_class(_continuing(answer, findings=findings), f"{persona}\n\n{question}")


@lru_cache(maxsize=256)
def _continuing(answer: AnswerType, *, findings: bool) -> Any:
    signature = Continue.with_updated_fields(
        "answer", type_=answer.annotation, desc=f"the final answer, {answer.hint}"
    )
    if findings:
        field = dspy.InputField(desc="what was found out about the user")
        signature = signature.prepend("steps", field, str)
    return signature


@lru_cache(maxsize=4096)
def conclusion(persona: str, answer: AnswerType) -> Any:
    """Return the signature of the final answer, with ``persona`` as instructions."""
    return own_class(_concluding(answer), persona)


@lru_cache(maxsize=256)
def _concluding(answer: AnswerType) -> Any:
    return Conclude.with_updated_fields(
        "answer", type_=answer.annotation, desc=f"the final answer, {answer.hint}"
    )
