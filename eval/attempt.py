"""Runs one unit of work that may call the model; returns the result or the failure, with its cost."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from eval.contracts import Failed
from program.errors import BudgetExceededError, ModelSetupError
from program.models.seeds import repeatable_seeds
from program.spans import about, span
from program.text import one_line
from program.usage import Usage, UsageTracker, stage, track_usage

T = TypeVar("T")

_MAX_ERROR_CHARS = 300


class PromptTracker(UsageTracker):
    """A tracker that also hashes every prompt.

    Attributes:
        prompts: 16 hexadecimal digits for each finished call, in the order in which calls finish.
    """

    def __init__(self, *, parent: UsageTracker) -> None:
        super().__init__(parent=parent)
        self.prompts: list[str] = []

    def record(self, entry: Mapping[str, Any]) -> None:
        """Count one finished call and hash its prompt."""
        prompt = entry.get("messages") or entry.get("prompt") or entry.get("request")
        text = json.dumps(prompt, sort_keys=True, ensure_ascii=False, default=str)
        self.prompts.append(hashlib.sha256(text.encode()).hexdigest()[:16])
        super().record(entry)


@dataclass(frozen=True, kw_only=True)
class Attempt(Generic[T]):
    """The outcome of one attempt.

    Attributes:
        result: The return value; ``None`` if the attempt failed.
        failed: The failure as it is stored; ``None`` if the attempt succeeded.
        cause: The exception of a failure.
        fatal: Whether the run should stop: a limit is reached, or the model cannot be used at all.
        usage: Model calls, tokens and dollars, by stage.
        seconds: Wall time.
        prompts: A hash of each prompt (see `PromptTracker`).
    """

    result: T | None = None
    failed: Failed | None = None
    cause: Exception | None = None
    fatal: bool = False
    usage: Mapping[str, Usage] = field(default_factory=dict)
    seconds: float = 0.0
    prompts: Sequence[str] = ()


def run_attempt(
    phase: Literal["prepare", "answer"],
    work: Callable[[], T],
    *,
    tracker: UsageTracker,
    lm: Any,
    user_id: str,
    seed: int = 0,
    **attributes: str,
) -> Attempt[T]:
    """Call ``work`` under the model and its own tracker; an exception becomes a value.

    Args:
        phase: The stage of a failure, and of calls that name no stage of their own.
        work: The function to call.
        tracker: The run's tracker, which counts the calls as well.
        lm: The model; ``None`` if no method needs one.
        user_id: The user, for the trace.
        seed: The run's seed. With the attempt's identity it seeds each call of the embedded model, so
            a resumed run samples the same texts as an uninterrupted one.
        **attributes: Method and query id, for the trace.
    """
    own = PromptTracker(parent=tracker)
    started = time.perf_counter()
    result, failed, cause = None, None, None
    from program.models.resolve import explain

    with ExitStack() as stack:
        if lm is not None:
            stack.enter_context(track_usage(own, lm))
        stack.enter_context(stage(phase))
        stack.enter_context(repeatable_seeds(f"{seed} {phase} {user_id} {sorted(attributes.items())}"))
        try:
            with about(user_id=user_id), span("evaluate", stage=phase, **attributes) as trace:
                result = work()
                trace.output(result=result)
        except Exception as error:  # noqa: BLE001 - one query's failure is a value, the run goes on
            cause = error
            failed = Failed(
                stage=phase,
                kind=type(error).__name__,
                error=one_line(explain(error) or error, _MAX_ERROR_CHARS),
            )
    return Attempt(
        result=result,
        failed=failed,
        cause=cause,
        fatal=cause is not None and _is_fatal(cause),
        usage=own.by_stage(),
        seconds=round(time.perf_counter() - started, 6),
        prompts=own.prompts,
    )


def _is_fatal(error: Exception) -> bool:
    import dspy

    unusable = (
        dspy.LMAuthError | dspy.LMBillingError | dspy.LMNotConfiguredError | dspy.LMUnsupportedModelError
    )
    return isinstance(error, BudgetExceededError | ModelSetupError | unusable)
