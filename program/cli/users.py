"""`personaagent users`: import, list, show, forget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from program.cli.options import Json, Store, User, open_store
from program.console import PARTIAL, confirm, err, out, print_json, reading
from program.home import home
from program.memory.semantic import render
from program.printer import make_table
from program.store import UserStore
from program.store.importers import import_users
from program.text import counted, cut
from program.text_safety import visible

app = typer.Typer(no_args_is_help=True, help="Import, show and delete users.")

_MAX_QUERY = 90

_forgetters: dict[str, Callable[[UserStore, str], object]] = {}


def also_forget(forget_user: Callable[[UserStore, str], object]) -> None:
    """Call ``forget_user(store, user_id)`` too when a user is forgotten; other packages keep texts."""
    _forgetters[f"{forget_user.__module__}.{forget_user.__qualname__}"] = forget_user


@app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            help="JSON lines, a JSON list, CSV with a header, or a LaMP or OPPU history file, also as .gz; "
            "- reads standard input."
        ),
    ],
    task: Annotated[str, typer.Option(help="The users' task: LaMP-2M, free-text, or module:TASK.")] = (
        "free-text"
    ),
    format_: Annotated[
        Literal["auto", "jsonl", "json", "csv", "lamp", "oppu"],
        typer.Option("--format", help="Layout of the file."),
    ] = "auto",
    skip_bad: Annotated[bool, typer.Option(help="Skip and report bad records.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Import interactions. Importing the same file again changes nothing."""
    with open_store(store) as users, reading(path.name) as progress:
        report = import_users(
            users,
            path,
            format=format_,
            task=task,
            skip_bad=skip_bad,
            progress=progress,
        )
    for warning in report.warnings:
        err.print_line(f"warning: {warning}", style="yellow")
    for bad in report.skipped:
        err.print_line(f"skipped {bad}", style="yellow")
    if json:
        print_json(
            {
                "users": report.users,
                "interactions": report.interactions,
                "new": report.new,
                "skipped": len(report.skipped),
            }
        )
    else:
        out.print_line(
            f"{counted(report.users, 'user')}, {counted(report.interactions, 'interaction')}, "
            f"{report.new:,} new, {counted(len(report.skipped), 'bad record')} skipped"
        )
    if report.skipped:
        raise typer.Exit(PARTIAL)


@app.command("list")
def list_(store: Store = None, json: Json = False) -> None:
    """List the users."""
    with open_store(store) as users:
        rows = list(users.users())
    if json:
        print_json(
            [
                {"user_id": r.user_id, "interactions": r.interactions, "persona_version": r.persona_version}
                for r in rows
            ]
        )
        return
    cells = [
        (
            visible(row.user_id),
            row.task,
            str(row.interactions),
            f"v{row.persona_version}" if row.persona_version else "none yet",
            "new data" if row.stale else "",
        )
        for row in rows
    ]
    out.print(make_table(("user", "task", "interactions", "persona", ""), cells, fold=("user", "task")))
    err.print_line(counted(len(rows), "user"))


@app.command()
def show(user: User, store: Store = None, json: Json = False) -> None:
    """Show a user's profile, latest interactions (newest first, each as response: query) and alignments."""
    with open_store(store) as users:
        summary = users.user(user)
        profile = users.profile(user)
        latest = users.interactions(user, latest=5)
        runs = users.alignments(user)
    if json:
        print_json(
            {
                "user_id": user,
                "task": summary.task,
                "interactions": summary.interactions,
                "persona_version": summary.persona_version,
                "stale": summary.stale,
                "profile": render(profile) if profile else None,
                "alignments": [
                    {"id": run.id, "status": run.status, "started_at": run.started_at, "error": run.error}
                    for run in runs
                ],
            }
        )
        return
    interactions = counted(summary.interactions, "interaction")
    out.print_line(f"{visible(summary.user_id)}  {summary.task}, {interactions}", style="bold")
    if profile:
        out.print_text(render(profile))
    if latest:
        out.print_text("\nLatest interactions:")
    for interaction in reversed(latest):
        out.print_line(f"  {interaction.response}: {cut(interaction.query, _MAX_QUERY)}")
    if runs:
        out.print_text("\nAlignments:")
    for run in runs:
        line = f"  {run.started_at:%Y-%m-%d %H:%M} UTC: {run.status}"
        out.print_line(f"{line}, {run.error}" if run.error else line)


@app.command()
def forget(
    user: User,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Delete everything stored about a user: interactions, profile, personas, alignments and local traces."""
    from program.models.cache import empty_cache
    from program.tracing.forget import forget_user

    with open_store(store) as users:
        users.user(user)
        if not yes and not confirm(f"Delete everything about {user!r}? This cannot be undone"):
            raise typer.Abort
        for forget_elsewhere in _forgetters.values():
            forget_elsewhere(users, user)
        users.forget(user)
        empty_cache(home())
        calls = forget_user(home(), user)
    if json:
        print_json({"user_id": user, "traced_calls": calls})
    else:
        err.print_line(f"forgot {user!r} and {counted(calls, 'traced call')}")
