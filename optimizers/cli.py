"""`personaagent align`."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from optimizers.batches import BATCH_RULES
from optimizers.config import preset_named
from optimizers.fleet.batch import Batch
from optimizers.fleet.batch_api.settings import ProviderBatches
from optimizers.fleet.commands import align_here, models_of, paid_before, workers_live
from optimizers.fleet.engines import check_durable
from optimizers.fleet.plan import plan_batch
from optimizers.fleet.plan_text import print_plan
from optimizers.fleet.processes import MOST_PROCESSES
from optimizers.fleet.users import CONCURRENCY, UserResult
from optimizers.gates import GATES
from optimizers.record import mean_score
from program.cli.options import (
    Adapter,
    Json,
    MaxCalls,
    MaxCallsPerUser,
    MaxInputChars,
    MaxUsd,
    MaxUsdPerUser,
    Model,
    PriceIn,
    PriceOut,
    Store,
    Trace,
    TraceContent,
    Wikipedia,
    open_store,
)
from program.console import (
    INTERRUPTED,
    PARTIAL,
    err,
    exit_code,
    explain,
    out,
    print_error,
    print_json,
    print_traceback,
    progress,
)
from program.errors import ConfigError, DataError
from program.files import read_lines
from program.home import home
from program.limits import MOST_STEPS
from program.loop import AgentSettings
from program.printer import make_table
from program.store import UserStore
from program.task import get_task
from program.text import counted, one_line
from program.usage import Usage, UsageTracker, track_usage

_MAX_ERROR = 300

Users = Annotated[list[str] | None, typer.Argument(help="User ids.", show_default=False)]


def _names(registry: Any) -> str:
    return f"{', '.join(registry.names())}, or module:Class."


def align(
    users: Users = None,
    all_: Annotated[bool, typer.Option("--all", help="Align every user.")] = False,
    stale: Annotated[bool, typer.Option("--stale", help="Align every user with new interactions.")] = False,
    model: Model = None,
    prompt_model: Annotated[
        str | None, typer.Option(help="Model of feedback and update; default: the agent's model.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="Settings to start from: `grounded` edits single lines, shows facts from code, and tests "
            "each change on older interactions; `paper` is Algorithm 1."
        ),
    ] = "grounded",
    steps: Annotated[int | None, typer.Option(help="Iterations E; by default 1.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Interactions n that are answered again in each step (`batch_size` in Python); by default 3."
        ),
    ] = None,
    choice: Annotated[
        str | None,
        typer.Option(
            help=f"Which interactions (`batch` in Python): {_names(BATCH_RULES)} By default the latest."
        ),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(help=f"Which rewrites to keep: {_names(GATES)} By default that of the preset."),
    ] = None,
    skip_right: Annotated[
        bool | None,
        typer.Option(
            "--skip-right/--no-skip-right",
            help="Make no feedback if the answer was right; by default as in the preset.",
        ),
    ] = None,
    negatives: Annotated[
        Path | None, typer.Option(help="LaMP-1: a file of paper titles, one per line, cited by no user here.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=MOST_STEPS, help="Most model calls in flight, over all users.")
    ] = CONCURRENCY,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_PROCESSES,
            help="Processes that share the users and the calls in flight; default: by cores, if there are "
            "many users and `--concurrency` is 128 or more.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        Literal["online", "batch"],
        typer.Option(
            help="`online` asks each call at once; `batch` uses the batch API of OpenAI or Anthropic: half "
            "the price, and each of about ten stages may take a day. `--concurrency` then limits nothing."
        ),
    ] = "online",
    again: Annotated[
        bool, typer.Option("--again", help="Align users too from whom there is nothing new to learn.")
    ] = False,
    max_calls: MaxCalls = None,
    max_usd: MaxUsd = None,
    max_calls_per_user: MaxCallsPerUser = None,
    max_usd_per_user: MaxUsdPerUser = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say who would be aligned, with how many calls, and pay nothing.")
    ] = False,
    wikipedia: Wikipedia = True,
    max_input_chars: MaxInputChars = AgentSettings.max_input_chars,
    trace: Trace = "local",
    trace_content: TraceContent = "full",
    adapter: Adapter = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Align personas with what users really answered.

    A run that is stopped, fails or is killed goes on from the finished calls when it is started again, and
    the limits of the same command count what it paid before. If a `personaagent worker` of the store runs,
    the users are shared with it.
    """
    settings = preset_named(preset)
    given: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch,
        "batch": choice,
        "gate": gate,
        "skip_right": skip_right,
    }
    config = replace(settings, **{name: value for name, value in given.items() if value is not None})
    AgentSettings(max_input_chars=max_input_chars)  # a wrong value ends here
    if bool(users) + all_ + stale != 1:
        raise ConfigError("name the users to align, or use `--all` or `--stale`")
    requested = Batch(
        users=tuple(dict.fromkeys(users)) if users else ("all" if all_ else "stale"),
        config=config,
        model=model,
        prompt_model=prompt_model,
        adapter=adapter,
        negatives=tuple(_lines(negatives)),
        wikipedia=wikipedia,
        max_input_chars=max_input_chars,
        again=again,
        max_calls=max_calls,
        max_usd=max_usd,
        max_calls_per_user=max_calls_per_user,
        max_usd_per_user=max_usd_per_user,
        price_in=price_in,
        price_out=price_out,
        trace=trace,
        trace_content=trace_content,
    )
    if (processes or 1) > 1 and requested.is_limited:
        check_durable()  # the tables count what all of them pay
    if (processes or 1) > 1 and engine == "batch":
        raise ConfigError("`--engine batch` needs one process: leave `--processes` out")
    with open_store(store) as opened:
        chosen = list(dict.fromkeys(users or [row.user_id for row in opened.users() if all_ or row.stale]))
        tasks = {user.task for user, _ in opened.last_tries(chosen).values()}
        if requested.negatives and tasks and all(get_task(task).pairs is None for task in tasks):
            raise ConfigError(
                "`--negatives` is for tasks whose questions are made from the history, such as LaMP-1; "
                f"leave it out for {' and '.join(sorted(tasks))}"
            )
        if plan:
            with models_of(replace(requested, trace="off")) as prompt_lm:
                print_plan(plan_batch(opened, chosen, requested, prompt_lm=prompt_lm), json=json)
        else:
            batches = ProviderBatches(on_change=err.print_line) if engine == "batch" else None
            _align(opened, chosen, requested, concurrency, processes, batches, json)


def _align(
    store: UserStore,
    chosen: list[str],
    batch: Batch,
    concurrency: int,
    processes: int | None,
    batches: ProviderBatches | None,
    json: bool,
) -> None:
    """Align users here, or with the store's workers, and print what became of them."""
    tracker = UsageTracker()
    rows: dict[str, dict[str, Any]] = {}
    interrupted = False
    folder = home()
    with ExitStack() as stack:
        shared = bool(chosen) and batches is None and workers_live(store, folder)
        prompt_lm = None
        if not shared:
            prompt_lm = stack.enter_context(models_of(batch))
            stack.enter_context(track_usage(tracker))
        before = paid_before(store, folder, batch) if chosen else Usage()
        if before.calls:
            err.print_line(f"goes on with a run that did not end: it paid {before}")
        bar = stack.enter_context(progress(tracker, len(chosen), "users"))

        async def align_all() -> None:
            if shared:
                from optimizers.fleet.worker import align_with_workers

                results = align_with_workers(
                    store, chosen, batch, home=folder, concurrency=concurrency, tracker=tracker
                )
            else:
                results = align_here(
                    store,
                    chosen,
                    batch,
                    prompt_lm=prompt_lm,
                    home=folder,
                    concurrency=concurrency,
                    processes=processes,
                    batches=batches,
                )
            async with aclosing(results):
                async for result in results:
                    rows[result.user_id] = _row(result, named=not isinstance(batch.users, str))
                    bar.advance(result.user_id)

        try:
            asyncio.run(align_all())
        except KeyboardInterrupt:
            interrupted = True
    if interrupted and shared:
        err.print_line("the workers go on; `personaagent fleet cancel --all` stops them")
    _report([rows[user_id] for user_id in chosen if user_id in rows], tracker, len(chosen), json, interrupted)


def _row(result: UserResult, *, named: bool = True) -> dict[str, Any]:
    """Return what is printed of one user of several; a failure is that user's row.

    A pinned persona is an error only to who names the user.
    """
    row: dict[str, Any] = {"user_id": result.user_id, "status": result.status, "error": None, "code": 0}
    if result.status == "skipped" and not named:
        notes = [f"skipped: v{result.persona_version} is pinned"]
        nothing = {"steps": [], "notes": notes, "agent_runs": 0, "usage": {}, "seconds": 0.0}
        return {**row, "persona_version": result.persona_version, **nothing}
    if (error := result.error) is not None:
        line = explain(error)
        row["error"] = line or one_line(f"{type(error).__name__}: {error}", _MAX_ERROR)
        row["code"] = exit_code(error)
        if line is None:
            print_traceback(error)
        return row
    record = result.record
    notes = [step["note"] for step in record["steps"] if step["note"]]
    return {
        **row,
        "persona_version": result.persona_version,
        "steps": [
            {
                "step": step["number"],
                "score": mean_score([rollout["score"] for rollout in step["simulations"]]),
                "accepted": step["decision"]["accept"],
                "reason": step["decision"]["reason"],
            }
            for step in record["steps"]
        ],
        "notes": ["there is nothing new to learn"] if result.status == "done" else notes,
        "agent_runs": record["agent_runs"],
        "usage": record["usage"],
        "seconds": round(record["seconds"], 2),
    }


def _report(
    results: list[dict[str, Any]], tracker: UsageTracker, n_users: int, json: bool, interrupted: bool
) -> None:
    failed = [row for row in results if row["error"]]
    if json:
        print_json([{key: value for key, value in row.items() if key != "code"} for row in results])
    elif len(failed) < len(results):
        _print_table([row for row in results if not row["error"]])
    for row in failed:
        print_error(f"user {row['user_id']!r}: {row['error']}")
    skipped = sum(row["status"] == "skipped" for row in results if not row["error"])
    aligned = len(results) - len(failed) - skipped
    note = f" ({skipped} skipped)" if skipped else ""
    err.print_line(
        f"{aligned} of {counted(n_users, 'user')} aligned{note}, {tracker.total()}, {tracker.seconds:.0f} s"
    )
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if failed:
        raise typer.Exit(PARTIAL if len(failed) < len(results) else failed[0]["code"])


def _print_table(rows: list[dict[str, Any]]) -> None:
    cells = []
    for row in rows:
        notes = [*row["notes"], *(step["reason"] for step in row["steps"] if not step["accepted"])]
        cells.append(
            (
                row["user_id"],
                f"v{row['persona_version']}",
                ", ".join("-" if step["score"] is None else f"{step['score']:.2f}" for step in row["steps"]),
                str(row["agent_runs"]),
                str(sum(usage["calls"] for usage in row["usage"].values())),
                f"{row['seconds']:.1f}",
                "; ".join(notes),
            )
        )
    titles = ("user", "persona", "score of each step", "rollouts", "calls", "seconds", "")
    out.print(make_table(titles, cells, fold=("user", "score of each step", "")))


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [title for line in read_lines(path) if (title := line.strip())]
    except DataError as error:
        raise ConfigError(f"cannot read `--negatives`: {error}") from error
