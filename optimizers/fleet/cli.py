"""`personaagent fleet`."""

from __future__ import annotations

from collections import Counter

import typer

from optimizers.fleet.texts import fleet_attempts
from program.cli.options import Json, Store, open_store
from program.console import err, out, print_json
from program.printer import make_table
from program.text import counted

app = typer.Typer(no_args_is_help=True, help="Look at alignments of many users.")


@app.callback()
def _root() -> None:
    pass


@app.command()
def status(store: Store = None, json: Json = False) -> None:
    """Show the latest alignment of each user: running, interrupted, failed or done."""
    with open_store(store) as opened:
        attempts = fleet_attempts(opened)
    if json:
        print_json([vars(attempt) for attempt in attempts])
        return
    if attempts:
        cells = [
            (attempt.user_id, attempt.state, str(attempt.pieces), f"{attempt.started_at:%Y-%m-%d %H:%M} UTC")
            for attempt in attempts
        ]
        out.print(make_table(("user", "state", "kept pieces", "started"), cells, fold=("user",)))
    states = Counter(attempt.state for attempt in attempts)
    err.print_line(", ".join(f"{n:,} {state}" for state, n in sorted(states.items())) or "no alignment yet")
    if waiting := states["failed"] + states["interrupted"]:
        err.print_line(f"`personaagent align` goes on with {counted(waiting, 'user')} from what is kept")
