"""Connections to a provider: how many are open at once, and replies of what stands between."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import dspy
import pytest

from program import UsageTracker, track_usage
from program.models.adapter import program_adapter
from program.models.connections import most_connections

REPLY = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()


async def most_at_once(n_calls: int, expected: int) -> int:
    """Make calls to a server that answers when as many as expected are open; return how many it had open."""
    now = most = 0
    full = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                now += 1
                most = max(most, now)
                if now == expected:
                    full.set()
                await asyncio.wait_for(full.wait(), 60)
                await asyncio.sleep(0.1)  # in which one too many would come
                now -= 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(f"content-length: {len(REPLY)}\r\n\r\n".encode() + REPLY)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    port = server.sockets[0].getsockname()[1]
    base: Any = f"http://127.0.0.1:{port}/v1"
    lm = dspy.LM("openai/m", api_base=base, api_key="none", cache=False)
    await asyncio.gather(*(lm.acall("Is it so?") for _ in range(n_calls)))
    await lm.aclose()
    server.close()
    return most


@pytest.mark.parametrize(("number", "most"), [(16, 100), (120, 120)])
def test_as_many_calls_are_open_as_asked_for(number: int, most: int) -> None:
    with most_connections(number):
        assert asyncio.run(most_at_once(130, most)) == most


async def answer_after(bad: bytes) -> tuple[str, int]:
    """Ask a server whose first reply is a success without a body; return the answer and the requests."""
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                requests += 1
                body = bad if requests == 1 else REPLY.replace(b"Yes.", b'{\\"reply\\": \\"Yes.\\"}')
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(f"content-length: {len(body)}\r\n\r\n".encode() + body)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    base: Any = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    lm = dspy.LM("openai/m", api_base=base, api_key="none", cache=False, num_retries=2)
    with track_usage(UsageTracker(), lm), program_adapter():
        prediction = await dspy.Predict("question -> reply").acall(question="Is it so?")
    await lm.aclose()
    server.close()
    return prediction.reply, requests


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b"null", b"[]"])
def test_a_success_whose_body_is_no_reply_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setenv("PERSONAAGENT_MAX_WAIT", "0")
    assert asyncio.run(answer_after(body)) == ("Yes.", 2)
