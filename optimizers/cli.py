"""`personaagent align`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from optimizers.batches import BATCH_RULES
from optimizers.config import PRESETS
from optimizers.fleet.batch.settings import ProviderBatches
from optimizers.fleet.users import CONCURRENCY, UserResult, align_users
from optimizers.gates import GATES
from optimizers.record import mean_score
from program.cli.options import (
    Adapter,
    Json,
    MaxCalls,
    MaxInputChars,
    MaxUsd,
    Model,
    Store,
    Trace,
    TraceContent,
    Wikipedia,
    model_in_use,
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
from program.limits import MOST_STEPS
from program.loop import AgentSettings
from program.printer import make_table
from program.text import counted, one_line
from program.usage import Budget, UsageTracker, track_usage

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
    wikipedia: Wikipedia = True,
    max_input_chars: MaxInputChars = AgentSettings.max_input_chars,
    trace: Trace = "local",
    trace_content: TraceContent = "full",
    adapter: Adapter = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Align personas with what users really answered.

    A run that is stopped, fails or is killed goes on from the finished calls when it is started again.
    """
    if preset not in PRESETS:
        raise ConfigError(f"`--preset` must be one of {', '.join(PRESETS)}, got {preset!r}")
    given: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch,
        "batch": choice,
        "gate": gate,
        "skip_right": skip_right,
    }
    config = replace(PRESETS[preset], **{name: value for name, value in given.items() if value is not None})
    settings = AgentSettings(max_input_chars=max_input_chars)
    if bool(users) + all_ + stale != 1:
        raise ConfigError("name the users to align, or use `--all` or `--stale`")
    titles = _lines(negatives)
    batches = ProviderBatches(on_change=err.print_line) if engine == "batch" else None
    tracker = UsageTracker(Budget(max_calls=max_calls, max_usd=max_usd))
    rows: dict[str, dict[str, Any]] = {}
    interrupted = False
    with open_store(store) as opened:
        chosen = list(dict.fromkeys(users or [row.user_id for row in opened.users() if all_ or row.stale]))
        for user_id in chosen:
            opened.user(user_id)
        prompt_lm = _prompt_model(prompt_model)
        with (
            model_in_use(model, trace, trace_content, adapter),
            track_usage(tracker),
            progress(tracker, len(chosen), "users") as bar,
        ):

            async def align_all() -> None:
                results = await align_users(
                    opened,
                    chosen,
                    config,
                    prompt_model=prompt_lm,
                    concurrency=concurrency,
                    again=again,
                    negatives=titles,
                    wikipedia=wikipedia,
                    settings=settings,
                    batches=batches,
                )
                async for result in results:
                    rows[result.user_id] = _row(result, named=bool(users))
                    bar.advance(result.user_id)

            try:
                asyncio.run(align_all())
            except KeyboardInterrupt:
                interrupted = True
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


def _prompt_model(spec: str | None) -> Any:
    if spec is None:
        return None
    from program.models.resolve import resolve_lm

    return resolve_lm(spec)


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [title for line in read_lines(path) if (title := line.strip())]
    except DataError as error:
        raise ConfigError(f"cannot read `--negatives`: {error}") from error
