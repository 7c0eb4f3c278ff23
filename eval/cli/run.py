"""`personaagent eval run`, and `sweep`: the same run for several values of one setting."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from eval.api import check_methods, evaluate
from eval.cli import options as o
from eval.cli.results import print_scores
from eval.data.selection import Selection
from eval.methods.registry import BASELINES, METHODS, split_specs, with_setting
from eval.records import SWEEP, SweepEntry, SweepManifest, read_run, read_sweep, write_json
from eval.runner import Limits, Outcome
from program.cli.options import Adapter, Json, Model, Trace, TraceContent
from program.console import MODEL, PARTIAL, err, exit_code, explain, print_json, progress
from program.errors import ConfigError, PersonaAgentError
from program.plugins import parameters, split_spec
from program.printer import command as command_line
from program.text import cut
from program.usage import UsageTracker

_SELECTION = ("users", "history", "queries")
_MAX_DIGITS = 18


def run(
    context: typer.Context,
    task: o.TaskName,
    data: o.Data,
    method: o.Methods,
    out: o.Out,
    over: o.Over = None,
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
    calibrate: o.Calibrate = False,
    threads: o.Threads = 1,
    seed: o.Seed = 0,
    max_calls: o.MaxCalls = None,
    max_usd: o.MaxUsd = None,
    trace: Trace = "local",
    trace_content: TraceContent = "full",
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Run methods on a data set and score them. The same command resumes a stopped run."""
    if over is None and context.info_name == "sweep":
        raise ConfigError("`eval sweep` is `eval run --over`; give `--over`, such as `--over batch=1,3,5`")
    options: dict[str, Any] = dict(
        task=task,
        data=data,
        methods=method,
        out=out,
        settings=_settings(settings or [], prompt_model),
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
        temperature=temperature,
        calibrate=calibrate,
        seed=seed,
        limits=Limits(threads=threads, max_calls=max_calls, max_usd=max_usd),
        trace=trace,
        trace_content=trace_content,
        adapter=adapter,
        command=shlex.join(["personaagent", *sys.argv[1:]]),
    )
    code = _run(options, json) if over is None else _sweep(options, over, json)
    if code:
        raise typer.Exit(code)


def _run(options: dict[str, Any], json: bool) -> int:
    tracker = UsageTracker()
    outcome, out = _evaluate(options, tracker), options["out"]
    used = tracker.total()
    if json:
        print_json(
            {
                "out": str(out),
                "expected": outcome.expected,
                "answered": outcome.answered,
                "failed": outcome.failed,
                "given_up": sorted(outcome.given_up),
                "complete": outcome.complete,
                "usage": vars(used),
            }
        )
    elif any(outcome.answered.values()) and any(query.gold is not None for query in read_run(out).queries):
        print_scores(out)
    err.print_line(f"{used}, {tracker.seconds:.0f} s")
    _print_next(out)
    return _print_failures(outcome)


def _sweep(options: dict[str, Any], over: str, json: bool) -> int:
    """Run the methods once for each value of a setting, after checking all values."""
    key, values = _parse(over)
    runs = {value: _with(options, key, value) for value in values}
    for run in runs.values():
        check_methods(
            run["methods"],
            run["task"],
            model=run["model"],
            temperature=run["temperature"],
            calibrate=run["calibrate"],
            settings=run["settings"],
        )
    tracker = UsageTracker()
    codes: list[int] = []
    out: Path = options["out"]
    entries = _earlier_entries(out, key)
    for value, run in runs.items():
        err.print_line(f"{key} = {value}")
        outcome = _evaluate(run, tracker)
        entries[value] = SweepEntry(value=value, run=run["out"].name)
        write_json(out / SWEEP, SweepManifest(over=key, runs=list(entries.values())))
        codes.append(_print_failures(outcome))
        if outcome.stopped is not None:
            break
    if json:
        print_json({"over": key, "runs": [vars(entry) for entry in entries.values()]})
    _print_next(out)
    return max(codes)


def _evaluate(options: dict[str, Any], tracker: UsageTracker) -> Outcome:
    """Call `evaluate` with a progress bar on stderr."""
    with progress(tracker, 0, "answers") as bar:

        def plan(total: int, missing: int) -> None:
            bar.resize(total, completed=total - missing)

        return evaluate(
            **options, tracker=tracker, on_plan=plan, on_answer=bar.advance, on_defects=_print_defects
        ).outcome


def _print_failures(outcome: Outcome) -> int:
    """Print failures on stderr; return the exit code."""
    for label, kinds in outcome.failed.items():
        counts = ", ".join(f"{number} x {kind}" for kind, number in sorted(kinds.items()))
        end = "; given up" if label in outcome.given_up else ""
        line = f"{label}: failed attempts: {counts}; the last: {_explain(outcome.errors[label])}{end}"
        err.print_line(line, style="yellow")
    if outcome.complete:
        return 0
    if outcome.stopped is not None:
        err.print_line(f"stopped: {_explain(outcome.stopped)}", style="red")
        return exit_code(outcome.stopped)
    err.print_line("Some answers are missing; run the same command again to retry them.")
    return MODEL if not any(outcome.answered.values()) else PARTIAL


def _print_defects(defects: Sequence[Mapping[str, Any]]) -> None:
    for defect in defects:
        line = f"data: {defect['count']} x {defect['kind']}: {defect['meaning']}"
        err.print_line(line, style="yellow")


def _print_next(out: Path) -> None:
    err.print_line(f"Saved in {out}; next: {command_line('eval report', str(out))}")


def _explain(error: BaseException) -> str:
    """Return one line; of an unexpected error only its type, because its message may quote a user."""
    if isinstance(error, PersonaAgentError):
        return str(error)
    return explain(error) or f"{type(error).__name__} (the run folder has the message)"


def _settings(settings: Sequence[str], prompt_model: str | None) -> dict[str, str]:
    """Return the settings of ``--set`` and ``--prompt-model`` as name to text."""
    parsed = {"prompt_model": prompt_model} if prompt_model else {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not value:
            raise ConfigError(f"cannot read `--set` {setting!r}; write it like k=8")
        parsed[key.strip()] = value.strip()
    return parsed


def _earlier_entries(out: Path, key: str) -> dict[str, SweepEntry]:
    """Return the entries of an existing sweep by value, which a resumed sweep keeps."""
    sweep = read_sweep(out)
    if sweep is not None and sweep.over != key:
        raise ConfigError(f"`{out}` holds a sweep over `{sweep.over}`, not `{key}`; give another `--out`")
    return {entry.value: entry for entry in sweep.runs} if sweep else {}


def _parse(over: str) -> tuple[str, list[str]]:
    key, equals, rest = over.partition("=")
    values = [value.strip() for value in rest.split(",") if value.strip()]
    if not equals or not values:
        raise ConfigError(f"cannot read `--over` {over!r}; write it like batch=1,3,5")
    if len(set(values)) < len(values):
        raise ConfigError(f"`--over` {over!r} names a value twice")
    return key.strip(), values


def _with(options: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """Return the options of the run with one value, which has its own folder."""
    run = {**options, "out": options["out"] / f"{key}={re.sub(r'[^A-Za-z0-9._-]+', '-', value)}"}
    if key == "model":
        return {**run, "model": value}
    if key in _SELECTION:
        changed: dict[str, Any] = {key: _whole_number(key, value)}
        return {**run, "selection": replace(run["selection"], **changed)}
    if key == "seed":
        seed = _whole_number(key, value)
        return {**run, "seed": seed, "selection": replace(run["selection"], seed=seed)}
    methods = list(split_specs(run["methods"]))
    if not any(_has(spec, key) for spec in methods):
        raise ConfigError(f"none of the methods has a setting `{key}`; see `personaagent eval methods`")
    # Methods without the setting run unchanged, for comparison.
    return {
        **run,
        "methods": [with_setting(spec, key, value) if _has(spec, key) else spec for spec in methods],
    }


def _has(spec: str, key: str) -> bool:
    return spec not in BASELINES and key in parameters(METHODS.load(split_spec(spec)[0]))


def _whole_number(key: str, value: str) -> int:
    if not value.isdecimal() or len(value) > _MAX_DIGITS:
        raise ConfigError(f"`--over {key}` needs whole numbers, got {cut(value, _MAX_DIGITS)!r}")
    return int(value)
