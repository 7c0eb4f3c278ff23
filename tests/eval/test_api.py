from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import dspy
import pytest

from eval import Answer, BaseMethod, Evaluation, Limits, Selection, UserView, evaluate, read_run
from eval.api import check_methods
from eval.methods.baselines import Constant, UserMajority
from eval.methods.rag import Rag
from program.errors import BudgetExceededError, ConfigError, DataError, ModelSetupError, UnknownTaskError
from program.models.scripted import scripted_lm
from program.task import get_task
from program.usage import UsageTracker

OwnModule = Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class Latest(BaseMethod):
    """Repeats the user's latest response."""

    name: ClassVar[str] = "latest"
    trivial: ClassVar[bool] = True
    back: int = 1

    def answer(self, prepared: UserView, query: Any) -> Answer:
        return Answer(text=prepared.history[-self.back].response)


@dataclass(frozen=True, kw_only=True)
class Hedge(BaseMethod):
    """Says comedy, with a probability, and leaves the rest to action."""

    name: ClassVar[str] = "hedge"
    trivial: ClassVar[bool] = True
    p: float = 0.5

    def answer(self, prepared: UserView, query: Any) -> Answer:
        return Answer(text="comedy", probabilities={"comedy": self.p, "action": 1 - self.p})


@pytest.fixture
def run(oppu_folder: Path, tmp_path: Path) -> Callable[..., Evaluation]:
    """Evaluate on four users with two queries each, ``comedy`` and ``action`` in turn."""

    def call(*methods: Any, **options: Any) -> Evaluation:
        arguments = {"task": "LaMP-2M", "data": oppu_folder, "out": tmp_path / "run", **options}
        return evaluate(methods=methods, **arguments)

    return call


def test_specs_run_without_model(run: Callable[..., Evaluation], tmp_path: Path) -> None:
    result = run("user-majority,constant:value=action")
    assert result.out == tmp_path / "run"
    assert result.outcome.complete
    assert result.outcome.answered == {"user-majority": 8, "constant:value=action": 8}
    assert result.run().manifest.model == {}


def test_scores_are_accuracy_over_golds(run: Callable[..., Evaluation]) -> None:
    scores = run("user-majority,constant:value=classic").scores()
    # Five history items make `comedy` the majority; golds are half `comedy` and half `action`.
    assert list(scores) == ["user-majority", "constant:value=classic"]
    accuracy = scores["user-majority"]["accuracy"]
    assert accuracy is not None
    assert (accuracy.value, accuracy.n, accuracy.users) == (0.5, 8, 4)
    assert accuracy.low == accuracy.high == 0.5  # Every user has one right answer of two.
    constant = scores["constant:value=classic"]["accuracy"]
    assert constant is not None
    assert constant.value == 0.0


def test_scores_have_log_likelihood_if_a_method_gives_probabilities(run: Callable[..., Evaluation]) -> None:
    scores = run(Hedge(p=0.8), "constant").scores()
    hedge = scores[f"{__name__}:Hedge:p=0.8"]["log-likelihood"]
    assert hedge is not None
    # Golds are half comedy and half action: (ln 0.8 + ln 0.2) / 2 = ln 0.4.
    assert hedge.value == pytest.approx(math.log(0.4))
    assert (hedge.n, hedge.users) == (8, 4)
    assert scores["constant"]["log-likelihood"] is None


def test_calibration_is_a_setting_that_a_resumed_run_must_share(
    run: Callable[..., Evaluation], tmp_path: Path
) -> None:
    one = {"selection": Selection(users=1, queries=1)}
    calibrated = run("direct", calibrate=True, **one).run()
    plain = run("direct", out=tmp_path / "plain", **one).run()
    assert (calibrated.manifest.model["calibrate"], plain.manifest.model.get("calibrate")) == (True, None)
    (with_,), (without,) = (list(r.answers.values()) for r in (calibrated, plain))
    assert with_.probabilities is not None
    assert sum(with_.probabilities.values()) == pytest.approx(1.0)
    assert with_.probabilities != without.probabilities
    assert run("direct", calibrate=True, **one).run().spent() == calibrated.spent()
    with pytest.raises(ConfigError, match=r"was run with `model\.calibrate` True, not None"):
        run("direct", **one)


def test_calibration_is_refused_before_any_call(
    run: Callable[..., Evaluation], obliging: Any, tmp_path: Path
) -> None:
    lm = scripted_lm(obliging)
    with pytest.raises(ModelSetupError, match="cannot calibrate the probabilities of labels"):
        run("direct", model=lm, calibrate=True)
    with pytest.raises(ModelSetupError, match="cannot calibrate the probabilities of labels"):
        check_methods(["direct"], "LaMP-2M", model=lm, calibrate=True)
    with pytest.raises(ConfigError, match="answers of `LaMP-4` are free text: leave it out"):
        check_methods(["direct"], "LaMP-4", calibrate=True)
    assert not lm.engine.prompts
    assert not (tmp_path / "run").exists()


def test_scores_of_method_without_answers_are_none(run: Callable[..., Evaluation], obliging: Any) -> None:
    def fail(system: str, user: str) -> str:
        raise dspy.lm15.ServerError("down")

    scores = run("direct,user-majority", model=scripted_lm(fail)).scores()
    assert scores["direct"]["accuracy"] is None
    assert scores["user-majority"]["accuracy"] is not None


def test_objects_run_under_the_spec_that_recreates_them(run: Callable[..., Evaluation]) -> None:
    result = run(Latest(back=2), UserMajority(), "constant")
    own = f"{__name__}:Latest:back=2"
    assert list(result.outcome.answered) == ["constant", own, "user-majority"]
    manifest = result.run().manifest
    assert manifest.methods[own].settings == {"back": 2}
    assert manifest.methods[own].floor
    assert manifest.methods[own].source
    assert not manifest.methods["user-majority"].source
    # The fourth of five items of each history.
    assert {a.text for key, a in result.run().answers.items() if key[0] == own} == {"action"}


@pytest.mark.parametrize(
    "methods", [("rag:k=2", Rag(k=2)), (Constant(), Constant()), ("constant", "constant"), ("rag", Rag())]
)
def test_same_method_twice_is_refused(run: Callable[..., Evaluation], methods: Any) -> None:
    with pytest.raises(ConfigError, match="is named twice"):
        run(*methods)


def test_no_method_is_refused(run: Callable[..., Evaluation]) -> None:
    with pytest.raises(ConfigError, match="no method is given"):
        run()


def test_settings_apply_to_specs_and_not_to_objects(
    run: Callable[..., Evaluation], obliging: Callable[[str, str], Any]
) -> None:
    result = run("rag", Rag(k=1), settings={"k": "3"}, model=scripted_lm(obliging))
    methods = result.run().manifest.methods
    assert {label: entry.settings["k"] for label, entry in methods.items()} == {"rag": 3, "rag:k=1": 1}
    with pytest.raises(ConfigError, match="none of the methods has a setting `steps`"):
        run("rag", settings={"steps": "3"}, model=scripted_lm(obliging))


def test_object_that_does_not_fit_the_task_is_refused(run: Callable[..., Evaluation], tmp_path: Path) -> None:
    from eval.methods.baselines import UserMedian

    with pytest.raises(ConfigError, match="`user-median` needs a rating task"):
        run(UserMedian())
    assert not (tmp_path / "run").exists()


def test_model_object_answers_and_is_not_configured_globally(
    run: Callable[..., Evaluation], obliging: Callable[[str, str], Any]
) -> None:
    lm = scripted_lm(obliging)
    result = run(Rag(k=1), model=lm)
    assert len(lm.engine.prompts) == 8
    assert result.run().manifest.model["name"] == lm.model
    assert dspy.settings.lm is None


def test_model_is_loaded_only_if_a_method_needs_it(run: Callable[..., Evaluation]) -> None:
    assert run("baselines", model="no-such-model").outcome.complete


def test_task_object_equals_task_name(run: Callable[..., Evaluation], tmp_path: Path) -> None:
    by_object = run("constant", task=get_task("LaMP-2M"))
    by_name = run("constant", task="lamp_2m", out=str(tmp_path / "again"))
    assert by_object.run().manifest.task == by_name.run().manifest.task == "LaMP-2M"


def test_task_that_is_not_installed_is_refused_before_any_call(
    run: Callable[..., Evaluation], tmp_path: Path, obliging: Callable[[str, str], Any]
) -> None:
    lm = scripted_lm(obliging)
    task = replace(get_task("LaMP-2M"), name="my-films")
    with pytest.raises(ConfigError, match="task 'my-films' is not installed"):
        run("rag", task=task, model=lm)
    same_name = replace(get_task("LaMP-2M"), question="Which tag?")
    with pytest.raises(ConfigError, match="task 'LaMP-2M' is not installed"):
        run("rag", task=same_name, model=lm)
    with pytest.raises(UnknownTaskError):
        run("rag", task="my-films", model=lm)
    assert lm.engine.prompts == []
    assert not (tmp_path / "run").exists()


def test_task_is_read_again_by_its_path(run: Callable[..., Evaluation], own_module: OwnModule) -> None:
    own_module(
        "film_task",
        "from dataclasses import replace\nfrom eval.tasks.lamp_2m import TASK as T\n"
        'TASK = replace(T, name="LaMP-2M", question="Which tag?")\n',
    )
    result = run("constant:value=comedy", task="film_task:TASK")
    assert result.run().manifest.task == "film_task:TASK"
    accuracy = result.scores()["constant:value=comedy"]["accuracy"]
    assert accuracy is not None
    assert accuracy.value == 0.5


def test_resume_skips_completed_answers_and_reports_the_plan(
    run: Callable[..., Evaluation], obliging: Callable[[str, str], Any]
) -> None:
    lm = scripted_lm(obliging)
    plans: list[tuple[int, int]] = []
    labels: list[str] = []

    def call(*methods: str, **options: Any) -> Evaluation:
        return run(
            *methods,
            model=lm,
            on_plan=lambda total, missing: plans.append((total, missing)),
            on_answer=labels.append,
            **options,
        )

    stopped = call("direct", limits=Limits(max_calls=3))
    assert isinstance(stopped.outcome.stopped, BudgetExceededError)
    assert (plans.pop(), labels) == ((8, 8), ["direct"] * 3)
    assert call("direct,rag").outcome.complete
    assert plans.pop() == (16, 13)
    assert len(lm.engine.prompts) == 16
    labels.clear()
    assert call("direct,rag").outcome.complete
    assert (plans.pop(), labels, len(lm.engine.prompts)) == ((16, 0), [], 16)


def test_resume_with_other_selection_or_seed_is_refused(run: Callable[..., Evaluation]) -> None:
    run("constant")
    with pytest.raises(ConfigError, match=r"`data.selection.users` None, not 2"):
        run("constant", selection=Selection(users=2))
    with pytest.raises(ConfigError, match="`seed` 0, not 1"):
        run("constant", seed=1)


def test_selection_limits_users_and_queries(run: Callable[..., Evaluation]) -> None:
    result = run("constant", selection=Selection(users=3, queries=1))
    assert (result.outcome.expected, result.outcome.answered) == (3, {"constant": 3})


def test_tracker_counts_calls_and_enforces_its_budget(
    run: Callable[..., Evaluation], obliging: Callable[[str, str], Any]
) -> None:
    tracker = UsageTracker()
    run("direct", model=scripted_lm(obliging), tracker=tracker, limits=Limits(threads=3))
    assert tracker.total().calls == 8


def test_defects_of_data_are_reported_once(run: Callable[..., Evaluation]) -> None:
    calls: list[Any] = []
    run("constant", on_defects=calls.append)
    assert calls == [[]]


def test_missing_data_are_refused_without_a_folder(run: Callable[..., Evaluation], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        run("constant", data=tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()


def test_check_methods_reports_what_evaluate_would_refuse() -> None:
    check_methods(["user-majority", Rag(k=2)], get_task("LaMP-2M"), model=scripted_lm(lambda *_: "x"))
    with pytest.raises(ConfigError, match="`k` must be at least 1"):
        check_methods(["rag:k=0"], "LaMP-2M")
    with pytest.raises(ConfigError, match="unknown model"):
        check_methods(["direct"], "LaMP-2M", model="no-such-model")


def test_read_run_accepts_text_path(run: Callable[..., Evaluation], tmp_path: Path) -> None:
    run("constant")
    assert read_run(str(tmp_path / "run")) == read_run(tmp_path / "run")
