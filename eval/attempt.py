"""One attempt at something that may call the model: what came of it, and exactly what it cost."""

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
    """A tracker that also keeps a hash of every prompt, in order of the calls' ends."""

    def __init__(self, *, parent: UsageTracker) -> None:
        super().__init__(parent=parent)
        self.prompts: list[str] = []

    def record(self, entry: Mapping[str, Any]) -> None:
        """Count one finished call and note its prompt."""
        asked = entry.get("messages") or entry.get("prompt") or entry.get("request")
        text = json.dumps(asked, sort_keys=True, ensure_ascii=False, default=str)
        self.prompts.append(hashlib.sha256(text.encode()).hexdigest()[:16])
        super().record(entry)


@dataclass(frozen=True, kw_only=True)
class Attempt(Generic[T]):
    """What came of one attempt.

    Attributes:
        result: What was returned; ``None`` where ``failed`` says why not.
        cause: What was raised.
        stops: Whether going on is pointless: a limit was reached, or the model cannot be used at all.
        seconds: Wall time.
    """

    result: T | None = None
    failed: Failed | None = None
    cause: Exception | None = None
    stops: bool = False
    usage: Mapping[str, Usage] = field(default_factory=dict)
    seconds: float = 0.0
    prompts: Sequence[str] = ()


def attempt(
    what: Literal["prepare", "answer"],
    work: Callable[[], T],
    *,
    tracker: UsageTracker,
    lm: Any,
    user_id: str,
    seed: int = 0,
    **seen: str,
) -> Attempt[T]:
    """Do ``work`` under the model and a tracker of its own; what it raises becomes a value.

    Args:
        what: The stage its calls are counted under where it names none, and its failures' stage.
        work: What to do.
        tracker: The run's; the attempt counts there, too.
        lm: The model; ``None`` where there is none.
        user_id: For the trace: whom it is about.
        seed: Of the run. What the embedded model samples depends on it and on the attempt, not on what
            was sampled before, so a run that was killed ends as it would have ended.
        **seen: For the trace: method and query id.
    """
    own = PromptTracker(parent=tracker)
    started = time.perf_counter()
    result, failed, cause = None, None, None
    from program.models.resolve import explain

    with ExitStack() as around:
        if lm is not None:
            around.enter_context(track_usage(own, lm))
        around.enter_context(stage(what))
        around.enter_context(repeatable_seeds(f"{seed} {what} {user_id} {sorted(seen.items())}"))
        try:
            with about(user_id=user_id), span("evaluate", stage=what, **seen) as trace:
                result = work()
                trace.output(result=result)
        except Exception as error:  # noqa: BLE001 - one query's failure is a value, the run goes on
            cause, failed = (
                error,
                Failed(
                    stage=what,
                    kind=type(error).__name__,
                    error=one_line(explain(error) or error, _MAX_ERROR_CHARS),
                ),
            )
    return Attempt(
        result=result,
        failed=failed,
        cause=cause,
        stops=cause is not None and _is_fatal(cause),
        usage=own.by_stage(),
        seconds=round(time.perf_counter() - started, 6),
        prompts=own.prompts,
    )


def _is_fatal(error: Exception) -> bool:
    import dspy

    hopeless = (
        dspy.LMAuthError | dspy.LMBillingError | dspy.LMNotConfiguredError | dspy.LMUnsupportedModelError
    )
    return isinstance(error, BudgetExceededError | ModelSetupError | hopeless)
