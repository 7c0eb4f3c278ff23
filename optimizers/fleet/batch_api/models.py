"""A `dspy.LM` whose calls wait for a batch.

It builds each request and reads each answer with DSPy's own code for the provider. Between the two stands the
batch in place of the network.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import dspy
from dspy.clients.backend_selection import CLIENT_KEYS, NATIVE_CLIENT_KEYS
from dspy.clients.capabilities import capabilities
from dspy.clients.costs import estimate_cost
from dspy.clients.engines.lm15_engine import AsyncLM15Engine
from dspy.lm15 import LM15Error, Request, Response, RouterConfig
from dspy.utils.exceptions import LMConfigurationError

from optimizers.fleet.batch_api.providers import MAX_REASON, Door, endpoint_of
from optimizers.fleet.batch_api.tables import Reply
from program.errors import ModelSetupError
from program.text import one_line

PRICE = 0.5
"""What a call in a batch costs, as a share of the price of a single call: OpenAI's and Anthropic's terms."""

_APIS = {"openai-chat": "openai", "openai": "openai", "anthropic": "anthropic"}
_ADDRESS = ("api_base", "base_url")
_SENT_ANEW = ("content-length", "content-type", "accept", "host", "connection")


class Asks(Protocol):
    """Gets answers."""

    loop: asyncio.AbstractEventLoop | None
    """The event loop that it works in; ``None`` before it works."""

    async def ask(self, door: Door, body: bytes) -> Reply:
        """Return the answer to the body of a request."""
        ...


def batch_lm(lm: Any, asks: Asks) -> Any:
    """Return a copy of ``lm`` whose calls wait for a batch. Nothing is asked here.

    Args:
        lm: A `dspy.LM` of OpenAI (``openai/...``) or Anthropic (``anthropic/...``).
        asks: Gets the answers.

    Raises:
        ModelSetupError: The model has no batch API, or its key is missing.

    Example:
        >>> from optimizers.fleet.batch_api.collector import Collector
        >>> from program import scripted_lm
        >>> asks = Collector()
        >>> batch_lm(dspy.LM("openai/gpt-4o", api_key="none"), asks).model
        'openai/gpt-4o'
        >>> batch_lm(scripted_lm(lambda system, user: "Lentils."), asks)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        program.errors.ModelSetupError: scripted/... has no batch API: use a model of OpenAI (...
    """
    name = str(getattr(lm, "model", "") or type(lm).__name__)
    if not isinstance(lm, dspy.LM) or not isinstance(lm.engine, str) or lm.model_type == "text":
        raise _no_api(name)
    if others := sorted(key for key in CLIENT_KEYS - NATIVE_CLIENT_KEYS if lm.kwargs.get(key) is not None):
        raise ModelSetupError(f"{name} cannot be asked in batches with {', '.join(others)}: leave that out")
    engine = AsyncBatchEngine(lm, asks)
    settings = {key: None for key in NATIVE_CLIENT_KEYS if key in lm.kwargs}
    copied = lm.copy(engine=BatchEngine(engine), async_engine=engine, **settings)
    copied.price_of = engine.price_of
    return copied


def _no_api(name: str) -> ModelSetupError:
    return ModelSetupError(
        f"{name} has no batch API: use a model of OpenAI (`openai/...`) or Anthropic (`anthropic/...`), or "
        "`--engine online`"
    )


class AsyncBatchEngine:
    """DSPy's engine contract (`dspy.clients.engines.base`) for calls that wait for a batch."""

    def __init__(self, lm: Any, asks: Asks) -> None:
        self.asks = asks
        try:
            route = AsyncLM15Engine(RouterConfig(env={}), model_type=lm.model_type).resolve(lm.model)
            if route.provider not in _APIS:
                raise _no_api(str(lm.model))
            self._provider, self._wire_model = str(route.provider), str(route.model)
            address = self._address(lm)
            config = RouterConfig(
                api_keys={route.provider: lm.kwargs["api_key"]} if lm.kwargs.get("api_key") else None,
                base_urls={route.provider: address} if address else None,
                transport=_Waiting(self),
            )
            self._inner = AsyncLM15Engine(config, model_type=lm.model_type)
            # Fails without a key.
            self.base = str(self._inner.router.lm(f"{route.provider}:{route.model}").base_url).rstrip("/")
        except LM15Error as error:
            raise ModelSetupError(f"cannot use {lm.model}: {one_line(error, MAX_REASON)}") from error
        able = capabilities(lm.copy(engine="lm15"))
        self.supports_function_calling = able.function_calling
        self.supports_reasoning = able.reasoning
        self.supports_response_schema = able.response_schema
        self.supported_params = able.params

    def _address(self, lm: Any) -> str | None:
        addresses = [lm.kwargs.get(name) for name in _ADDRESS]
        prefix = str(lm.model).partition("/")[0].upper()
        addresses += [os.environ.get(f"{prefix}_{end}") for end in ("API_BASE", "BASE_URL")]
        return next((str(address) for address in addresses if address), None)

    def door(self, request: Any) -> Door:
        """Return where an HTTP request goes."""
        headers = tuple(sorted((str(k), str(v)) for k, v in request.headers if k.lower() not in _SENT_ANEW))
        endpoint = endpoint_of(request.url, self.base)
        return Door(_APIS[self._provider], self.base, endpoint, self._wire_model, headers)

    def price_of(self, entry: Any) -> float | None:
        """Return the price of a finished call in US dollars; ``None`` if it is unknown."""
        response = entry.get("response")
        responses = [response] if isinstance(response, Response) else list(response or ())
        prices = [
            estimate_cost(item, provider=self._provider, requested_model=self._wire_model)[0]
            for item in responses
        ]
        if not prices or any(price is None for price in prices):
            return None
        return PRICE * float(sum(prices))

    async def complete(self, request: Request) -> Response:
        """Answer one request, once its batch has ended."""
        return await self._inner.complete(request)


class BatchEngine:
    """The blocking side of an `AsyncBatchEngine`, for calls in threads beside its event loop."""

    def __init__(self, engine: AsyncBatchEngine) -> None:
        self._engine = engine
        self.supports_function_calling = engine.supports_function_calling
        self.supports_reasoning = engine.supports_reasoning
        self.supports_response_schema = engine.supports_response_schema
        self.supported_params = engine.supported_params

    def complete(self, request: Request) -> Response:
        """Answer one request, once its batch has ended."""
        loop = self._engine.asks.loop
        if loop is None or loop.is_closed():
            raise LMConfigurationError("a model of batches answers within `align_users` only")
        return asyncio.run_coroutine_threadsafe(self._engine.complete(request), loop).result()


class _Waiting:
    """lm15's transport, with a batch instead of a network."""

    def __init__(self, engine: AsyncBatchEngine) -> None:
        self._engine = engine

    def stream(self, request: Any) -> _Answer:
        return _Answer(lambda: self._engine.asks.ask(self._engine.door(request), bytes(request.body)))


class _Answer:
    """One answer, as lm15 reads it."""

    reason = ""
    http_version = "HTTP/1.1"
    headers = (("content-type", "application/json"),)

    def __init__(self, ask: Callable[[], Awaitable[Reply]]) -> None:
        self._ask = ask
        self.status = 0
        self._body = ""

    async def __aenter__(self) -> _Answer:
        reply = await self._ask()
        self.status, self._body = reply.status, reply.body
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self) -> bytes:
        return self._body.encode()
