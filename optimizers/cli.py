"""`personaagent align`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from optimizers.batches import BATCH_RULES
from optimizers.config import PRESETS, AlignmentConfig
from optimizers.gates import GATES
from optimizers.record import AlignmentRecord
from optimizers.stored import align_user
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
from program.loop import AgentSettings
from program.models.outages import is_outage
from program.printer import make_table
from program.store import UserStore
from program.text import counted, one_line
from program.usage import Budget, UsageTracker, track_usage

_MAX_ERROR = 300

Users = Annotated[list[str] | None, typer.Argument(help="User ids.", show_default=False)]


def _names(registry: Any) -> str:
    return f"{', '.join(registry.names())}, or module:Class."


def align(
    users: Users = None,
    all_: Annotated[bool, typer.Option("--all", help="Align every user.")] = False,
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
    """Align personas with what users really answered."""
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
    if bool(users) == all_:
        raise ConfigError("name the users to align, or use `--all`")
    titles = _lines(negatives)
    tracker = UsageTracker(Budget(max_calls=max_calls, max_usd=max_usd))
    results: list[dict[str, Any]] = []
    with open_store(store) as opened:
        chosen = list(dict.fromkeys(users or [row.user_id for row in opened.users()]))
        for user_id in chosen:
            opened.user(user_id)
        prompt_lm = _prompt_model(prompt_model)
        with (
            model_in_use(model, trace, trace_content, adapter),
            track_usage(tracker),
            progress(tracker, len(chosen), "users") as bar,
        ):
            for user_id in chosen:
                row = _align_one(
                    opened,
                    user_id,
                    config,
                    prompt_model=prompt_lm,
                    negatives=titles,
                    wikipedia=wikipedia,
                    settings=settings,
                )
                results.append(row)
                bar.advance(user_id)
                if row["stop"]:
                    break
    _report(results, tracker, len(chosen), json)


def _align_one(store: UserStore, user_id: str, config: AlignmentConfig, **settings: Any) -> dict[str, Any]:
    """Align one user of several: a failure is that user's row, an outage stops the rest."""
    row: dict[str, Any] = {"user_id": user_id, "error": None, "code": 0, "stop": False}
    try:
        record: AlignmentRecord = align_user(store, user_id, config, **settings).alignment
    except Exception as error:  # noqa: BLE001 - one user's failure is a row; the rows of the others go on
        line = explain(error)
        row["error"] = line or one_line(f"{type(error).__name__}: {error}", _MAX_ERROR)
        row["code"] = exit_code(error)
        row["stop"] = is_outage(error)
        if line is None:
            print_traceback(error)
        return row
    head = store.persona(user_id)
    return {
        **row,
        "persona_version": head.version if head else None,
        "steps": [
            {
                "step": step.number,
                "score": step.score,
                "accepted": step.decision.accept,
                "reason": step.decision.reason,
            }
            for step in record.steps
        ],
        "notes": [step.note for step in record.steps if step.note],
        "agent_runs": record.n_rollouts,
        "usage": {stage: vars(usage) for stage, usage in record.usage.items()},
        "seconds": round(record.seconds, 2),
    }


def _report(results: list[dict[str, Any]], tracker: UsageTracker, n_users: int, json: bool) -> None:
    failed = [row for row in results if row["error"]]
    if json:
        print_json(
            [{key: value for key, value in row.items() if key not in ("stop", "code")} for row in results]
        )
    elif len(failed) < len(results):
        _print_table([row for row in results if not row["error"]])
    for row in failed:
        print_error(f"user {row['user_id']!r}: {row['error']}")
    aligned = len(results) - len(failed)
    err.print_line(
        f"{aligned} of {counted(n_users, 'user')} aligned, {tracker.total()}, {tracker.seconds:.0f} s"
    )
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
