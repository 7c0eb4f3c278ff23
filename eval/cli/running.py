"""`personaagent eval run`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import typer

from eval.cli import options as o
from eval.cli.results import print_scores
from eval.data.dataset import DataSet, open_data
from eval.data.download import is_official
from eval.data.selection import Selection
from eval.manifest import make_manifest
from eval.methods.registry import make_methods
from eval.publish import publish_run
from eval.records import read_run
from eval.runner import Limits, Outcome, run_methods
from program.cli.options import Json, Model, Trace, TraceContent
from program.console import MODEL, PARTIAL, err, exit_code, explain, print_json, progress
from program.errors import ConfigError, PersonaAgentError, UnknownTaskError
from program.home import home
from program.ledger import Ledger
from program.task import Task, get_task
from program.tracing import about

if TYPE_CHECKING:
    from program.tracing.weave_tracer import WeaveTracer


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for on the command line."""

    task: str
    data: Path
    methods: list[str]
    out: Path
    settings: list[str] = field(default_factory=list)
    selection: Selection = field(default_factory=Selection)
    layout: Any = "auto"
    split: str = "dev"
    official: bool = False
    model: str | None = None
    prompt_model: str | None = None
    temperature: float | None = None
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    trace: str = "off"
    trace_content: Literal["full", "hash", "none"] = "full"


def run(
    task: o.TaskName,
    data: o.Data,
    method: o.Methods,
    out: o.Out,
    settings: o.Settings = None,
    users: o.Users = None,
    order: o.Order = "file",
    history: o.History = None,
    history_from: o.HistoryFrom = "last",
    queries: o.Queries = None,
    drop_repeats: o.DropRepeats = False,
    layout: o.LayoutName = "auto",
    split: o.Split = "dev",
    official: o.Official = False,
    model: Model = None,
    prompt_model: o.PromptModel = None,
    temperature: o.Temperature = None,
    threads: o.Threads = 1,
    seed: o.Seed = 0,
    max_calls: o.MaxCalls = None,
    max_usd: o.MaxUsd = None,
    trace: Trace = "local",
    trace_content: TraceContent = "full",
    json: Json = False,
) -> None:
    """Let every method answer every query of a data set. A run that was stopped continues."""
    request = Request(
        task=task,
        data=data,
        methods=method,
        out=out,
        settings=settings or [],
        selection=Selection(
            users=users,
            order=order,
            history=history,
            history_from=history_from,
            queries=queries,
            drop_repeats=drop_repeats,
            seed=seed,
        ),
        layout=layout,
        split=split,
        official=official,
        model=model,
        prompt_model=prompt_model,
        temperature=temperature,
        seed=seed,
        limits=Limits(threads=threads, max_calls=max_calls, max_usd=max_usd),
        trace=trace,
        trace_content=trace_content,
    )
    ledger = Ledger()
    outcome = execute(request, ledger)
    _show(request, outcome, ledger, json)
    code = finish(outcome)
    if code:
        raise typer.Exit(code)


def execute(request: Request, ledger: Ledger) -> Outcome:
    """Carry out a request, with progress on stderr."""
    task = get_task(request.task)
    methods = make_methods(request.methods, task, _settings(request))
    data = open_data(
        request.data, task, layout=request.layout, split=request.split, selection=request.selection
    )
    lm = None if all(method.floor for method in methods.values()) else _model(request)
    manifest = make_manifest(
        task=task,
        data=data.manifest,
        methods=methods,
        lm=lm,
        seed=request.seed,
        official=request.official or is_official(request.data, data.manifest["files"]),
        command=shlex.join(["personaagent", *sys.argv[1:]]),
        found_as=_found_as(task, request.task),
    )
    _tell_defects(data)
    total = int(data.manifest["queries"]) * len(methods)
    with _using(lm, request) as tracer, progress(ledger, total, "answers") as advance:

        def skip_what_is_there(left: int) -> None:
            for _ in range(total - left):
                advance("continuing")

        outcome = run_methods(
            data,
            methods,
            task=task,
            manifest=manifest,
            out=request.out,
            lm=lm,
            limits=request.limits,
            ledger=ledger,
            on_plan=skip_what_is_there,
            on_answer=advance,
        )
        if tracer is not None and outcome.complete and ledger.total().calls:
            publish_run(tracer, request.out)
        return outcome


def finish(outcome: Outcome) -> int:
    """Say on stderr what did not work; return the exit code."""
    for label, kinds in outcome.failed.items():
        counted = ", ".join(f"{number} x {kind}" for kind, number in sorted(kinds.items()))
        end = "; given up" if label in outcome.given_up else ""
        line = f"{label}: attempts that failed: {counted}; the last: {_line(outcome.errors[label])}{end}"
        err.print(line, style="yellow", markup=False)
    if outcome.complete:
        return 0
    if outcome.stopped is not None:
        err.print(f"stopped: {_line(outcome.stopped)}", style="red", markup=False)
        return exit_code(outcome.stopped)
    err.print("Missing answers are tried again by the same command.")
    return MODEL if not any(outcome.answered.values()) else PARTIAL


def _show(request: Request, outcome: Outcome, ledger: Ledger, json: bool) -> None:
    used = ledger.total()
    if json:
        print_json(
            {
                "out": str(request.out),
                "expected": outcome.expected,
                "answered": outcome.answered,
                "failed": outcome.failed,
                "given_up": sorted(outcome.given_up),
                "complete": outcome.complete,
                "usage": vars(used),
            }
        )
    elif any(outcome.answered.values()) and any(q.gold is not None for q in read_run(request.out).queries):
        print_scores(request.out)
    err.print(
        f"{used.calls} model calls, {used.input_tokens + used.output_tokens:,} tokens, ${used.usd:.4f}"
        f"{' or more' if used.unpriced else ''}, {ledger.seconds:.0f} s. Kept in {request.out}; next: "
        f"personaagent eval report {shlex.quote(str(request.out))}",
        markup=False,
    )


def check(request: Request) -> None:
    """Raise `PersonaAgentError` for methods, settings or a model that cannot be had; nothing is called."""
    methods = make_methods(request.methods, get_task(request.task), _settings(request))
    if not all(method.floor for method in methods.values()):
        _model(request)


def _found_as(task: Task, typed: str) -> str:
    """Return the name by which the report finds the task again: its own, or what was typed."""
    try:
        return task.name if get_task(task.name) is task else typed
    except UnknownTaskError:
        return typed


def _settings(request: Request) -> dict[str, str]:
    """Return the settings that hold for every method."""
    found = {"prompt_model": request.prompt_model} if request.prompt_model else {}
    for setting in request.settings:
        key, equals, value = setting.partition("=")
        if not equals or not value:
            raise ConfigError(f"cannot read `--set` {setting!r}; write it like k=8")
        found[key.strip()] = value.strip()
    return found


def _model(request: Request) -> Any:
    from program.models.cache import use_cache
    from program.models.resolve import resolve_lm, sampled

    use_cache(home())
    return sampled(resolve_lm(request.model, temperature=request.temperature), request.seed)


@contextmanager
def _using(lm: Any, request: Request) -> Iterator[WeaveTracer | None]:
    """Run under the model, and trace it; without a model there is nothing to trace."""
    if lm is None:
        yield None
        return
    import dspy

    from program.tracing.setup import open_tracer

    with (
        dspy.context(lm=lm, disable_history=True, trace=None),
        open_tracer(request.trace, home=home(), content=request.trace_content) as tracer,
        about(run_id=uuid4().hex[:12]),
    ):
        yield tracer


def _tell_defects(data: DataSet) -> None:
    defects: list[Mapping[str, Any]] = data.manifest["defects_in_files"]
    for defect in defects:
        err.print(
            f"data: {defect['count']} x {defect['kind']}: {defect['meaning']}", style="yellow", markup=False
        )


def _line(error: BaseException) -> str:
    """Return what went wrong in one line; of an unforeseen error only its kind, it may quote a user."""
    if isinstance(error, PersonaAgentError):
        return str(error)
    return explain(error) or f"{type(error).__name__} (the run folder has the message)"
