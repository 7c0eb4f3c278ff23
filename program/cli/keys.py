"""`personaagent keys`: create, list, revoke."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

import typer

from program.cli.options import Json
from program.console import err, out, print_json
from program.errors import ConfigError
from program.home import home
from program.printer import make_table
from program.serve.keys import Key, Keys, parse_age
from program.text import counted
from program.text_safety import visible

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke keys of `personaagent serve`.")


@app.command()
def create(
    user: Annotated[str | None, typer.Option(help="The one user whom the key is for.")] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="Make a key for all users.")] = False,
    rights: Annotated[
        str,
        typer.Option(
            help="read: context, persona, export and chat; write: record, correct, align, roll back; "
            "admin: delete; separated by commas."
        ),
    ] = "read",
    expires: Annotated[
        str | None, typer.Option(help="How long the key lives: 90d, 12h or 30m; default: until revoked.")
    ] = None,
    json: Json = False,
) -> None:
    """Create a key and print it. It is shown once: only its hash is stored."""
    if (user is None) != all_users:
        raise ConfigError("give either `--user ID` or `--all-users`")
    token, key = Keys(home()).create(
        user_id=user, rights=rights.split(","), expires=None if expires is None else parse_age(expires)
    )
    if json:
        print_json({"key": token, **_as_dict(key)})
        return
    out.print_text(token)
    whom = "all users" if key.user_id is None else f"user {visible(key.user_id)}"
    end = f", until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else ""
    err.print_line(f"Key {key.id} for {whom}: {', '.join(key.rights)}{end}. Keep it: it is not shown again.")


@app.command("list")
def list_(json: Json = False) -> None:
    """List the keys: their ids, never the keys themselves."""
    keys = Keys(home()).all()
    if json:
        print_json([_as_dict(key) for key in keys])
        return
    now = datetime.now(timezone.utc)
    cells = [
        (
            key.id,
            "all users" if key.user_id is None else visible(key.user_id),
            ",".join(key.rights),
            f"{key.created_at:%Y-%m-%d}",
            _end(key, now),
        )
        for key in keys
    ]
    out.print(make_table(("key", "user", "rights", "created", "expires"), cells, fold=("user",)))
    err.print_line(counted(len(keys), "key"))


@app.command()
def revoke(
    key: Annotated[
        str, typer.Argument(help="The key's id; see `personaagent keys list`.", show_default=False)
    ],
) -> None:
    """Revoke a key at once, on running servers too."""
    Keys(home()).revoke(key)
    err.print_line(f"Revoked {key}")


def _end(key: Key, now: datetime) -> str:
    if key.expires_at is None:
        return "never"
    return "expired" if key.expired(now) else f"{key.expires_at:%Y-%m-%d}"


def _as_dict(key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "user_id": key.user_id,
        "rights": list(key.rights),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }
