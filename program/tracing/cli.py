"""The command `personaagent trace`: list, show, diff, export, prune and serve traces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from program.cli.options import MAX_INTEGER, Store
from program.console import err, out, print_json
from program.errors import ConfigError, StoreError
from program.home import home
from program.processes import is_dead
from program.text import counted
from program.tracing.limits import MAX_MB, OLDER_THAN, trace_limits
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT, store_path
from program.tracing.view import reader, terminal
from program.tracing.view.personas import diff_lines, persona_history
from program.tracing.view.stored import users_at_hand, versions_of

app = typer.Typer(no_args_is_help=True, help="List, show, compare, export and serve traces.")

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Trace = Annotated[str, typer.Argument(help="The first characters of a trace or call id, or `last`.")]
User = Annotated[str | None, typer.Option(help="Only this user's traces.")]


@contextmanager
def _traces() -> Iterator[TraceStore]:
    path = store_path(home())
    if not path.exists():
        raise StoreError(f"no traces yet in {str(path)!r}; run `personaagent ask` or `align` first")
    with closing(TraceStore(path)) as store:
        yield store


@app.command("list")
def list_(
    user: User = None,
    run: Annotated[str | None, typer.Option(help="Only this run's traces.")] = None,
    name: Annotated[str | None, typer.Option(help="Only traces of this kind: align, ask, evaluate.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only traces in which something failed.")] = False,
    query: Annotated[
        str | None, typer.Option(help="Only traces in which a question holds this text, in any case.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_INTEGER, help="Maximum number of traces.")] = 30,
    json_: Json = False,
) -> None:
    """List traces, newest first."""
    with _traces() as store:
        lines = reader.list_traces(
            store, user_id=user, run_id=run, name=name, failed=failed, query=query, limit=limit
        )
    if json_:
        print_json([asdict(line) for line in lines])
    else:
        out.print(terminal.traces_table(lines))


@app.command()
def show(
    trace: Trace = "last",
    texts: Annotated[
        bool, typer.Option("--texts/--no-texts", help="Print what was asked, answered and said, a line each.")
    ] = True,
    json_: Json = False,
) -> None:
    """Show a trace as a tree: what was asked and answered, the user's true answer, feedback, tools, failures.

    Each call has its duration, tokens, cost and decision. Texts are cut to one line; `--json` has them whole.
    """
    with _traces() as store:
        tree = reader.show_trace(store, reader.find_trace(store, trace), texts=texts)
    if json_:
        print_json(asdict(tree))
    else:
        out.print(terminal.trace_tree(tree))


@app.command()
def diff(
    user: Annotated[str, typer.Argument(help="User id.")],
    before: Annotated[int | None, typer.Argument(help="A persona's number; default: the first.")] = None,
    after: Annotated[int | None, typer.Argument(help="A persona's number; default: the latest.")] = None,
    location: Store = None,
    json_: Json = False,
) -> None:
    """Show how a user's persona changed between two versions, and the feedback that led to it.

    Numbers are the store's versions, rollbacks and edits among them. Of an agent that was aligned without a
    store, the texts are counted as they first appear.
    """
    with _traces() as store, users_at_hand(location) as users:
        changes = persona_history(store, user, versions_of(users, user))
    by_number = {change.number: change for change in reversed(changes) if change.number is not None}
    if not by_number:
        raise StoreError(f"no traced persona for user {user!r}; see `personaagent trace list`")
    newest = next(change.number for change in reversed(changes) if change.number is not None)
    first = by_number.get(next(reversed(by_number)) if before is None else before)
    last = by_number.get(newest if after is None else after)
    if first is None or last is None:
        numbers = ", ".join(f"{number}" for number in sorted(by_number))
        raise StoreError(f"no such persona for user {user!r}; choose from {numbers}")
    start, end = sorted((changes.index(first), changes.index(last)))
    between = changes[start + 1 : end + 1]
    if json_:
        diff = diff_lines(first.text, last.text)
        print_json({"diff": diff, "steps": [asdict(change) for change in between]})
    else:
        out.print(terminal.persona_table(changes), "", terminal.persona_diff(first, last, between))


@app.command()
def export(
    to: Annotated[Path, typer.Argument(help="File to write.")],
    trace: Annotated[
        str | None, typer.Option(help="Only this trace: the first characters of its id, or `last`.")
    ] = None,
    user: User = None,
    format_: Annotated[
        Literal["html", "jsonl"], typer.Option("--format", help="A page for a browser, or Weave's records.")
    ] = "html",
    location: Store = None,
) -> None:
    """Write traces to one file. It holds users' texts: share it with care.

    The page opens on the user's current persona with what it rests on, if it is about one user whom the store
    knows.
    """
    from program.tracing.view.page.html import export_page

    with _traces() as store, users_at_hand(location) as users:
        trace_id = None if trace is None else reader.find_trace(store, trace)
        # It holds users' texts, so only the owner may read it.
        to.touch(mode=0o600)
        # Half of a surrogate pair in a text becomes its JSON escape; the page holds JSON as well.
        with to.open("w", encoding="utf-8", errors="backslashreplace") as file:
            if format_ == "html":
                file.write(export_page(store, user_id=user, trace_id=trace_id, users=users))
            else:
                for call in reader.export_calls(store, trace_id=trace_id, user_id=user):
                    file.write(json.dumps(call, ensure_ascii=False) + "\n")
    err.print_line(f"Wrote {to}")


@app.command()
def prune(
    older_than: Annotated[
        str | None,
        typer.Option(help=f"Remove traces that ended longer ago: 12h, 30d, 8w; or {OLDER_THAN}."),
    ] = None,
    max_mb: Annotated[
        float | None,
        typer.Option(
            help=f"Then remove the oldest ones until the file holds no more than this. Or set {MAX_MB}."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")] = False,
    json_: Json = False,
) -> None:
    """Remove old traces. Those of a run in progress stay.

    With the environment variables set, each command that traces removes them itself.
    """
    limits = trace_limits(older_than, max_mb)
    if not limits:
        raise ConfigError("say what to remove: `--older-than 30d`, `--max-mb 500`, or both")
    with _traces() as store:
        store.interrupt_dead(LOCAL_PROJECT, is_dead)
        pruned = store.prune(
            LOCAL_PROJECT, before=limits.before, max_bytes=limits.max_bytes, dry_run=dry_run, rewrite=True
        )
    if json_:
        print_json({**asdict(pruned), "dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    about = "about " if dry_run else ""
    sizes = f"{pruned.bytes_before / 1e6:.1f} MB -> {about}{pruned.bytes_after / 1e6:.1f} MB"
    out.print_line(f"{verb} {counted(pruned.traces, 'trace')} ({counted(pruned.calls, 'call')}): {sizes}")
    if limits.max_bytes is not None and pruned.bytes_after > limits.max_bytes:
        err.print_line("the rest is in progress, or belongs to what is kept: personas and interactions")


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8765,
    key: Annotated[str | None, typer.Option(help="Key that clients must send; default: random.")] = None,
    location: Store = None,
) -> None:
    """Serve the traces on this machine only: a page for the browser, and Weave's API.

    The page of a user opens on the current persona with what it rests on, from the store.
    """
    from program.tracing.server.http_server import TraceServer

    with (
        users_at_hand(location) as users,
        closing(TraceStore(store_path(home()))) as store,
        TraceServer(store, port=port, key=key, users=users) as server,
    ):
        err.print_line(f"Page:   {server.page_address}")
        err.print_line(f"Weave:  WANDB_BASE_URL={server.address} WANDB_API_KEY={server.key}")
        err.print_line("Stop with Ctrl-C.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            err.print_line("Stopped.")
