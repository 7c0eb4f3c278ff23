"""`personaagent interactions`: list and forget."""

from __future__ import annotations

from typing import Annotated

import typer

from program.cli.options import Json, Store, User, open_store
from program.cli.receipts import ACTOR, Also, minute, print_receipt
from program.console import confirm, out, print_json
from program.home import home
from program.printer import make_table
from program.store.exported import interaction_data, plain
from program.text import counted, cut

app = typer.Typer(no_args_is_help=True, help="List and forget what a user asked and answered.")

_MAX_TEXT = 60


@app.command("list")
def list_(
    user: User,
    latest: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    store: Store = None,
    json: Json = False,
) -> None:
    """List a user's latest interactions with their ids, oldest first."""
    with open_store(store) as users:
        found = users.interactions(user, latest=latest)
        total = users.user(user).interactions
    if json:
        print_json([plain(interaction_data(item)) for item in found])
        return
    rows = [
        (item.id, minute(item.timestamp), cut(item.query, _MAX_TEXT), cut(item.response, _MAX_TEXT))
        for item in found
    ]
    out.print(make_table(("id", "time", "query", "response"), rows, fold=("id",)))
    if total > len(found):
        out.print_line(f"{counted(total - len(found), 'older interaction')} not shown; see --latest")


@app.command()
def forget(
    user: User,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids from `interactions list`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    also: Also = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Delete interactions, and everything that rests on them or may quote them.

    Persona versions lose the lines that rest on them, and their facts are counted again; a new version is
    made from what remains. Versions that were written freely, alignments, local traces and cached answers of
    the user are deleted, and all of the user's records in run folders given by --also. No import brings the
    interactions back.
    """
    question = (
        f"Delete {counted(len(ids), 'interaction')} of {user!r} and what rests on them? This cannot be undone"
    )
    with open_store(store) as users:
        if not yes and not confirm(question):
            raise typer.Abort
        receipt = users.forget_interactions(user, ids, home=home(), actor=ACTOR, also=also or ())
        print_receipt(receipt, json=json)
