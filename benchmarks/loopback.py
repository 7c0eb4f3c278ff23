"""A model server on loopback, in a process of its own: speaks OpenAI's chat API and counts what it is asked.

    python benchmarks/loopback.py --latency 0.2

It prints its address. ``GET /counts`` returns JSON: requests, replies, the most at once, and how often each
request was answered. ``POST /kill-at/N/PID`` sends SIGKILL to a process when request N (from now) arrives,
and does not answer it. ``POST /fail/N`` answers the next N requests with status 503.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import signal
from collections import Counter
from typing import Any

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


class Server:
    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.requests = self.replies = self.now = self.most = self.fail = 0
        self.kill: tuple[int, int] | None = None
        self.answered: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                verb, path, _ = head[0].split()
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, reply = await self.reply(verb, path, body)
                if reply is None:
                    return
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                start = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
                writer.write(start.encode() + f"content-length: {len(data)}\r\n\r\n".encode() + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def reply(self, verb: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/counts":
            twice = sum(times - 1 for times in self.answered.values())
            return 200, {
                "requests": self.requests, "replies": self.replies, "most": self.most, "twice": twice
            }  # fmt: skip
        parts = path.strip("/").split("/")
        if parts[0] == "kill-at":
            self.kill = (self.requests + int(parts[1]), int(parts[2]))
            return 200, {}
        if parts[0] == "fail":
            self.fail = int(parts[1])
            return 200, {}
        self.requests += 1
        if self.kill is not None and self.requests >= self.kill[0]:
            (_, pid), self.kill = self.kill, None
            # What was answered before is then written, unless it waits for this answer.
            await asyncio.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            return 0, None
        if self.fail:
            self.fail -= 1
            return 503, {
                "error": {"message": "overloaded", "type": "server_error", "param": None, "code": None}
            }
        self.now += 1
        self.most = max(self.most, self.now)
        if self.latency:
            await asyncio.sleep(self.latency)
        self.now -= 1
        self.replies += 1
        self.answered[hashlib.sha256(body).hexdigest()] += 1
        message = {"role": "assistant", "content": answer(json.loads(body))}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
        kind = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
        return 200, {**kind, "choices": [choice], "usage": usage}


async def main(latency: float) -> None:
    served = await asyncio.start_server(Server(latency).serve, "127.0.0.1", 0, backlog=2048, limit=2**22)
    print(f"http://127.0.0.1:{served.sockets[0].getsockname()[1]}/v1", flush=True)
    await served.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.2)
    asyncio.run(main(parser.parse_args().latency))
