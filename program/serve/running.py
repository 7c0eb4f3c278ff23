"""Runs the app with uvicorn."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any

import uvicorn

from program.errors import ConfigError
from program.garbage import few_collections
from program.serve.keys import Key, Right
from program.serve.mcp_server import asking_as, make_mcp
from program.serve.room import Room

GRACE_SECONDS = 30
"""How long requests in progress may take after a stop."""

_BACKLOG = 2048


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Open the socket, so that a port that is taken is one error before anything else.

    Raises:
        ConfigError: The address cannot be used.
    """
    try:
        [(family, kind, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        opened = socket.socket(family, kind)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error.strerror}") from error
    with opened:
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            # Who connects from now on waits until the server is ready, and is not refused.
            opened.listen(_BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}; try another port"
            ) from error
        yield opened


class JsonLines(logging.Formatter):
    """Writes each record as one line of JSON: the fields that the server gives, or a message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = getattr(record, "fields", None) or {"message": record.getMessage()}
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return json.dumps({"time": f"{moment}Z", "level": record.levelname.lower(), **fields})


@contextmanager
def json_logs() -> Iterator[None]:
    """Write the server's log to stderr inside the block."""
    logger = logging.getLogger("personaagent.program.serve")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


def run(app: Any, listening: socket.socket) -> None:
    """Serve until a signal stops it; requests in progress are finished."""
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        timeout_graceful_shutdown=GRACE_SECONDS,
        # A header may say anything; addresses are not used.
        proxy_headers=False,
        ws="none",
    )
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt), few_collections():
        server.run(sockets=[listening])


def run_stdio(room: Room, user_id: str, rights: Collection[Right]) -> None:
    """Speak MCP over standard input and output, in the name of one user, until the client closes it.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
    """
    room.store.user(user_id)
    key = Key(id="stdio", user_id=user_id, rights=tuple(rights), created_at=datetime.now(timezone.utc))
    server = make_mcp(room)
    with asking_as(key, user_id), suppress(KeyboardInterrupt):
        server.run("stdio")
