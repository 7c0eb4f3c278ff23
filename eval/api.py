"""Runs methods on a data set: `evaluate`, which `personaagent eval run` calls as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from eval.contracts import Method
from eval.data.dataset import open_data
from eval.data.download import is_official
from eval.data.layout import Layout
from eval.data.selection import Selection
from eval.manifest import make_manifest
from eval.methods.registry import METHODS, make_methods
from eval.metrics import has_likelihood
from eval.publish import publish_run
from eval.records import Run, read_run
from eval.runner import Limits, Outcome, run_methods
from eval.statistics import Interval
from program.errors import ConfigError
from program.home import home
from program.spans import about
from program.task import Task, get_task, task_spec
from program.tracing.content import Content
from program.usage import UsageTracker

if TYPE_CHECKING:
    from program.tracing.weave.tracer import WeaveTracer


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of `evaluate`: how the run ended, and the folder with every answer.

    Attributes:
        out: The run folder; `make_report` turns it into tables, figures and a page.
        outcome: Counts of answers and failures, and the errors.

    Example:
        >>> from eval.demo import SAMPLE
        >>> result = evaluate(task="LaMP-2M", data=SAMPLE, methods=["user-majority"], out="run")
        >>> result.outcome.answered
        {'user-majority': 32}
        >>> interval = result.scores()["user-majority"]["accuracy"]
        >>> print(f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
        0.44 [0.38, 0.50]
        >>> len(result.run().answers)
        32
    """

    out: Path
    outcome: Outcome

    def run(self) -> Run:
        """Read the run folder: one record for each attempt, with its cost."""
        return read_run(self.out)

    def scores(self) -> dict[str, dict[str, Interval | None]]:
        """Return the score of each method under each metric: its value and an interval over users.

        ``log-likelihood`` is one of the metrics if any answer has probabilities. A score is ``None`` if the
        method has no answers, or does not give the probabilities of all of them.

        Raises:
            DataError: The data hold no true answers (golds) to score against.
        """
        from eval.report.analysis import analyse
        from eval.report.load import load

        study = load(self.out)
        analysis = analyse(study.any_run)
        return {
            method.name: {name: scores[index].interval for name, scores in analysis.scores.items()}
            for index, method in enumerate(analysis.methods)
        }


def evaluate(
    *,
    task: str | Task,
    data: str | Path,
    methods: Sequence[str | Method],
    out: str | Path,
    model: Any = None,
    temperature: float | None = None,
    calibrate: bool = False,
    settings: Mapping[str, str] | None = None,
    selection: Selection | None = None,
    layout: Layout = "auto",
    split: str = "dev",
    official: bool = False,
    seed: int = 0,
    limits: Limits | None = None,
    trace: str = "off",
    trace_content: Content = "full",
    adapter: str | None = None,
    command: str = "",
    tracker: UsageTracker | None = None,
    on_plan: Callable[[int, int], None] = lambda total, missing: None,
    on_answer: Callable[[str], None] = lambda label: None,
    on_defects: Callable[[Sequence[Mapping[str, Any]]], None] = lambda defects: None,
) -> Evaluation:
    """Let every method answer every query of a data set.

    An existing run folder is resumed: finished work is skipped, failed answers are tried again, and an
    interrupted job starts over.

    Args:
        task: A task or its name, such as ``LaMP-2M``.
        data: A file or folder in LaMP's, OPPU's, the parquet or the Arrow layout.
        methods: Methods, or their specs, such as ``rag:k=8`` or ``mine:MyMethod``; ``baselines`` names
            all trivial baselines that fit the task.
        out: The run folder; created if it does not exist.
        model: The model that answers: a name as for ``--model``, or a `dspy.LM`; ``None`` for the
            embedded model. It is loaded only if a method needs a model.
        temperature: Sampling temperature, 0 or more; ``None`` for the model's default.
        calibrate: Whether to divide the probabilities of labels and ratings by their prior; needs a model
            that can, such as the embedded one. Helps methods without examples in the prompt, hurts others.
        settings: Settings as text, such as ``{"k": "8"}``. Each goes to every method that has it and is
            given as a spec.
        selection: Which users, history items and queries to use; ``None`` for all.
        layout: The layout of ``data``; ``auto`` detects it.
        split: Which split of a folder in LaMP's layout: train, dev or test.
        official: Whether the data are LaMP's own files; results on others are called LaMP-like. Files
            from ``eval download`` are recognized without it.
        seed: Seed of every random choice.
        limits: Threads and budgets; ``None`` for one thread and no budget.
        trace: Where traces go: ``off``, ``local`` or ``wandb:ENTITY/PROJECT``.
        trace_content: How traces store users' texts: ``full``, ``hash`` or ``none``.
        adapter: The form in which replies are requested: ``schema``, ``json`` or ``text``; ``None`` for
            the strictest that the model supports.
        command: The command line to store in the manifest, so that the run can be repeated.
        tracker: Counts all calls, to show progress. If it has a budget, that is a limit as well.
        on_plan: Called once, with the number of all answers and the number still missing.
        on_answer: Called after each attempt to answer, with the method's label; it may run in any thread.
        on_defects: Called once, with the defects found in the data that do not prevent a run.

    Raises:
        ConfigError: A setting is wrong; a method does not fit the task or is given twice; ``task`` is an
            object that has no name or path to load it by; or ``out`` belongs to another run.
        DataError: The data cannot be read.
        ModelSetupError: The model cannot be used as configured.

    Example:
        >>> from eval.demo import SAMPLE
        >>> result = evaluate(
        ...     task="LaMP-2M", data=SAMPLE, methods=["user-majority", "constant"], out="run"
        ... )
        >>> result.outcome.complete
        True
        >>> print(f"{result.scores()['user-majority']['accuracy'].value:.2f}")
        0.44
    """
    data, out = Path(data), Path(out)
    spec = task_spec(task)
    task = get_task(spec)
    by_label = _make_methods(methods, task, settings)
    dataset = open_data(data, task, layout=layout, split=split, selection=selection or Selection())
    lm = _resolve_model(model, temperature, seed, by_label, task, calibrate)
    manifest = make_manifest(
        task=task,
        data=dataset.manifest,
        methods=by_label,
        lm=lm,
        seed=seed,
        official=official or is_official(data, dataset.manifest["files"]),
        command=command,
        task_spec=spec,
        adapter=adapter,
    )
    on_defects(dataset.manifest["defects_in_files"])
    tracker = tracker or UsageTracker()
    total = int(dataset.manifest["queries"]) * len(by_label)
    with _use_model(lm, trace, trace_content, adapter) as tracer:
        outcome = run_methods(
            dataset,
            by_label,
            task=task,
            manifest=manifest,
            out=out,
            lm=lm,
            limits=limits,
            tracker=tracker,
            on_plan=lambda missing: on_plan(total, missing),
            on_answer=on_answer,
        )
        if tracer is not None and outcome.complete and tracker.total().calls:
            publish_run(tracer, out)
    return Evaluation(out=out, outcome=outcome)


def check_methods(
    methods: Sequence[str | Method],
    task: str | Task,
    *,
    model: Any = None,
    temperature: float | None = None,
    calibrate: bool = False,
    settings: Mapping[str, str] | None = None,
) -> None:
    """Raise `ConfigError` if the methods, their settings or the model cannot be used; call no model.

    Example:
        >>> check_methods(["user-majority"], "LaMP-2M")
        >>> check_methods(["user-median"], "LaMP-2M")
        Traceback (most recent call last):
        program.errors.ConfigError: `user-median` needs a rating task, and `LaMP-2M` is not one
    """
    task = get_task(task_spec(task))
    _resolve_model(model, temperature, 0, _make_methods(methods, task, settings), task, calibrate)


def _make_methods(
    methods: Sequence[str | Method], task: Task, settings: Mapping[str, str] | None
) -> dict[str, Method]:
    """Return the methods by label, those from specs first."""
    specs = [method for method in methods if isinstance(method, str)]
    objects = [method for method in methods if not isinstance(method, str)]
    by_label = make_methods(specs, task, settings) if specs or settings or not objects else {}
    for method in objects:
        method.check(task)
        label = METHODS.spec_of(method)
        if label in by_label:
            raise ConfigError(f"method {label!r} is named twice")
        by_label[label] = method
    return by_label


def _resolve_model(
    model: Any,
    temperature: float | None,
    seed: int,
    methods: Mapping[str, Method],
    task: Task,
    calibrate: bool,
) -> Any:
    """Return the model; ``None`` if no method needs one."""
    if calibrate and not has_likelihood(task):
        raise ConfigError(
            f"`calibrate` needs a task with labels or ratings, but answers of `{task.name}` are free text: "
            "leave it out"
        )
    if all(method.trivial for method in methods.values()):
        return None
    from program.models.cache import use_cache
    from program.models.resolve import resolve_lm, with_calibration, with_seed

    use_cache(home())
    lm = resolve_lm(model, temperature=temperature)
    return with_seed(with_calibration(lm) if calibrate else lm, seed)


@contextmanager
def _use_model(lm: Any, trace: str, content: Content, adapter: str | None) -> Iterator[WeaveTracer | None]:
    """Set the model for DSPy and open the tracer; do neither if there is no model."""
    if lm is None:
        yield None
        return
    import dspy

    from program.models.adapter import use_adapter
    from program.tracing.setup import open_tracer

    with (
        dspy.context(lm=lm, disable_history=True, trace=None),
        use_adapter(adapter),
        open_tracer(trace, home=home(), content=content) as tracer,
        about(run_id=uuid4().hex[:12]),
    ):
        yield tracer
