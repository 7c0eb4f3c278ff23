"""`personaagent users`: import, export, list, show, correct, costs, forget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from program.cli.corrections import correct
from program.cli.options import Json, Store, User, open_store
from program.cli.receipts import ACTOR, Also, print_receipt
from program.console import PARTIAL, confirm, err, out, print_json, reading
from program.export import export_user
from program.home import home
from program.memory.semantic import render
from program.printer import make_table, to_json
from program.saved import write_text
from program.store.costs import total
from program.store.importers import import_users
from program.store.records import UserCost, UserSummary
from program.text import counted, cut
from program.text_safety import visible

app = typer.Typer(no_args_is_help=True, help="Import, show, correct, export and delete users.")
app.command()(correct)

_MAX_QUERY = 90


@app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            help="JSON lines, a JSON list, CSV with a header, a LaMP or OPPU history file, or what "
            "`users export` wrote, also as .gz; - reads standard input."
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="The users' task: LaMP-2M, free-text, or module:TASK. Default: free-text, or the export's.",
            show_default=False,
        ),
    ] = None,
    format_: Annotated[
        Literal["auto", "jsonl", "json", "csv", "lamp", "oppu", "export"],
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
                "forgotten": report.forgotten,
            }
        )
    else:
        if report.forgotten:
            out.print_line(f"{counted(report.forgotten, 'user')} left out: forgotten")
        out.print_line(
            f"{counted(report.users, 'user')}, {counted(report.interactions, 'interaction')}, "
            f"{report.new:,} new, {counted(len(report.skipped), 'bad record')} skipped"
        )
    if report.skipped:
        raise typer.Exit(PARTIAL)


@app.command()
def export(
    user: User,
    output: Annotated[
        Path | None, typer.Option("--out", help="The file to write, readable by its owner only.")
    ] = None,
    traces: Annotated[bool, typer.Option(help="Include the user's local traces, which may be large.")] = True,
    store: Store = None,
) -> None:
    """Print everything held about a user as JSON, or write it to a file.

    It has the user's interactions, profile, persona versions with what each line rests on, corrections,
    alignments, costs, keys (without secrets) and local traces, and says what it does not have. `users import`
    takes over interactions, profile and persona versions.
    """
    with open_store(store) as users:
        data = export_user(users, user, home=home(), traces=traces)
    if output is None:
        print_json(data)
        return
    write_text(output, to_json(data) + "\n")
    err.print_line(
        f"{counted(len(data['interactions']), 'interaction')} and "
        f"{counted(len(data['personas']), 'persona version')} written to {output}"
    )


@app.command("list")
def list_(store: Store = None, json: Json = False) -> None:
    """List the users."""
    with open_store(store) as users:
        rows = list(users.users())
        paid = {cost.user_id: cost for cost in users.total_costs()}
    nothing = total([])
    if json:
        print_json(
            [{**_summary(row), **_amounts(paid.get(row.user_id, nothing))} for row in rows],
        )
        return
    cells = [
        (
            visible(row.user_id),
            row.task,
            str(row.interactions),
            _version(row),
            paid[row.user_id].price if row.user_id in paid else "",
            _stale(row),
        )
        for row in rows
    ]
    titles = ("user", "task", "interactions", "persona", "cost", "")
    out.print(make_table(titles, cells, fold=("user", "task")))
    err.print_line(counted(len(rows), "user"))


def _summary(user: UserSummary) -> dict[str, Any]:
    """Return a user as JSON data."""
    return {
        "user_id": user.user_id,
        "task": user.task,
        "interactions": user.interactions,
        "persona_version": user.persona_version,
        "pinned": user.pinned,
        "stale": user.stale,
        "stale_since": user.stale_since,
    }


def _amounts(cost: UserCost) -> dict[str, Any]:
    """Return what a user cost in all as JSON data."""
    data = cost.as_dict()
    return {name: data[name] for name in ("calls", "tokens", "usd", "unpriced", "agreement")}


def _version(user: UserSummary) -> str:
    if user.persona_version is None:
        return "none yet"
    return f"v{user.persona_version}{' (pinned)' if user.pinned else ''}"


def _stale(user: UserSummary) -> str:
    if not user.stale:
        return ""
    return f"new data since {user.stale_since:%Y-%m-%d}" if user.stale_since else "new data"


@app.command()
def show(user: User, store: Store = None, json: Json = False) -> None:
    """Show a user's profile, latest interactions (newest first, each as response: query) and alignments."""
    with open_store(store) as users:
        summary = users.user(user)
        profile = users.profile(user)
        latest = users.interactions(user, latest=5)
        runs = users.alignments(user)
        months = users.costs(user)
    if json:
        print_json(
            {
                **_summary(summary),
                "costs": [cost.as_dict() for cost in months],
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
    out.print_line(", ".join(filter(None, (f"persona: {_version(summary)}", _stale(summary)))))
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
    if months:
        out.print_text("\nCosts:")
        _print_costs(months, by_user=False)


@app.command()
def costs(
    user: Annotated[
        list[str] | None, typer.Argument(help="User ids; by default all.", show_default=False)
    ] = None,
    by: Annotated[
        Literal["user", "month"],
        typer.Option(help="A row for each user, or for each month: of the users that are named, or of all."),
    ] = "user",
    store: Store = None,
    json: Json = False,
) -> None:
    """Show calls, tokens, cost and agreement of users or months (UTC).

    Alignments and `ask` are counted, also by other processes. Agreement is the mean score, from 0 to 1, of
    the agent's answers to past interactions while it was aligned. Forgotten users count no more.
    """
    with open_store(store) as users:
        if not user:
            rows = users.monthly_costs() if by == "month" else list(users.total_costs())
        elif by == "month":
            rows = [cost for name in dict.fromkeys(user) for cost in users.costs(name)]
        else:
            rows = [users.cost(name) for name in dict.fromkeys(user)]
    if json:
        print_json([cost.as_dict() for cost in rows])
        return
    _print_costs(rows, by_user=by == "user" or bool(user), by_month=by == "month")
    everything = total(rows)
    err.print_line(
        f"{counted(everything.calls, 'call')}, {counted(everything.tokens, 'token')}, {everything.price}"
    )


def _print_costs(rows: Sequence[UserCost], *, by_user: bool, by_month: bool = True) -> None:
    titles = (
        *(("user",) if by_user else ()),
        *(("month",) if by_month else ()),
        *("alignments", "answers", "agreement", "calls", "tokens", "cost"),
    )
    cells = [
        (
            *((visible(cost.user_id or ""),) if by_user else ()),
            *((cost.month or "",) if by_month else ()),
            f"{cost.alignments:,}" + (f" ({cost.failed:,} failed)" if cost.failed else ""),
            f"{cost.answers:,}",
            "-" if cost.agreement is None else f"{cost.agreement:.2f}",
            f"{cost.calls:,}",
            f"{cost.tokens:,}",
            cost.price,
        )
        for cost in rows
    ]
    out.print(make_table(titles, cells, fold=("user",) if by_user else ()))


@app.command()
def forget(
    user: User,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    also: Also = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Delete everything about a user: rows of the store, local traces, cached answers, steps of the fleet.

    Run folders of evaluations lie anywhere: name them with --also, and a resumed run leaves the user out.
    No import brings the user back. If the command is interrupted, run it again. Prints a receipt without
    content; what this cannot reach is in its JSON.
    """
    with open_store(store) as users:
        if not yes and not confirm(f"Delete everything about {user!r}? This cannot be undone"):
            raise typer.Abort
        print_receipt(users.forget(user, home=home(), actor=ACTOR, also=also or ()), json=json)


@app.command()
def readmit(user: User, store: Store = None) -> None:
    """Let a forgotten user be imported again. Interactions that were forgotten singly stay forgotten."""
    with open_store(store) as users:
        was_forgotten = users.readmit(user, actor=ACTOR)
    err.print_line(f"{user!r} can be imported again" if was_forgotten else f"{user!r} was not forgotten")
