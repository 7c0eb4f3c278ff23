"""The MCP server: the persona as a prompt and a resource, and tools for memory.

The user comes from the key, or from the command line, and never from an argument: a model that is talked
into asking for someone else has no word for it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Annotated, Any, TypeVar

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import ToolAnnotations
from pydantic import Field
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from program.errors import PersonaAgentError
from program.memory.semantic import Profile, count_facts, render
from program.printer import to_json
from program.serve.access import USER_HEADER, Doorkeeper, check_right, chosen_user
from program.serve.failures import ApiError, as_api_error, error_response
from program.serve.keys import Key, Right
from program.serve.room import Room, explain_persona, forget_user
from program.task import get_task
from program.tools.search_memory import render_interaction

logger = logging.getLogger("personaagent.program.serve")

T = TypeVar("T")

PERSONA_URI = "persona://me/current"
_INSTRUCTIONS = (
    "What is known about the user you work for, learned from this user's own requests and responses. Read "
    "the resource persona://me/current first; search_memory finds past requests. Record what the user truly "
    "wanted with observe."
)
_MEMORY_CHARS = 600

_asking: ContextVar[tuple[Key, str]] = ContextVar("asking")
"""Whose request is being answered: the key, and the user."""

Words = Annotated[str, Field(min_length=1, max_length=100_000)]


def make_mcp(room: Room) -> MCPServer[Any]:
    """Return the server; every answer is of the user in whose name it runs (see `asking_as`).

    Args:
        room: What the routes share.
    """
    with _no_logging_set_up():
        server: MCPServer[Any] = MCPServer("personaagent", instructions=_INSTRUCTIONS, log_level="WARNING")
    _add_persona(server, room)
    _add_reading(server, room)
    _add_writing(server, room)
    return server


def _add_persona(server: MCPServer[Any], room: Room) -> None:
    def persona(user_id: str) -> str:
        text = room.recall.context(user_id, max_tokens=room.max_tokens).text
        return text or "Nothing is known about this user yet."

    @server.resource(PERSONA_URI, name="persona", title="Your user's persona", mime_type="text/plain")
    async def persona_resource() -> str:
        """What is known about the user."""
        try:
            return await _run("read", persona)
        except ToolError as error:
            raise ResourceError(str(error)) from error

    @server.prompt(name="persona", title="Who you are talking to")
    async def persona_prompt() -> str:
        """Begin a conversation with what is known about the user."""
        return await _run("read", persona)


def _add_reading(server: MCPServer[Any], room: Room) -> None:
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    @server.tool(annotations=reads)
    async def search_memory(query: Words, k: Annotated[int, Field(ge=1, le=50)] = 4) -> str:
        """Find the user's past requests most like a query, each with the user's true response."""

        def search(user_id: str) -> str:
            noun = get_task(room.store.user(user_id).task).response_noun
            items = room.recall.memory(user_id).search(query, k)
            lines = [
                f"{n}. {render_interaction(item, noun, _MEMORY_CHARS)}" for n, item in enumerate(items, 1)
            ]
            return "\n".join(lines) or "No past request of this user was found."

        return await _run("read", search)

    @server.tool(annotations=reads)
    async def read_profile() -> str:
        """Read the summary of the user's history: counts, and what they prefer."""

        def profile(user_id: str) -> str:
            stored = room.store.profile(user_id)
            if stored is None:
                task = get_task(room.store.user(user_id).task)
                history = room.recall.memory(user_id).latest()
                stored = Profile(facts=count_facts(history, task.response_type))
            return render(stored)

        return await _run("read", profile)

    @server.tool(annotations=reads)
    async def why() -> str:
        """Say what each line of the persona rests on: the version that brought it, and the interactions."""
        return await _run("read", lambda user_id: to_json(explain_persona(room.store, user_id)))


def _add_writing(server: MCPServer[Any], room: Room) -> None:
    adds = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
    deletes = ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
    )

    @server.tool(annotations=adds)
    async def observe(query: Words, response: Words) -> str:
        """Record what the user asked and what the user's true response was, to learn from it."""

        def record(user_id: str) -> str:
            return f"recorded as {room.store.observe(user_id, query=query, response=response).id}"

        return await _run("write", record)

    @server.tool(annotations=deletes)
    async def forget(
        confirm: Annotated[bool, Field(description="True if the user has said so in this conversation.")],
    ) -> str:
        """Delete everything that is kept about the user, for good: only if the user asks for it."""

        def delete(user_id: str) -> str:
            if not confirm:
                raise ToolError("nothing was deleted: ask the user, then give `confirm` as true")
            forget_user(room, user_id)
            return "everything about this user was deleted"

        return await _run("admin", delete)


async def _run(right: Right, work: Callable[[str], T]) -> T:
    """Run blocking work for the user who asks, if the key has the right."""
    try:
        key, user_id = _asking.get()
        check_right(key, right)
        return await anyio.to_thread.run_sync(partial(work, user_id))
    except ApiError as error:
        raise ToolError(error.message) from None
    except PersonaAgentError as error:
        raise ToolError(as_api_error(error).message) from None
    except ToolError:
        raise
    except Exception as error:  # noqa: BLE001 - the SDK would log its message, which may hold a user's text
        logger.error("failed", extra={"fields": {"error": type(error).__name__, "at": "mcp"}})
        raise ToolError("the server failed; its log has the kind of error") from None


@contextmanager
def asking_as(key: Key, user_id: str) -> Iterator[None]:
    """Answer in the name of one user inside the block."""
    token = _asking.set((key, user_id))
    try:
        yield
    finally:
        _asking.reset(token)


class McpEndpoint:
    """The route ``/mcp``: streamable HTTP, without sessions.

    Args:
        server: From `make_mcp`.
        doorkeeper: Finds the key of a request.
        max_body: Bytes of a request's body, at most.
    """

    def __init__(self, server: MCPServer[Any], doorkeeper: Doorkeeper, *, max_body: int) -> None:
        self._doorkeeper = doorkeeper
        self._server = server
        # `program.serve.guards` has checked the host and the origin.
        server.streamable_http_app(
            stateless_http=True,
            json_response=True,
            max_request_body_size=max_body,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer requests inside the block."""
        async with self._server.session_manager.run():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request in the name of its key's user."""
        request = Request(scope)
        try:
            key = self._doorkeeper.admit(request.headers.get("authorization"))
            user_id = chosen_user(key, request.headers.get(USER_HEADER))
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        scope["state"]["key_id"] = key.id
        with asking_as(key, user_id):
            await self._server.session_manager.handle_request(scope, receive, send)


@contextmanager
def _no_logging_set_up() -> Iterator[None]:
    """Keep the SDK from printing every library's log lines, which hold addresses with user ids."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
