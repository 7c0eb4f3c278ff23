"""`personaagent persona`: show, why, page, history, diff, rollback, approve, pin, unpin."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from program.cli.options import MAX_INTEGER, Json, Store, User, open_store
from program.console import err, out, print_json
from program.errors import UnknownVersionError
from program.persona_page import persona_page, write_page
from program.printer import command, make_table
from program.store import UserStore
from program.store.records import PersonaVersion
from program.text import counted, one_line
from program.why import WhyLine, explain

_SHOWN = 5
_QUERY_CHARS = 70

app = typer.Typer(no_args_is_help=True, help="Show a user's persona and undo changes.")

Version = Annotated[
    int | None,
    typer.Option("--version", min=1, max=MAX_INTEGER, help="Version number; default: the current one."),
]


def _persona(users: UserStore, user: str, version: int | None) -> PersonaVersion:
    persona = users.persona(user, version)
    if persona is None:
        raise UnknownVersionError(f"user {user!r} has no persona yet; run `{command('align', user)}`")
    return persona


@app.command()
def show(user: User, version: Version = None, store: Store = None, json: Json = False) -> None:
    """Print a user's persona."""
    with open_store(store) as users:
        pinned = users.user(user).pinned
        persona = _persona(users, user, version)
    if json:
        print_json({**vars(persona), "pinned": persona.version == pinned})
        return
    out.print_text(persona.text)
    if pinned:
        unpin_ = command("persona unpin", user)
        err.print_line(f"v{pinned} is pinned: nothing replaces it until `{unpin_}`", style="dim")


@app.command()
def why(user: User, version: Version = None, store: Store = None, json: Json = False) -> None:
    """Print each line of a persona, the version that brought it, and the interactions behind it.

    `personaagent why USER` also prints the feedback and the decision that led to it.
    """
    with open_store(store) as users:
        users.user(user)
        _persona(users, user, version)
        found = explain(users, user, version)
    number, rows = found.persona.version, found.lines
    if json:
        lines = None if rows is None else [_known(row) for row in rows]
        print_json({"version": number, "lines": lines})
        return
    if rows is None:
        out.print_line(f"v{number} was written freely: nothing is known of what it rests on")
    elif not rows:
        out.print_line(f"v{number} says nothing about the user: no fact or line has been added")
    for row in rows or ():
        out.print_line(f"{row.text}  ({row.origin})")
        for name in row.interaction_ids[:_SHOWN]:
            item = found.interactions.get(name)
            query = "forgotten" if item is None else one_line(item.query, _QUERY_CHARS)
            out.print_line(f"    {name}: {query}", style="dim")
        if (others := len(row.interaction_ids) - _SHOWN) > 0:
            out.print_line(f"    and {counted(others, 'other interaction')}", style="dim")


def _known(line: WhyLine) -> dict[str, Any]:
    names = ("text", "origin", "since", "interaction_ids")
    return {name: getattr(line, name) for name in names}


@app.command()
def page(
    user: User,
    output: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("persona.html"),
    store: Store = None,
) -> None:
    """Write one HTML page: the persona, what each line rests on, and what was tested."""
    with open_store(store) as users:
        _persona(users, user, None)
        html = persona_page(users, user)
    write_page(output, html)
    out.print_line(str(output))


@app.command()
def history(user: User, store: Store = None, json: Json = False) -> None:
    """List the versions of a user's persona."""
    with open_store(store) as users:
        pinned = users.user(user).pinned
        versions = users.persona_history(user)
    if json:
        print_json(
            [
                {
                    "version": v.version,
                    "pinned": v.version == pinned,
                    "parent": v.parent,
                    "source": v.source,
                    "why": v.why,
                    "time": v.created_at,
                    "alignment_id": v.alignment_id,
                }
                for v in versions
            ]
        )
        return
    rows = [
        (
            f"v{v.version} (pinned)" if v.version == pinned else f"v{v.version}",
            f"v{v.parent}" if v.parent else "-",
            v.source,
            f"{v.created_at:%Y-%m-%d %H:%M:%S}",
            v.why,
        )
        for v in versions
    ]
    out.print(make_table(("version", "parent", "source", "time (UTC)", "why"), rows, fold=("why",)))


@app.command()
def diff(
    user: User,
    old: Annotated[
        int | None, typer.Argument(min=1, max=MAX_INTEGER, help="Older version; default: the parent.")
    ] = None,
    new: Annotated[
        int | None, typer.Argument(min=1, max=MAX_INTEGER, help="Newer version; default: the current one.")
    ] = None,
    store: Store = None,
) -> None:
    """Show the differences between two versions of a persona."""
    with open_store(store) as users:
        users.user(user)
        after = _persona(users, user, new)
        before = _persona(users, user, old if old is not None else after.parent or after.version)
    print_diff(before.text, after.text, f"v{before.version}", f"v{after.version}")


@app.command()
def rollback(
    user: User,
    version: Annotated[int, typer.Argument(min=1, max=MAX_INTEGER, help="The version to go back to.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Go back to an older persona, as a new version. What the person corrected since stays corrected."""
    with open_store(store) as users:
        users.user(user)
        restored = users.rollback(user, version)
        old = _persona(users, user, version)
    if json:
        print_json(vars(restored))
    else:
        kept = "" if restored.text == old.text else " and what the person corrected since"
        out.print_line(f"v{restored.version} has the text of v{version}{kept}")


@app.command()
def approve(
    user: User,
    version: Annotated[
        int | None,
        typer.Argument(min=1, max=MAX_INTEGER, help="The version that you have seen; it must be current."),
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Keep the current persona: a provisional one is tested no further. It becomes a new version."""
    with open_store(store) as users:
        users.user(user)
        approved = users.approve(user, version or _persona(users, user, None).version)
    if json:
        print_json(vars(approved))
    else:
        out.print_line(f"v{approved.version} keeps the text of v{approved.parent}, approved")


@app.command()
def pin(
    user: User,
    version: Annotated[int, typer.Argument(min=1, max=MAX_INTEGER, help="The version to keep.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Keep a version: agents use it, and no alignment, edit or rollback replaces it until `unpin`."""
    with open_store(store) as users:
        pinned = users.pin(user, version)
    if json:
        print_json({"user_id": user, "pinned": pinned.version})
    else:
        unpin_ = command("persona unpin", user)
        out.print_line(f"v{version} is pinned; `{unpin_}` lets the persona change again")


@app.command()
def unpin(user: User, store: Store = None, json: Json = False) -> None:
    """Let the persona change again. The newest version is then the current one."""
    with open_store(store) as users:
        was = users.user(user).pinned
        current = users.unpin(user)
    if json:
        print_json({"user_id": user, "persona_version": current.version if current else None})
    elif was is None or current is None:
        out.print_line("no version was pinned")
    else:
        out.print_line(f"v{was} is no longer pinned; the current persona is v{current.version}")


def print_diff(before: str, after: str, old: str, new: str) -> None:
    """Print a line diff of two personas, coloured if the terminal supports it."""
    styles = {"+": "green", "-": "red", "@": "cyan"}
    lines = list(difflib.unified_diff(_lines(before), _lines(after), old, new, lineterm="", n=1))
    for line in lines:
        out.print_line(line, style=styles.get(line[0], ""))
    if not lines:
        out.print_line("no difference", style="dim")


def _lines(text: str) -> list[str]:
    # `splitlines` would also split at characters that do not end a line on a terminal.
    return text.replace("\r\n", "\n").split("\n")
