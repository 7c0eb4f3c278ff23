"""Evaluation from Python: `evaluate` runs methods on a data set; the command line calls the same."""

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
from eval.publish import publish_run
from eval.records import Run, read_run
from eval.runner import Limits, Outcome, run_methods
from eval.statistics import Interval
from program.errors import ConfigError, UnknownTaskError
from program.home import home
from program.spans import about
from program.task import Task, get_task
from program.tracing.content import Content
from program.usage import UsageTracker

if TYPE_CHECKING:
    from program.tracing.weave.tracer import WeaveTracer


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A finished evaluation: how the run ended, and the folder with every answer.

    Attributes:
        out: The run folder; `make_report` makes tables, figures and a page of it.
        outcome: What was answered, what failed and why.
    """

    out: Path
    outcome: Outcome

    def run(self) -> Run:
        """Read the run folder: one record for each answer, with its cost."""
        return read_run(self.out)

    def scores(self) -> dict[str, dict[str, Interval | None]]:
        """Return the value of each metric with its interval over users, by method and metric name.

        A method without an answer has ``None``.

        Raises:
            DataError: The data have no golds.
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
    settings: Mapping[str, str] | None = None,
    selection: Selection | None = None,
    layout: Layout = "auto",
    split: str = "dev",
    official: bool = False,
    seed: int = 0,
    limits: Limits | None = None,
    trace: str = "off",
    trace_content: Content = "full",
    command: str = "",
    tracker: UsageTracker | None = None,
    on_plan: Callable[[int, int], None] = lambda total, left: None,
    on_answer: Callable[[str], None] = lambda label: None,
    on_defects: Callable[[Sequence[Mapping[str, Any]]], None] = lambda defects: None,
) -> Evaluation:
    """Let every method answer every query of a data set.

    Resumes an existing run folder: completed work is skipped, failures are retried, interrupted jobs
    restart.

    Args:
        task: A task or its name, such as ``LaMP-2M``.
        data: A file or folder in LaMP's, OPPU's, the parquet or the Arrow layout.
        methods: Methods, or their specs, such as ``rag:k=8`` or ``mine:MyMethod``; ``baselines`` names
            all trivial baselines that fit the task.
        out: The run folder; it is made if it does not exist.
        model: The model that answers: a name as for ``--model``, or a `dspy.LM`; ``None`` for the
            embedded model. It is not loaded if no method needs one.
        temperature: Sampling temperature, 0 or more; ``None`` for the model's default.
        settings: Settings, as text, for every method that has them: ``{"k": "8"}``.
        selection: Which users, history items and queries; ``None`` for all.
        layout: How the data lie in ``data``.
        split: Which of LaMP's files in a folder: train, dev or test.
        official: Whether the data are LaMP's own files; otherwise results are called LaMP-like.
        seed: Seed of everything random.
        limits: Threads and budgets; ``None`` for one thread and no budget.
        trace: Where traces go: ``off``, ``local`` or ``wandb:ENTITY/PROJECT``.
        trace_content: What of users' texts is kept in traces: ``full``, ``hash`` or ``none``.
        command: The command line that is stored in the manifest, to reproduce the run.
        tracker: Counts all calls, to show progress; its own budget holds as well.
        on_plan: Called once with the number of all answers and of those still to give.
        on_answer: Called after each attempt to answer, with the method's label, from any thread.
        on_defects: Called once with what is wrong with the data but can be used.

    Raises:
        ConfigError: A wrong setting, a method that does not fit the task, or a folder of another run.
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
        0.47
    """
    data, out = Path(data), Path(out)
    target = task if isinstance(task, Task) else get_task(task)
    chosen = _make_methods(methods, target, settings)
    dataset = open_data(data, target, layout=layout, split=split, selection=selection or Selection())
    lm = _resolve_model(model, temperature, seed, chosen)
    manifest = make_manifest(
        task=target,
        data=dataset.manifest,
        methods=chosen,
        lm=lm,
        seed=seed,
        official=official or is_official(data, dataset.manifest["files"]),
        command=command,
        task_spec=_task_spec(target, task),
    )
    on_defects(dataset.manifest["defects_in_files"])
    tracker = tracker or UsageTracker()
    total = int(dataset.manifest["queries"]) * len(chosen)
    with _use_model(lm, trace, trace_content) as tracer:
        outcome = run_methods(
            dataset,
            chosen,
            task=target,
            manifest=manifest,
            out=out,
            lm=lm,
            limits=limits,
            tracker=tracker,
            on_plan=lambda left: on_plan(total, left),
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
    settings: Mapping[str, str] | None = None,
) -> None:
    """Raise `ConfigError` if the methods, their settings or the model cannot be used; call nothing.

    Example:
        >>> check_methods(["rag:k=8"], "LaMP-2M")
    """
    chosen = _make_methods(methods, task if isinstance(task, Task) else get_task(task), settings)
    _resolve_model(model, temperature, 0, chosen)


def _make_methods(
    methods: Sequence[str | Method], task: Task, settings: Mapping[str, str] | None
) -> dict[str, Method]:
    specs = [method for method in methods if isinstance(method, str)]
    objects = {METHODS.spec_of(method): method for method in methods if not isinstance(method, str)}
    for method in objects.values():
        method.check(task)
    if objects and not specs:
        return objects
    from_specs = make_methods(specs, task, settings)
    if twice := from_specs.keys() & objects.keys():
        raise ConfigError(f"method {min(twice)!r} is named twice")
    return {**from_specs, **objects}


def _resolve_model(model: Any, temperature: float | None, seed: int, methods: Mapping[str, Method]) -> Any:
    """Return the model; ``None`` if no method needs one."""
    if all(method.trivial for method in methods.values()):
        return None
    from program.models.cache import use_cache
    from program.models.resolve import resolve_lm, with_seed

    use_cache(home())
    return with_seed(resolve_lm(model, temperature=temperature), seed)


def _task_spec(task: Task, given: str | Task) -> str:
    """Return what `get_task` finds the task by again: its name, or what the caller gave."""
    try:
        if get_task(task.name) is task:
            return task.name
    except UnknownTaskError:
        pass
    if isinstance(given, Task):
        raise ConfigError(
            f"task {task.name!r} is not installed, so the run could not be read again; give its path, "
            "`module:TASK`"
        )
    return given


@contextmanager
def _use_model(lm: Any, trace: str, content: Content) -> Iterator[WeaveTracer | None]:
    """Run under the model, and trace it; without a model there is nothing to trace."""
    if lm is None:
        yield None
        return
    import dspy

    from program.tracing.setup import open_tracer

    with (
        dspy.context(lm=lm, disable_history=True, trace=None),
        open_tracer(trace, home=home(), content=content) as tracer,
        about(run_id=uuid4().hex[:12]),
    ):
        yield tracer
