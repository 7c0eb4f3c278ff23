"""DSPy signatures of the agent: one step, and the final answer in its two forms.

Their docstrings are placeholders: the user's persona replaces them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import dspy

from program.answers import AnswerType


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


@lru_cache(maxsize=4096)
def with_instructions(signature: Any, text: str) -> Any:
    """Return ``signature`` with other instructions. Cached: a class takes longer than a prompt."""
    return signature.with_instructions(text)


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
    signature = Continue.with_updated_fields(
        "answer", type_=answer.annotation, desc=f"the final answer, {answer.hint}"
    )
    if findings:
        field = dspy.InputField(desc="what was found out about the user")
        signature = signature.prepend("steps", field, str)
    return signature.with_instructions(f"{persona}\n\n{question}")


@lru_cache(maxsize=4096)
def conclusion(persona: str, answer: AnswerType) -> Any:
    """Return the signature of the final answer, with ``persona`` as instructions.

    Cached: creating a signature class takes longer than the overhead of a model call.
    """
    desc = f"the final answer, {answer.hint}"
    typed = Conclude.with_updated_fields("answer", type_=answer.annotation, desc=desc)
    return typed.with_instructions(persona)
