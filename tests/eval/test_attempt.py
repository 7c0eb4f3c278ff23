from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy
import pytest

from eval.attempt import run_attempt
from program.errors import BudgetExceededError, ModelSetupError, UnparsableAnswerError
from program.models.scripted import scripted_lm
from program.models.seeds import repeatable_seeds
from program.usage import Budget, UsageTracker, reserve_call, stage

REPLY = "[[ ## answer ## ]]\nAlien"


def fail_with(error: Exception) -> Callable[[], Any]:
    def work() -> Any:
        raise error

    return work


def ask() -> str:
    return str(dspy.Predict("question -> answer")(question="Which film?").answer)


def test_result_is_returned_with_its_usage_by_stage() -> None:
    def work() -> str:
        with stage("profile"):
            ask()
        return ask()

    tracker, lm = UsageTracker(), scripted_lm(lambda *_: REPLY)
    attempt = run_attempt("prepare", work, tracker=tracker, lm=lm, user_id="anna")
    assert (attempt.result, attempt.failed, attempt.cause, attempt.fatal) == ("Alien", None, None, False)
    assert {name: usage.calls for name, usage in attempt.usage.items()} == {"profile": 1, "prepare": 1}
    assert tracker.total().calls == 2
    assert attempt.seconds > 0


def test_same_prompt_has_same_hash() -> None:
    lm = scripted_lm(lambda *_: REPLY)
    first, second = (
        run_attempt("answer", ask, tracker=UsageTracker(), lm=lm, user_id=user) for user in ("anna", "bert")
    )
    assert first.prompts == second.prompts
    (prompt,) = first.prompts
    assert (len(prompt), int(prompt, 16) >= 0) == (16, True)


def test_failure_is_a_value_with_stage_type_and_one_line() -> None:
    error = ValueError("first line\nsecond line " + "x" * 1000)
    attempt = run_attempt("answer", fail_with(error), tracker=UsageTracker(), lm=None, user_id="anna")
    assert attempt.failed is not None
    assert (attempt.failed.stage, attempt.failed.kind) == ("answer", "ValueError")
    assert attempt.failed.error.startswith("first line second line")
    assert len(attempt.failed.error) <= 300
    assert (attempt.result, attempt.cause, attempt.fatal) == (None, error, False)


def test_failed_attempt_keeps_its_cost() -> None:
    def work() -> None:
        ask()
        raise RuntimeError("too late")

    lm = scripted_lm(lambda *_: REPLY)
    attempt = run_attempt("answer", work, tracker=UsageTracker(), lm=lm, user_id="anna")
    assert attempt.usage["answer"].calls == len(attempt.prompts) == 1


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (BudgetExceededError("the limit is 3 calls"), True),
        (ModelSetupError("the file is missing"), True),
        (dspy.LMAuthError("bad key"), True),
        (dspy.LMBillingError("no money"), True),
        (dspy.LMNotConfiguredError("no model"), True),
        (dspy.LMUnsupportedModelError("no such model"), True),
        (dspy.LMServerError("down"), False),
        (dspy.LMRateLimitError("slow down"), False),
        (UnparsableAnswerError("not a label"), False),
        (KeyError("x"), False),
    ],
)
def test_only_errors_that_retries_cannot_mend_are_fatal(error: Exception, fatal: bool) -> None:
    attempt = run_attempt("answer", fail_with(error), tracker=UsageTracker(), lm=None, user_id="anna")
    assert (attempt.fatal, attempt.cause) == (fatal, error)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(1)])
def test_interrupts_are_not_failures(interrupt: BaseException) -> None:
    def work() -> None:
        raise interrupt

    with pytest.raises(type(interrupt)):
        run_attempt("answer", work, tracker=UsageTracker(), lm=None, user_id="anna")


def test_budget_of_the_run_holds_in_an_attempt() -> None:
    def work() -> str:
        reserve_call()
        ask()
        reserve_call()
        return ask()

    tracker, lm = UsageTracker(Budget(max_calls=1)), scripted_lm(lambda *_: REPLY)
    attempt = run_attempt("answer", work, tracker=tracker, lm=lm, user_id="anna")
    assert isinstance(attempt.cause, BudgetExceededError)
    assert len(lm.engine.prompts) == 1


def draw_seed(user: str = "anna", seed: int = 0, query: str = "q1") -> int:
    from program.models.seeds import next_seed

    attempt = run_attempt(
        "answer", next_seed, tracker=UsageTracker(), lm=None, user_id=user, seed=seed, query_id=query
    )
    assert attempt.result is not None
    return attempt.result


def test_sampling_seeds_depend_on_the_attempt_alone() -> None:
    first = draw_seed()
    with repeatable_seeds("something else"):
        assert draw_seed() == first
    assert len({first, draw_seed(user="bert"), draw_seed(seed=1), draw_seed(query="q2")}) == 4
