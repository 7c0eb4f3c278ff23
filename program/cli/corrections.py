"""`personaagent users correct`: a person's own correction of the persona."""

from __future__ import annotations

from typing import Annotated

import typer

from program.cli.options import Json, Store, User, open_store
from program.cli.receipts import ACTOR
from program.console import out, print_json
from program.corrections import list_lines
from program.errors import ConfigError
from program.evidence import collect
from program.printer import make_table
from program.store import UserStore
from program.store.personas import correctable
from program.task import get_task


def correct(
    user: User,
    line: Annotated[
        str | None, typer.Option(help="The line that is wrong: its number in the list, or its text.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="What the person says instead, or adds: 1 to 240 characters.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the line out.")] = False,
    why: Annotated[str, typer.Option(help="The reason, shown with the new version.")] = "",
    store: Store = None,
    json: Json = False,
) -> None:
    """Replace (--line --text), take out (--line --remove) or add (--text) a line in the person's own words.

    Without options it lists the lines with their numbers. The correction is a new version, and nothing undoes
    it but another correction: alignments, edits and rollbacks keep the person's lines, and what was taken out
    does not come back. `persona why` shows it. To delete what a line was learned from, see
    `interactions forget`.
    """
    if remove and (line is None or text is not None):
        raise ConfigError("`--remove` needs `--line`, and no `--text`")
    if line is not None and text is None and not remove:
        raise ConfigError("`--line` needs `--text` with what is right instead, or `--remove`")
    with open_store(store) as users:
        if line is None and text is None:
            _list(users, user, json=json)
            return
        chosen = int(line) if line is not None and line.isdecimal() else line
        version = users.correct(user, line=chosen, text=text, why=why, actor=ACTOR)
    if json:
        print_json(vars(version))
    else:
        out.print_line(f"v{version.version} has the correction; only another correction undoes it")


def _list(users: UserStore, user: str, *, json: bool) -> None:
    """Print what can be corrected, and what was taken out."""
    task, now = get_task(users.user(user).task), users.persona(user)
    persona = correctable(now)
    rows = list_lines(persona, collect(users.interactions(user), task))
    if json:
        lines = [
            {"number": number, "text": row.text, "kind": row.kind, "corrected": row.line.corrected or None}
            for number, row in enumerate(rows, 1)
        ]
        removed = [{"text": row.text, "on": row.corrected} for row in persona.removed]
        version = now.version if now else None
        print_json({"version": version, "lines": lines, "removed": removed, "hidden": list(persona.hidden)})
        return
    origins = {"text": "written freely", "fact": "counted by code", "line": "learned"}
    cells = [
        (
            str(number),
            row.text,
            f"by the person on {row.line.corrected}" if row.line.corrected else origins[row.kind],
        )
        for number, row in enumerate(rows, 1)
    ]
    if cells:
        out.print(make_table(("line", "text", "origin"), cells, fold=("text",)))
    else:
        out.print_line("the persona says nothing about the user yet; `--text` adds a line")
    for gone in persona.removed:
        out.print_line(f"taken out on {gone.corrected}: {gone.text}")
    for key in persona.hidden:
        out.print_line(f"taken out: the fact {key}")
