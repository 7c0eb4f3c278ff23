"""A language model that answers by a function: for tests, benchmarks and dry runs.

It is a real DSPy engine, so everything above it (adapters, caching, retries, track_usage) is what
runs with any other model.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage

Reply = Callable[[str, str], str | Mapping[str, Any]]
"""From the system text and the last user text to the answer; a mapping is sent as JSON."""

_numbers = itertools.count()


@dataclass
class ScriptedEngine:
    """Answers each request by ``reply`` and keeps every prompt it was given.

    Attributes:
        prompts: (system, user) of each call, in order of arrival.
    """

    reply: Reply
    prompts: list[tuple[str, str]] = field(default_factory=list)
    supports_response_schema: bool = True
    supported_params: tuple[str, ...] = ("response_format", "temperature", "max_tokens")

    def complete(self, request: Request) -> Response:
        """Answer one request; what ``reply`` raises reaches DSPy as an engine's failure."""
        system = request.system or ""
        if not isinstance(system, str):
            system = "".join(part.text for part in system if isinstance(part, TextPart))
        user = [message.text or "" for message in request.messages if message.role == "user"][-1]
        self.prompts.append((system, user))
        said = self.reply(system, user)
        text = said if isinstance(said, str) else json.dumps(said)
        sizes = len(system + user) // 4 + 1, len(text) // 4 + 1
        return Response(
            id=None,
            model=request.model,
            finish_reason="stop",
            message=Message.assistant([TextPart(text)]),
            usage=Usage(input_tokens=sizes[0], output_tokens=sizes[1], total_tokens=sum(sizes)),
        )


@dataclass
class AsyncScriptedEngine:
    """The async side of a `ScriptedEngine`."""

    engine: ScriptedEngine

    async def complete(self, request: Request) -> Response:
        """Answer one request."""
        return self.engine.complete(request)


def scripted_lm(reply: Reply) -> dspy.LM:
    """Return a language model that answers by ``reply``; its engine is ``lm.engine``.

    Each has its own model name: DSPy's cache does not tell two engines of one name apart.
    """
    engine = ScriptedEngine(reply)
    return dspy.LM(
        f"scripted/{next(_numbers)}",
        engine=engine,
        async_engine=AsyncScriptedEngine(engine),
        cache=False,
        num_retries=0,
    )
