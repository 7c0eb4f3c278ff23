"""The agent's tool loop: think, act, observe, answer.

The model and the tools are callables, so the loop can be read and tested without DSPy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from program.answers import AnswerType
from program.errors import ConfigError, UnparsableAnswerError
from program.limits import MANY, MOST_STEPS, check_at_most
from program.text import one_line
from program.tools.toolset import Observation, ToolSet

NO_STEPS = "nothing yet"
HISTORY_FORMS = ("examples", "findings")
LAST = ("similar", "newest")
PAPER_ACTIONS = 2
"""Tool calls that the paper's initial persona asks for (appendix B)."""
_ARGUMENT_CHARS = 80


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """Limits and sizes of the agent's tool loop.

    Attributes:
        max_steps: Most tool calls before the final answer is requested.
        min_actions: Fewest tool calls before an answer is accepted; ``None``: two, as the paper's persona
            asks, or none if the persona has parts.
        k: Interactions returned by one memory search.
        item_chars: Most characters shown of one interaction; at least 20.
        max_input_chars: Most characters of a response in the profile's prompt, and of each text that
            feedback is written from; longer ones are cut, so that one long text does not exceed what
            the model takes. At least 200.
        history: The form in which interactions that memory search showed reach the final question:
            ``examples`` as DSPy demos in the form of the query, ``findings`` as a tool's text.
        last: Which example stands next to the query: the most ``similar`` or the ``newest``.
        search_first: Search memory with the query before the model's first step; ``None``: if the persona
            has parts. A model that says that its tool calls are not worth their time (``uses_tools`` is
            false) then answers at once.
        conclude_apart: Always request the final answer in a separate call, with its type and hint, even
            if a step already gave one. Methods without steps ask the same question.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> settings = AgentSettings(max_steps=8, k=10)
        >>> settings.k, settings.item_chars, settings.max_input_chars
        (10, 300, 12000)
    """

    max_steps: int = 5
    min_actions: int | None = None
    k: int = 4
    item_chars: int = 300
    max_input_chars: int = 12_000
    history: str = "examples"
    last: str = "similar"
    search_first: bool | None = None
    conclude_apart: bool = False

    def __post_init__(self) -> None:
        for name, values in (("history", HISTORY_FORMS), ("last", LAST)):
            if getattr(self, name) not in values:
                raise ConfigError(f"`{name}` must be {' or '.join(values)}, got {getattr(self, name)!r}")
        if not 0 <= (self.min_actions or 0) <= self.max_steps:
            raise ConfigError(
                f"`min_actions` must be between 0 and `max_steps`, "
                f"got {self.min_actions!r} and {self.max_steps!r}"
            )
        if self.k < 1:
            raise ConfigError(f"`k` must be at least 1, got {self.k!r}")
        if self.item_chars < 20:
            raise ConfigError(f"`item_chars` must be at least 20, got {self.item_chars!r}")
        if self.max_input_chars < 200:
            raise ConfigError(f"`max_input_chars` must be at least 200, got {self.max_input_chars!r}")
        check_at_most("max_steps", self.max_steps, MOST_STEPS)
        for name in ("k", "item_chars", "max_input_chars"):
            check_at_most(name, getattr(self, name), MANY)

    def for_persona(self, *, has_parts: bool) -> LoopSettings:
        """Return the settings of the loop, with what depends on the persona decided.

        Example:
            >>> AgentSettings().for_persona(has_parts=True)
            LoopSettings(max_steps=5, min_actions=0, search_first=True)
        """
        asked = 0 if has_parts else PAPER_ACTIONS
        return LoopSettings(
            max_steps=self.max_steps,
            min_actions=min(asked, self.max_steps) if self.min_actions is None else self.min_actions,
            search_first=has_parts if self.search_first is None else self.search_first,
        )


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """The limits of one tool loop; see `AgentSettings`."""

    max_steps: int
    min_actions: int
    search_first: bool


@dataclass(frozen=True, kw_only=True)
class Step:
    """One tool call and its observation.

    Attributes:
        forced: Why the loop replaced the model's action: it could not be parsed (``"unreadable"``), it
            finished before ``min_actions`` (``"too early"``), it repeated an earlier call
            (``"repeated"``), or the settings search before its first step (``"first"``). Empty if the
            model chose the action.
        interaction_ids: The interactions that a memory search showed, best match first.
    """

    thought: str
    tool: str
    arguments: Mapping[str, Any]
    observation: str
    failed: bool = False
    forced: str = ""
    interaction_ids: tuple[str, ...] = ()

    @property
    def call(self) -> str:
        """The tool call on one line, such as ``search_memory(rain)``; long arguments are shortened."""
        arguments = ", ".join(one_line(value, _ARGUMENT_CHARS) for value in self.arguments.values())
        return f"{self.tool}({arguments})"

    def __str__(self) -> str:
        arguments = ", ".join(
            f"{name}={str(value)[:_ARGUMENT_CHARS]!r}" for name, value in self.arguments.items()
        )
        return f"{self.tool}({arguments}) gave:\n{self.observation}"


@dataclass(frozen=True)
class Unreadable:
    """A model response that does not fit the requested type.

    Attributes:
        raw: The response.
        unusable: Why it is not an answer at all (a refusal, an error page); empty if it is one.
    """

    raw: str
    unusable: str = ""


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """The result of one loop.

    Attributes:
        probabilities: Label to probability; ``None`` if the model does not provide them.
        likelihood: Of the user's true response; ``None`` if it was not given or cannot be scored.
    """

    answer: str
    steps: tuple[Step, ...] = ()
    probabilities: Mapping[str, float] | None = None
    likelihood: float | None = None


Think = Callable[[str], Awaitable[Any]]
"""Returns a prediction with ``thought`` and ``action``, or `Unreadable`, for the rendered steps."""

Conclude = Callable[[Sequence[Step]], Awaitable[Any]]
"""Returns a prediction with ``answer``, or `Unreadable`, for the steps."""

Use = Callable[[Any], Awaitable[Observation]]
"""Runs the tool of an action."""


async def run_loop(
    query: str,
    *,
    tools: ToolSet,
    answer_type: AnswerType,
    settings: LoopSettings,
    think: Think,
    use: Use,
    conclude: Conclude,
    always_conclude: bool = False,
    uses_tools: bool = True,
    steps: Sequence[Step] | None = None,
) -> LoopResult:
    """Answer ``query`` in at most ``max_steps`` tool calls.

    The loop ends when the model finishes, after ``max_steps``, or after ``min_actions`` if a tool call
    shows nothing new. Unless the model finished, `conclude` then gives the answer. Without tools
    `conclude` is called at once. A first search by setting is not one of the ``max_steps``.

    Args:
        query: The query text.
        tools: The tools that the model may call.
        answer_type: Parses the answer.
        settings: Limits of the loop.
        think: Chooses the next action.
        use: Runs the tool of an action.
        conclude: Gives the final answer from the steps.
        always_conclude: Call `conclude` even if the model finished, for models that score labels.
        uses_tools: Whether the model's tool calls are worth their time; only if the settings search first.
        steps: Steps of an earlier answer to conclude from; ``None`` to take new ones.

    Raises:
        UnparsableAnswerError: The final answer does not fit ``answer_type``.
    """
    if steps is None:
        answer, steps = await _take_steps(
            query,
            tools=tools,
            settings=settings,
            think=think,
            use=use,
            always_conclude=always_conclude,
            uses_tools=uses_tools,
        )
        if answer is not None:
            return LoopResult(answer=answer_type.parse(answer), steps=tuple(steps))
    prediction = await conclude(steps)
    if isinstance(prediction, Unreadable):
        if prediction.unusable:
            raise UnparsableAnswerError(
                f"the model gave no answer: {prediction.unusable}", unusable=prediction.unusable
            )
        raise UnparsableAnswerError(f"the final answer is not {answer_type.hint}", raw=prediction.raw)
    return LoopResult(
        answer=answer_type.parse(prediction.answer),
        steps=tuple(steps),
        probabilities=prediction.get("probabilities"),
        likelihood=prediction.get("likelihood"),
    )


async def _take_steps(
    query: str,
    *,
    tools: ToolSet,
    settings: LoopSettings,
    think: Think,
    use: Use,
    always_conclude: bool,
    uses_tools: bool,
) -> tuple[Any, list[Step]]:
    """Return the model's answer, ``None`` if it gave none, and the steps before it."""
    steps: list[Step] = []
    if settings.search_first and "search_memory" in tools.call_models:
        observation = await use(tools.call("search_memory", query=query))
        steps.append(_step(observation, forced="first"))
        if not uses_tools:
            return None, steps
    for _ in range(settings.max_steps if tools.tools else 0):
        prediction = await think(render(steps))
        readable = not isinstance(prediction, Unreadable)
        action = prediction.action if readable else None
        forced = "" if readable else "unreadable"
        if action is not None and action.tool == "finish":
            if len(steps) >= settings.min_actions:
                if always_conclude:
                    break
                return action.answer, steps
            forced = "too early"
        elif action is not None and _is_repeated(action.tool, action.model_dump(exclude={"tool"}), steps):
            forced = "repeated"
        if forced:
            action = _fallback_action(query, tools, steps)
            if action is None:
                break
        observation = await use(action)
        duplicate_of = 0 if observation.failed else _step_with(observation.text, steps)
        steps.append(
            _step(
                observation,
                thought=str(prediction.thought) if readable else "",
                duplicate_of=duplicate_of,
                forced=forced,
            )
        )
        if duplicate_of and len(steps) >= settings.min_actions:
            break
    return None, steps


def _step(observation: Observation, *, thought: str = "", duplicate_of: int = 0, forced: str = "") -> Step:
    return Step(
        thought=thought,
        tool=observation.tool,
        arguments=observation.arguments,
        observation=f"(the same as in step {duplicate_of})" if duplicate_of else observation.text,
        failed=observation.failed,
        forced=forced,
        interaction_ids=observation.interaction_ids,
    )


def render(steps: Sequence[Step]) -> str:
    """Return the steps as text for the prompt."""
    return "\n\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1)) or NO_STEPS


def _step_with(text: str, steps: Sequence[Step]) -> int:
    """Return the number of the first step with this observation, from 1; 0 if there is none."""
    return next((number for number, step in enumerate(steps, 1) if step.observation == text), 0)


def _is_repeated(tool: str, arguments: Mapping[str, Any], steps: Sequence[Step]) -> bool:
    return any(step.tool == tool and step.arguments == arguments for step in steps)


def _fallback_action(query: str, tools: ToolSet, steps: Sequence[Step]) -> Any:
    """Return an action in place of the model's: search memory with the query, then read the profile.

    ``None`` if both ran already or the tool set has neither: repeating a call shows nothing new and
    costs a model call.
    """
    for name, arguments in (("search_memory", {"query": query}), ("read_profile", {})):
        if name in tools.call_models and not _is_repeated(name, arguments, steps):
            return tools.call(name, **arguments)
    return None
