"""`personaagent eval sweep`: the same run for several values of one setting."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.cli import options as o
from eval.cli.running import Request, check, execute, finish
from eval.data.selection import Selection
from eval.methods.registry import FLOORS, method_class, parameters, split_spec, split_specs, with_setting
from eval.records import SWEEP, SweepEntry, SweepManifest, read_sweep, write_json
from eval.runner import Limits
from program.cli.options import Json, Model, Trace, TraceContent
from program.console import err, print_json
from program.errors import ConfigError
from program.ledger import Ledger

_SELECTION = ("users", "history", "queries")

Over = Annotated[
    str,
    typer.Option(
        help="A setting of the methods (batch, steps, k, ...), model, history, users, queries or seed."
    ),
]


def sweep(
    over: Over,
    task: o.TaskName,
    data: o.Data,
    method: o.Methods,
    out: Annotated[Path, typer.Option(help="Gets one run folder for each value.")],
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
    """Run the methods once for each value of a setting; limits hold for each run."""
    key, values = _parse(over)
    base = Request(
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
    requests = {value: _with(base, key, value) for value in values}
    for request in requests.values():
        check(request)
    ledger = Ledger()
    codes: list[int] = []
    done = _done(out, key)
    for value, request in requests.items():
        err.print(f"{key} = {value}", markup=False)
        outcome = execute(request, ledger)
        done[value] = SweepEntry(value=value, run=request.out.name)
        write_json(out / SWEEP, SweepManifest(over=key, runs=list(done.values())))
        codes.append(finish(outcome))
        if outcome.stopped is not None:
            break
    if json:
        print_json({"over": key, "runs": [vars(entry) for entry in done.values()]})
    err.print(f"Kept in {out}; next: personaagent eval report {out}", markup=False)
    if any(codes):
        raise typer.Exit(max(codes))


def _done(out: Path, key: str) -> dict[str, SweepEntry]:
    """Return the values that this sweep has already, so that continuing it drops none from the page."""
    before = read_sweep(out)
    if before is not None and before.over != key:
        raise ConfigError(f"`{out}` holds a sweep over `{before.over}`, not `{key}`; give another `--out`")
    return {entry.value: entry for entry in before.runs} if before else {}


def _parse(over: str) -> tuple[str, list[str]]:
    key, equals, rest = over.partition("=")
    values = [value.strip() for value in rest.split(",") if value.strip()]
    if not equals or not values:
        raise ConfigError(f"cannot read `--over` {over!r}; write it like batch=1,3,5")
    if len(set(values)) < len(values):
        raise ConfigError(f"`--over` {over!r} names a value twice")
    return key.strip(), values


def _with(base: Request, key: str, value: str) -> Request:
    """Return the request of one value, in its own folder."""
    folder = base.out / f"{key}={re.sub(r'[^A-Za-z0-9._-]+', '-', value)}"
    if key == "model":
        return replace(base, out=folder, model=value)
    if key in _SELECTION:
        changed: dict[str, Any] = {key: _number(key, value)}
        return replace(base, out=folder, selection=replace(base.selection, **changed))
    if key == "seed":
        seed = _number(key, value)
        return replace(base, out=folder, seed=seed, selection=replace(base.selection, seed=seed))
    methods = list(split_specs(base.methods))
    if not any(_has(spec, key) for spec in methods):
        raise ConfigError(f"none of the methods has a setting `{key}`; see `personaagent eval methods`")
    # Floors and baselines without the setting stand beside those that are varied.
    varied = [with_setting(spec, key, value) if _has(spec, key) else spec for spec in methods]
    return replace(base, out=folder, methods=varied)


def _has(spec: str, key: str) -> bool:
    return spec != FLOORS and key in parameters(method_class(split_spec(spec)[0]))


def _number(key: str, value: str) -> int:
    if not value.isdecimal():
        raise ConfigError(f"`--over` {key} needs whole numbers, got {value!r}")
    return int(value)
