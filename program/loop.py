"""The agent's loop: think, act, look, answer.

It knows neither the model nor DSPy: it asks through two callables, so it can be read, and tested,
on its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from program.answers import AnswerType
from program.errors import ConfigError, UnparsableAnswerError
from program.text import one_line
from program.tools.toolset import Observation, ToolSet

NO_STEPS = "nothing yet"
_SHOWN_ARGUMENT = 80


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """Everything that changes what the agent does, beside its persona, memory and tools.

    Attributes:
        max_steps: Most steps before the answer is forced from what was seen.
        min_actions: Fewest tool calls before an answer counts (the paper's persona asks for two).
        k: Interactions returned by one memory search.
        item_chars: Longest text shown of one interaction, in characters.
        conclude_apart: Ask for the final answer on its own, under its type and hint, even where a step
            has already given one: one more call, and the question that methods without steps ask.
    """

    max_steps: int = 5
    min_actions: int = 2
    k: int = 4
    item_chars: int = 300
    conclude_apart: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_actions <= self.max_steps:
            raise ConfigError(
                f"`min_actions` must be between 0 and `max_steps`, "
                f"got {self.min_actions!r} and {self.max_steps!r}"
            )
        if self.k < 1:
            raise ConfigError(f"`k` must be at least 1, got {self.k!r}")
        if self.item_chars < 20:
            raise ConfigError(f"`item_chars` must be at least 20, got {self.item_chars!r}")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One action and what came of it.

    Attributes:
        forced: Why the loop chose the action itself: the model's call could not be read
            (``"unreadable"``), it wanted to finish before ``min_actions`` (``"too early"``), or it
            asked for the very same look again (``"repeated"``). Empty where the model chose.
    """

    thought: str
    tool: str
    arguments: Mapping[str, Any]
    observation: str
    failed: bool = False
    forced: str = ""

    @property
    def call(self) -> str:
        """The tool call on one line, ``search_memory(rain)``; arguments are cut."""
        arguments = ", ".join(one_line(value, _SHOWN_ARGUMENT) for value in self.arguments.values())
        return f"{self.tool}({arguments})"

    def __str__(self) -> str:
        words = ", ".join(
            f"{name}={str(value)[:_SHOWN_ARGUMENT]!r}" for name, value in self.arguments.items()
        )
        return f"{self.tool}({words}) gave:\n{self.observation}"


@dataclass(frozen=True)
class Unreadable:
    """What a model said where it did not fit the type asked for."""

    raw: str


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """How a loop ends. ``probabilities`` maps labels to probabilities where the model gives them."""

    answer: str
    steps: tuple[Step, ...] = ()
    probabilities: Mapping[str, float] | None = None


Think = Callable[[str], Awaitable[Any]]
"""Given the rendered steps, a prediction with ``thought`` and ``action``, or `Unreadable`."""

Conclude = Callable[[str], Awaitable[Any]]
"""Given the rendered steps, a prediction with ``answer``, or `Unreadable`."""

Use = Callable[[Any], Awaitable[Observation]]
"""Carries out an action."""


async def run_loop(
    query: str,
    *,
    tools: ToolSet,
    answer_type: AnswerType,
    settings: AgentSettings,
    think: Think,
    use: Use,
    conclude: Conclude,
    always_conclude: bool = False,
) -> LoopResult:
    """Answer ``query`` in at most ``max_steps`` steps; then the answer is forced from what was seen.

    A look that shows nothing new ends the search too, once there were ``min_actions``: what was seen
    will not change. Without tools the answer is asked for at once. ``always_conclude`` asks for the
    final answer on its own even where a step has already given one, for models that give
    probabilities for it.

    Raises:
        UnparsableAnswerError: The final answer did not fit ``answer_type``.
    """
    steps: list[Step] = []
    for _ in range(settings.max_steps if tools.tools else 0):
        said = await think(render(steps))
        readable = not isinstance(said, Unreadable)
        action = said.action if readable else None
        forced = "" if readable else "unreadable"
        if action is not None and action.tool == "finish":
            if len(steps) >= settings.min_actions:
                if always_conclude:
                    break
                return LoopResult(answer=answer_type.parse(action.answer), steps=tuple(steps))
            forced = "too early"
        elif action is not None and _done(action.tool, action.model_dump(exclude={"tool"}), steps):
            forced = "repeated"
        if forced:
            action = _own_action(query, tools, steps)
            if action is None:
                break
        seen = await use(action)
        shown = 0 if seen.failed else _shown_in(seen.text, steps)
        steps.append(
            Step(
                thought=str(said.thought) if readable else "",
                tool=seen.tool,
                arguments=seen.arguments,
                observation=f"(the same as in step {shown})" if shown else seen.text,
                failed=seen.failed,
                forced=forced,
            )
        )
        if shown and len(steps) >= settings.min_actions:
            break
    said = await conclude(render(steps))
    if isinstance(said, Unreadable):
        raise UnparsableAnswerError(f"the final answer is not {answer_type.hint}", raw=said.raw)
    return LoopResult(
        answer=answer_type.parse(said.answer), steps=tuple(steps), probabilities=said.get("probabilities")
    )


def render(steps: Sequence[Step]) -> str:
    """Return the steps as the predictor reads them."""
    return "\n\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1)) or NO_STEPS


def _shown_in(text: str, steps: Sequence[Step]) -> int:
    """Return the number of the step that showed the very same, 0 where none did."""
    return next((number for number, step in enumerate(steps, 1) if step.observation == text), 0)


def _done(tool: str, arguments: Mapping[str, Any], steps: Sequence[Step]) -> bool:
    return any(step.tool == tool and step.arguments == arguments for step in steps)


def _own_action(query: str, tools: ToolSet, steps: Sequence[Step]) -> Any:
    """Return what the loop does in the model's place: search with the query itself, then the profile.

    ``None`` where both were done already or the tool set has neither: the same look twice would
    cost a model call and show nothing new.
    """
    for name, arguments in (("search_memory", {"query": query}), ("read_profile", {})):
        if name in tools.call_models and not _done(name, arguments, steps):
            return tools.call(name, **arguments)
    return None
