"""DSPy signatures of the agent: one step, and the final answer.

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


@lru_cache(maxsize=4096)
def conclusion(persona: str, answer: AnswerType) -> Any:
    """Return the signature of the final answer, with ``persona`` as instructions.

    Cached: creating a signature class takes longer than the overhead of a model call.
    """
    desc = f"the final answer, {answer.hint}"
    typed = Conclude.with_updated_fields("answer", type_=answer.annotation, desc=desc)
    return typed.with_instructions(persona)
