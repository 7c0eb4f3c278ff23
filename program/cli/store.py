"""`personaagent store`: copy, compact, audit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from program.cli.options import Json, Store, open_store
from program.cli.receipts import minute
from program.console import INTERRUPTED, err, out, print_json, reading
from program.errors import StoreError
from program.printer import make_table
from program.store import UserStore
from program.store.copying import copy_store
from program.store.erasers import list_counts

app = typer.Typer(no_args_is_help=True, help="Copy or compact a whole store, and see what was forgotten.")

_SHOWN_HASH = 12


@app.command()
def copy(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="The store to read: a file or a SQLAlchemy URL.")
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TO", help="An empty store: a new file, or the URL of an empty database."),
    ],
    json: Json = False,
) -> None:
    """Copy every user with all that is stored about them, as from SQLite to PostgreSQL, and compare both.

    All or nothing: a copy that fails or is stopped leaves TO empty, and can be started again. FROM stays as
    it is. Stop other writers first: what they store after the copy began is not in it.
    """
    if "://" not in source and not Path(source).expanduser().is_file():
        raise StoreError(f"store `{source}` does not exist; there is nothing to copy")
    try:
        with UserStore(source) as old, UserStore(target) as new, reading("copy") as progress:
            tables = copy_store(old, new, progress=progress)
    except KeyboardInterrupt:
        err.print_line("Interrupted. Nothing is copied halfway: run the command again.")
        sys.exit(INTERRUPTED)
    if json:
        print_json([vars(table) for table in tables])
        return
    cells = [(table.name, f"{table.rows:,}", table.sha256[:_SHOWN_HASH], "equal") for table in tables]
    out.print(make_table(("table", "rows", "sha256", "copy"), cells, fold=("table",)))


@app.command()
def compact(
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for other connections.")] = 60.0,
    store: Store = None,
) -> None:
    """Rewrite the tables without the bytes of what was deleted.

    Needs the space of a second store for a moment. On PostgreSQL each table is locked meanwhile.
    """
    with open_store(store) as users, reading("store"):
        pending = users.compact(wait=wait)
    if pending:
        raise StoreError(f"bytes of deleted rows may be left: {pending}; try again later")
    err.print_line("no byte of deleted rows is left in the files")


@app.command()
def audit(store: Store = None, json: Json = False) -> None:
    """Print who had what forgotten and when, without content and user ids."""
    with open_store(store) as users:
        entries = users.audit()
    if json:
        print_json([{**vars(entry), "at": entry.at.isoformat()} for entry in entries])
        return
    rows = [
        (
            minute(entry.at),
            entry.action,
            entry.actor,
            entry.subject[:_SHOWN_HASH],
            list_counts(entry.details),
        )
        for entry in entries
    ]
    out.print(make_table(("at", "action", "by", "user (hash)", "deleted"), rows, fold=("deleted",)))
