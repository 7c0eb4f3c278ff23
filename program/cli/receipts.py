"""Prints what was done about a request to forget."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from program.console import err, print_json
from program.store.erasers import Receipt

Also = Annotated[
    list[Path] | None,
    typer.Option(
        "--also",
        metavar="RUN_FOLDER",
        help="A run or sweep folder of `eval`, which loses the user's records too; repeat it for others.",
    ),
]

ACTOR = "command line"
"""Who the audit log says it was."""


def minute(time: datetime | None) -> str:
    """Return a time to the minute in UTC; empty without one."""
    return "" if time is None else f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M}"


def print_receipt(receipt: Receipt, *, json: bool) -> None:
    """Print a receipt: JSON on stdout, or one line on stderr."""
    if json:
        # The number of traced calls is where scripts of earlier versions look for it.
        traced = receipt.erased.get("traced calls", 0)
        print_json({**vars(receipt), "at": receipt.at.isoformat(), "traced_calls": traced})
        return
    err.print_line(str(receipt))
    if receipt.pending:
        err.print_line("Nothing of it can be read any more; `personaagent store compact` removes the bytes.")
