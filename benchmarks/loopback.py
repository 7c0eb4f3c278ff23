"""A model server on loopback, in a process of its own: speaks OpenAI's chat API and counts what it is asked.

    python benchmarks/loopback.py --latency 0.2

It prints its address. ``GET /counts`` returns JSON: requests, replies, the most at once, and how often each
request was answered. ``POST /kill-at/N/PID`` sends SIGKILL to a process when request N (from now) arrives,
and does not answer it. ``POST /kill-in/SECONDS/PID,PID`` sends it to processes after a time. ``GET /asked``
returns how often each request came, by its hash, and of the moment of each such kill the requests without a
reply, those that came up to `LATE` seconds later from a client that was gone, and the age in seconds of the
latest reply to each other one. ``POST /fail/N`` answers the next N requests with status 503.

With ``--faults N`` it spoils N requests, at random and in storms: HTTP 429 with Retry-After, HTTP 500 and
503, connections that are reset, replies that take `SLOW` seconds, and replies that are garbage.
``GET /counts`` then also tells how many of each.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

SLOW = 5.0
LATE = 0.1
GARBAGE = (
    "<html><body>502 Bad Gateway</body></html>",
    "",
    "I'm sorry, but I can't help with that.",
    '{"answer": ',
    "]]]}}} \\u0000 NULL",
    json.dumps({"error": "GARBAGE"}),
)
"""Contents of messages that are no answer to anything."""

BODIES = ("not json", "[]", "null", json.dumps({"choices": []}), json.dumps({"id": "c", "choices": [{}]}))
"""Bodies that are no reply of the API."""

KINDS = ("429", "429 storm", "500", "503", "reset", "slow", "garbage", "bad body")

FEEDBACK = "This user calls films action."
LINE = "Calls films action."


def answer(body: dict[str, Any]) -> str:
    """Return a good reply to a request of the agent, or of the model of feedback and update."""
    text = json.dumps(body["messages"])
    system = str(body["messages"][0]["content"])
    if "You maintain the list" in system:
        return json.dumps({"edits": [{"op": "add", "text": LINE, "cites": [1]}]})
    if "critical evaluator" in system:
        return FEEDBACK
    if "refine the system prompt" in system:
        return f"You help someone. {LINE}"
    if "[[ ## tools ## ]]" in text:
        return json.dumps({"thought": "", "action": {"tool": "finish", "answer": "comedy"}})
    if "response_format" in body:
        return json.dumps({"answer": "action" if LINE in text else "comedy"})
    return "This user likes films."


class Faults:
    """Which requests are spoiled, and how: each one with a chance of 1 in 4, until none are left."""

    def __init__(self, number: int, seed: int = 0) -> None:
        self.left = number
        self.random = random.Random(seed)
        self.made: Counter[str] = Counter()
        self.storm_until = 0.0

    def next(self) -> str:
        now = asyncio.get_running_loop().time()
        if not self.left:
            return ""
        if now < self.storm_until:
            kind = "429 storm"
        elif self.random.random() < 0.75:
            return ""
        else:
            kind = self.random.choice(KINDS)
            if kind == "429 storm":
                if self.random.random() < 0.9:
                    kind = "429"
                else:
                    self.storm_until = now + 2.0
        self.left -= 1
        self.made[kind] += 1
        return kind


class Server:
    def __init__(self, latency: float, faults: int = 0) -> None:
        self.latency = latency
        self.faults = Faults(faults)
        self.requests = self.replies = self.now = self.most = self.fail = 0
        self.kill: tuple[int, int] | None = None
        self.answered: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        self.replied: dict[str, float] = {}
        self.kills: list[dict[str, Any]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                verb, path, _ = head[0].split()
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, reply = await self.reply(verb, path, body, reader)
                if reply is None:
                    if status < 0:
                        writer.transport.abort()
                    return
                data = reply.encode() if isinstance(reply, str) else reply
                if not isinstance(data, bytes):
                    data = json.dumps(reply).encode()
                start = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
                if status == 429:
                    start += "retry-after: 1\r\n"
                writer.write(start.encode() + f"content-length: {len(data)}\r\n\r\n".encode() + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def reply(self, verb: str, path: str, body: bytes, reader: asyncio.StreamReader) -> tuple[int, Any]:
        if path == "/counts":
            twice = sum(times - 1 for times in self.answered.values())
            return 200, {
                "requests": self.requests, "replies": self.replies, "most": self.most, "twice": twice,
                "faults": dict(self.faults.made),
            }  # fmt: skip
        if path == "/asked":
            return 200, {"asked": self.asked, "kills": self.kills}
        parts = path.strip("/").split("/")
        if parts[0] == "kill-at":
            self.kill = (self.requests + int(parts[1]), int(parts[2]))
            return 200, {}
        if parts[0] == "kill-in":
            await asyncio.sleep(float(parts[1]))
            for pid in parts[2].split(","):
                os.kill(int(pid), signal.SIGKILL)
            ages = {name: time.monotonic() - at for name, at in self.replied.items()}
            self.kills.append(
                {"in_flight": list(self.waiting.elements()), "late": [], "ages": ages, "at": time.monotonic()}
            )
            return 200, {}
        if parts[0] == "fail":
            self.fail = int(parts[1])
            return 200, {}
        self.requests += 1
        if self.kill is not None and self.requests >= self.kill[0]:
            (_, pid), self.kill = self.kill, None
            # What was answered before is then written, unless it waits for this answer.
            await (asyncio.sleep(0.3) if self.now else _idle(pid))
            os.kill(pid, signal.SIGKILL)
            return 0, None
        if self.fail:
            self.fail -= 1
            return 503, _error("overloaded", "server_error")
        fault = self.faults.next()
        if fault.startswith("429"):
            return 429, _error("slow down", "rate_limit_exceeded")
        if fault in ("500", "503"):
            return int(fault), _error("overloaded", "server_error")
        name = hashlib.sha256(body).hexdigest()
        self.now += 1
        self.most = max(self.most, self.now)
        self.asked[name] += 1
        self.waiting[name] += 1
        came = time.monotonic()
        await asyncio.sleep(self.latency if fault != "slow" else SLOW)
        self.now -= 1
        self.waiting[name] -= 1
        if self.kills and reader.at_eof() and 0 <= came - self.kills[-1]["at"] <= LATE:
            self.kills[-1]["late"].append(name)
        if fault == "reset":
            return -1, None
        if fault == "bad body":
            return 200, self.faults.random.choice(BODIES)
        self.replies += 1
        self.replied[name] = time.monotonic()
        self.answered[name] += 1
        request = json.loads(body)
        text = answer(request) if fault != "garbage" else self.faults.random.choice(GARBAGE)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
        kind = {"id": "c", "object": "chat.completion", "created": 1, "model": request["model"]}
        return 200, {**kind, "choices": [choice], "usage": usage}


async def _idle(pid: int) -> None:
    """Wait until no thread of a process has wanted to run for a tenth of a second, however it starves."""
    looks = 0
    while looks < 10:
        await asyncio.sleep(0.01)
        states = set()
        for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
            with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                states.add(thread.read_text().rpartition(")")[2].split()[0])
        looks = looks + 1 if states <= {"S", "I"} else 0


def _error(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


async def main(latency: float, faults: int) -> None:
    served = await asyncio.start_server(
        Server(latency, faults).serve, "127.0.0.1", 0, backlog=2048, limit=2**22
    )
    print(f"http://127.0.0.1:{served.sockets[0].getsockname()[1]}/v1", flush=True)
    await served.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--faults", type=int, default=0)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.latency, arguments.faults))
