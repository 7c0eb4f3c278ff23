"""A language model that answers with a function: for tests, benchmarks and dry runs.

It is a real DSPy engine, so adapters, caching, retries and `track_usage` run as with any model.
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
"""Returns the answer to a system text and the last user text; a mapping is sent as JSON."""

_numbers = itertools.count()


@dataclass
class ScriptedEngine:
    """Answers each request with ``reply`` and records the prompts.

    Attributes:
        prompts: System message and last user message of each call, in order of arrival.
        conversations: All that each call was sent, with the examples before the last user message.
    """

    reply: Reply
    prompts: list[tuple[str, str]] = field(default_factory=list)
    conversations: list[str] = field(default_factory=list)
    supports_response_schema: bool = True
    supported_params: tuple[str, ...] = ("response_format", "temperature", "max_tokens")

    def complete(self, request: Request) -> Response:
        """Answer one request; DSPy sees an exception of ``reply`` as a failure of the engine."""
        system = request.system or ""
        if not isinstance(system, str):
            system = "".join(part.text for part in system if isinstance(part, TextPart))
        user = [message.text or "" for message in request.messages if message.role == "user"][-1]
        self.prompts.append((system, user))
        self.conversations.append("\n".join([system, *(message.text or "" for message in request.messages)]))
        answer = self.reply(system, user)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        # A token is about four characters.
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
    """The asyncio side of a `ScriptedEngine`."""

    engine: ScriptedEngine

    async def complete(self, request: Request) -> Response:
        """Answer one request."""
        return self.engine.complete(request)


def scripted_lm(reply: Reply) -> dspy.LM:
    """Return a language model that answers with ``reply``; ``lm.engine`` records the prompts.

    Each has its own model name: DSPy's cache does not distinguish two engines with the same name.

    Example:
        >>> lm = scripted_lm(lambda system, user: "Lentils.")
        >>> lm("What shall I cook?")
        ['Lentils.']
        >>> lm.engine.prompts
        [('', 'What shall I cook?')]
    """
    engine = ScriptedEngine(reply)
    return dspy.LM(
        f"scripted/{next(_numbers)}",
        engine=engine,
        async_engine=AsyncScriptedEngine(engine),
        cache=False,
        num_retries=0,
    )
