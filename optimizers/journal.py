"""Pieces of paid work: named, run once, and counted as they were when they were paid."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

from optimizers.contracts import CallJournal, Journal
from optimizers.interrupts import to_its_end
from program.calls import Call, around_calls
from program.usage import Usage, current_exchange, metered, replay_usage

_HASH_CHARS = 16


class MemoryJournal:
    """Keeps finished pieces in memory: the default of an alignment.

    Example:
        >>> import asyncio
        >>> async def paid():
        ...     return {"text": "Be brief."}
        >>> journal = MemoryJournal()
        >>> asyncio.run(journal.run("ana/update/1", paid))
        {'text': 'Be brief.'}
        >>> list(journal.pieces)
        ['ana/update/1']
    """

    def __init__(self) -> None:
        self.pieces: dict[str, str] = {}

    async def run(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what the piece returned; run it first if it is not finished."""
        if name not in self.pieces:
            self.pieces[name] = json.dumps(await work())
        return json.loads(self.pieces[name])


class Pieces:
    """The pieces of one alignment in progress.

    Args:
        journal: Runs each piece once.
        user_id: The user.
    """

    def __init__(self, journal: Journal, user_id: str) -> None:
        self._journal = journal
        self._user_id = user_id
        self._named: Counter[str] = Counter()

    async def run(
        self, persona: str, interaction_id: str, what: str, work: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Return the JSON data of a piece: of an earlier run if it is finished, and else of ``work``.

        Args:
            persona: The text of the persona that the piece works under.
            interaction_id: What it works on; empty for an update.
            what: What it does. The second piece with the same arguments is another one.
            work: Does it.
        """
        name = "/".join((self._user_id, _hash(persona), interaction_id, what))
        self._named[name] += 1
        name = f"{name}/{self._named[name]}"
        paid = False

        async def pay() -> Any:
            nonlocal paid
            with metered() as usage, self._calls(name):
                value = await work()
            paid = True
            cost = {stage: vars(used) for stage, used in usage.items()}
            # A tool may have arguments of any type; only their texts are read again.
            return json.loads(json.dumps({"value": value, "usage": cost}, default=str))

        data = await self._journal.run(name, pay)
        if not paid:
            replay_usage(_usage(data["usage"]))
        return data["value"]

    @contextmanager
    def _calls(self, name: str) -> Iterator[None]:
        calls = _Calls(cast(CallJournal, self._journal), name) if hasattr(self._journal, "run_call") else None
        with nullcontext() if calls is None else around_calls(calls):
            yield


class _Calls:
    """The model calls of one piece. A reply is replayed only to the request that it answered."""

    def __init__(self, journal: CallJournal, piece: str) -> None:
        self._journal = journal
        self._piece = piece
        self._number = 0

    async def __call__(self, request: str, call: Call) -> Any:
        self._number += 1
        outputs: Any = None
        made = False

        async def make() -> Any:
            nonlocal outputs, made
            with metered() as usage:
                outputs = await call()
            made = True
            cost = {stage: vars(used) for stage, used in usage.items()}
            return {"request": request, "outputs": _plain(outputs), "finish": _finish(), "usage": cost}

        reply = await to_its_end(self._journal.run_call(self._piece, self._number, make))
        if made:
            return outputs
        if reply["request"] != request or reply["outputs"] is None:
            # A tool answered differently this time, so that the model is asked something else.
            return await call()
        replay_usage(_usage(reply["usage"]))
        if (exchange := current_exchange()) is not None:
            response = SimpleNamespace(finish_reason=reply["finish"])
            exchange.entries.append({"outputs": reply["outputs"], "response": response})
        return reply["outputs"]


def _plain(outputs: Any) -> Any:
    """Return outputs as JSON data; ``None`` if they are not: such a call is made again."""
    try:
        return json.loads(json.dumps(outputs))
    except (TypeError, ValueError):
        return None


def _finish() -> str | None:
    exchange = current_exchange()
    response = exchange.entries[-1].get("response") if exchange is not None and exchange.entries else None
    finish = getattr(response, "finish_reason", None)
    if finish is None:
        choices = getattr(response, "choices", None)
        finish = getattr(choices[0], "finish_reason", None) if choices else None
    return None if finish is None else str(finish)


def _usage(by_stage: Mapping[str, Mapping[str, Any]]) -> dict[str, Usage]:
    return {stage: Usage(**usage) for stage, usage in by_stage.items()}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:_HASH_CHARS]
