"""The app: its routes, and what they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Response
from starlette.routing import Route

from program.serve.access import Doorkeeper, RateLimit, of_all_users
from program.serve.context import MAX_TOKENS
from program.serve.contracts import Actions
from program.serve.failures import handle_errors
from program.serve.guards import LOCAL, Guard
from program.serve.jobs import Jobs
from program.serve.keys import Keys
from program.serve.mcp_server import McpEndpoint, make_mcp
from program.serve.metrics import CONTENT_TYPE, Metrics
from program.serve.pages import pages_router
from program.serve.proxy import Proxy, proxy_router
from program.serve.recall import Recall
from program.serve.rest import rest_router
from program.serve.room import Room
from program.serve.traces import traces_router
from program.serve.upstream import Upstream
from program.store import UserStore

_ALL_READ = Depends(of_all_users("read"))


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Settings of a server.

    Attributes:
        upstream: Where chat is forwarded to; ``None`` for nowhere.
        record: Whether forwarded turns become interactions, if the key may write.
        max_tokens: Length of a context, at most, as `program.serve.context.count_tokens` estimates it.
        max_body: Bytes of a request's body, at most.
        rate: Requests of a key in a minute; 0 for no limit.
        hosts: Names beside loopback ones that a Host header may have.
        retrieval: How memories are searched.
    """

    upstream: Upstream | None = None
    record: bool = False
    max_tokens: int = MAX_TOKENS
    max_body: int = 32 << 20
    rate: int = 600
    hosts: tuple[str, ...] = ()
    retrieval: str = "hybrid"


def make_room(store: UserStore, home: Path, settings: ServeSettings, actions: Actions) -> Room:
    """Return what the routes and the MCP server share."""
    return Room(
        store=store,
        home=home,
        recall=Recall(store, retrieval=settings.retrieval),
        jobs=Jobs(store, actions),
        keys=Keys(home),
        actions=actions,
        max_tokens=settings.max_tokens,
    )


def make_app(
    store: UserStore, home: Path, settings: ServeSettings | None = None, actions: Actions | None = None
) -> Any:
    """Return the server as an ASGI app.

    Args:
        store: The users' store; the caller closes it.
        home: The data directory, with the keys.
        settings: The settings.
        actions: What the front door hands in: aligning, and the model.
    """
    settings, actions = settings or ServeSettings(), actions or Actions()
    metrics, room = Metrics(), make_room(store, home, settings, actions)
    doorkeeper = Doorkeeper(room.keys, RateLimit(settings.rate))
    mcp = McpEndpoint(make_mcp(room), doorkeeper, max_body=settings.max_body)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(mcp.running())
            app.state.proxy = None
            if settings.upstream is not None:
                app.state.proxy = Proxy(
                    store=store,
                    recall=room.recall,
                    connections=await stack.enter_async_context(settings.upstream.connected()),
                    metrics=metrics,
                    record=settings.record,
                    max_tokens=settings.max_tokens,
                )
            worker = asyncio.create_task(room.jobs.work())
            try:
                yield
            finally:
                worker.cancel()
                await asyncio.gather(worker, return_exceptions=True)

    app = FastAPI(
        title="personaagent",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.doorkeeper, app.state.room = doorkeeper, room
    app.router.routes.append(Route("/mcp", endpoint=mcp, include_in_schema=False))
    handle_errors(app)
    # Routes are tried in this order, and chats are the many.
    app.include_router(proxy_router())
    app.include_router(rest_router())
    app.include_router(pages_router())
    app.include_router(traces_router())

    @app.get("/healthz", tags=["server"])
    async def healthz() -> dict[str, str]:
        """Say that the server runs."""
        return {"status": "ok"}

    @app.get("/metrics", tags=["server"], dependencies=[_ALL_READ], response_class=Response)
    async def prometheus() -> Response:
        """Return the measurements, for Prometheus."""
        return Response(metrics.page(), media_type=CONTENT_TYPE)

    return Guard(app, hosts=(*LOCAL, *settings.hosts), metrics=metrics, max_body=settings.max_body)
