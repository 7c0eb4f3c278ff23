"""ReAct: DSPy's own agent with the same tools and no persona (Yao et al. 2023, arXiv 2210.03629)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import dspy
from dspy.utils.exceptions import AdapterParseError

from eval.contracts import Answer, Query, UserView
from eval.methods.base import BaseMethod
from eval.methods.final_answer import final_answer
from eval.methods.retrieval import check_retrieval, make_memory
from program.home import home
from program.loop import AgentSettings
from program.memory.base import Before
from program.memory.semantic import Profile, count_facts
from program.models.adapter import program_adapter
from program.persona import GENERIC
from program.task import Task
from program.tools import default_tools
from program.tools.base import Tool, ToolContext
from program.usage import reserve_call


class Ask(dspy.Signature):  # type: ignore[misc]
    """You are a helpful assistant."""

    task: str = dspy.InputField(desc="what every query asks for")
    query: str = dspy.InputField(desc="what to answer")
    answer: str = dspy.OutputField(desc="the final answer")


@dataclass(frozen=True, kw_only=True)
class React(BaseMethod):
    """`dspy.ReAct` calls the tools; the final answer is requested as in every other method.

    Attributes:
        k: Interactions returned by one memory search.
        max_steps: Most tool calls.
        retrieval: How the memory is searched: hybrid, bm25, static, dense or recency.
        wikipedia: Whether the agent may search Wikipedia; its search words leave the machine.
        item_chars: Most characters shown of one interaction.
    """

    name: ClassVar[str] = "react"
    k: int = 4
    max_steps: int = 5
    retrieval: str = "hybrid"
    wikipedia: bool = False
    item_chars: int = AgentSettings.item_chars

    def __post_init__(self) -> None:
        AgentSettings(k=self.k, item_chars=self.item_chars)
        check_retrieval(self.retrieval)

    def open(self, user: UserView, learned: Mapping[str, Any]) -> tuple[Task, dspy.ReAct]:
        """Return the task and an agent with the user's tools."""
        profile = Profile(facts=count_facts(user.history, user.task.response_type))

        def profile_at(before: Before) -> Profile:
            return profile

        context = ToolContext(
            memory=make_memory(user, self.retrieval),
            profile=profile_at,
            k=self.k,
            max_chars=self.item_chars,
            response_noun=user.task.response_noun,
        )
        tools = default_tools(home() / "cache", wikipedia=self.wikipedia).tools.values()
        agent = dspy.ReAct(
            Ask.with_instructions(GENERIC), [_as_dspy_tool(tool, context) for tool in tools], self.max_steps
        )
        agent.react = _BudgetedPredict(agent.react)
        agent.extract = _ReturnTrajectory()
        return user.task, agent

    def answer(self, prepared: tuple[Task, dspy.ReAct], query: Query) -> Answer:
        """Let the agent call tools, then answer in one more call."""
        task, agent = prepared
        with program_adapter():
            prediction = agent(task=task.question, query=query.text)
        answer = final_answer(task, query.text, observations=prediction.observations)
        return replace(answer, steps=({"trajectory": prediction.trajectory},))


class _BudgetedPredict(dspy.Module):  # type: ignore[misc]
    """ReAct's predictor, which reserves each call; an unparsable step ends the tool calls."""

    def __init__(self, predict: dspy.Predict) -> None:
        super().__init__()
        self.predict = predict

    def forward(self, **inputs: Any) -> Any:
        reserve_call()
        try:
            return self.predict(**inputs)
        except AdapterParseError:
            # ReAct would lose the whole answer, or log the model's text if it got the error it expects.
            return dspy.Prediction(next_thought="", next_tool_name="finish", next_tool_args={})


class _ReturnTrajectory(dspy.Module):  # type: ignore[misc]
    """Replaces ReAct's own last call: returns the formatted trajectory."""

    def forward(self, *, trajectory: str, **inputs: Any) -> dspy.Prediction:
        return dspy.Prediction(observations=trajectory)


def _as_dspy_tool(tool: Tool, context: ToolContext) -> dspy.Tool:
    """Return a tool, bound to one user, as DSPy's type."""

    def run(**arguments: Any) -> Any:
        return tool.run(*([context] if tool.needs_context else []), **arguments)

    args = {name: {"type": "string"} for name in tool.arguments}
    return dspy.Tool(func=run, name=tool.name, desc=tool.description, args=args)
