"""`personaagent serve`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from program.cli.options import (
    Model,
    Store,
    Trace,
    TraceContent,
    Wikipedia,
    model_in_use,
    open_store,
)
from program.console import err
from program.errors import ConfigError, ModelSetupError
from program.home import home
from program.serve.keys import parse_rights

_aligners: list[Any] = []


def align_with(align_users: Any) -> None:
    """Let the server align users with this function (see `program.serve.contracts.AlignUsers`)."""
    _aligners[:] = [align_users]


_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    upstream: Annotated[
        str | None,
        typer.Option(
            help="Base URL of the OpenAI-compatible server that answers chats, as http://localhost:8000/v1; "
            "its key is read from PERSONAAGENT_UPSTREAM_KEY."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8766,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that clients may reach the server by; needed beyond this machine."),
    ] = None,
    record: Annotated[
        bool,
        typer.Option("--record", help="Record each forwarded turn as an interaction, if the key may write."),
    ] = False,
    max_tokens: Annotated[
        int, typer.Option(min=1, max=100_000, help="Longest context that is added, in estimated tokens.")
    ] = 1500,
    rate: Annotated[int, typer.Option(min=0, help="Requests of a key in a minute; 0 for no limit.")] = 600,
    max_body: Annotated[int, typer.Option(min=1, max=1024, help="Largest request, in MB.")] = 32,
    mcp: Annotated[
        Literal["stdio"] | None,
        typer.Option(help="Speak MCP over standard input and output instead, for one `--user`."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="With `--mcp stdio`: whose persona it is.")] = None,
    rights: Annotated[
        str, typer.Option(help="With `--mcp stdio`: of read, write and admin, which may delete the user.")
    ] = "read,write",
    model: Model = None,
    wikipedia: Wikipedia = True,
    trace: Trace = "local",
    trace_content: TraceContent = "full",
    store: Store = None,
) -> None:
    """Serve personas on this machine: an OpenAI-compatible address, an HTTP API, MCP, and a page.

    Clients need a key: `personaagent keys create`. Stop with Ctrl-C; requests in progress are finished.
    """
    try:
        from program.serve.app import ServeSettings, make_app, make_room
        from program.serve.contracts import Actions
        from program.serve.running import json_logs, listen, run, run_stdio
        from program.serve.upstream import Upstream
    except ImportError as error:
        raise ModelSetupError(
            f"`personaagent serve` needs the extra `serve` ({error}): pip install 'personaagent[serve]'"
        ) from error
    if host not in _LOOPBACK and not allow_host:
        raise ConfigError(
            f"`--host {host}` can be reached from other machines: name the server with `--allow-host NAME`, "
            "and put it behind a server that speaks HTTPS"
        )
    settings = ServeSettings(
        upstream=None if upstream is None else Upstream.from_environment(upstream),
        record=record,
        max_tokens=max_tokens,
        rate=rate,
        max_body=max_body << 20,
        hosts=tuple(allow_host or ()),
    )
    if (mcp is None) != (user is None):
        raise ConfigError("`--mcp stdio` and `--user ID` go together; over HTTP the user comes from the key")
    if user is not None:
        with open_store(store) as users:
            room = make_room(users, home(), settings, Actions())
            run_stdio(room, user, parse_rights(rights.split(",")))
        return
    with (
        open_store(store) as users,
        listen(host, port) as listening,
        model_in_use(model, trace, trace_content) as lm,
    ):
        actions = Actions(align=_aligners[0] if _aligners else None, lm=lm, wikipedia=wikipedia)
        app: Any = make_app(users, home(), settings, actions)
        name = f"[{host}]" if ":" in host else host
        err.print_line(f"Serving http://{name}:{listening.getsockname()[1]} - stop with Ctrl-C.")
        with json_logs():
            run(app, listening)
        err.print_line("Stopped.")
