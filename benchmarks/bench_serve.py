"""What `personaagent serve` adds to a chat: latency, CPU, and whether anything foreign is in a prompt.

Three processes on loopback: a model's server that answers after a fixed time and reads each prompt, the
server, and this one, which sends the same requests to both. Every text that is stored of a user holds a word
that no other user's do. It ends with status 1 if a prompt holds another user's word, or not the user's own.

    python benchmarks/bench_serve.py --users 200 --requests 50 --concurrency 64
    python benchmarks/bench_serve.py --users 200 --requests 500 --direct 1000 --latency 0.05   # 100,000
    python benchmarks/bench_serve.py --parts

``--parts`` measures the CPU of what the server does for one chat, part by part, in this process; of the
server as a process more is taken by uvicorn, the connections and the system.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from program.persona import Persona
from program.serve.chat import with_context
from program.serve.context import MEMORIES, build_context
from program.serve.keys import Keys
from program.serve.metrics import Metrics
from program.serve.recall import Recall
from program.store import UserStore

CANARY = re.compile(rb"CANARY(\d+)x")
REPLY = json.dumps(
    {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "Yes."}}]}
).encode()


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return head and body of a request or a reply."""
    head = await reader.readuntil(b"\r\n\r\n")
    if match := re.search(rb"(?i)content-length: (\d+)", head):
        return head, await reader.readexactly(int(match[1]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return head, body


def model_server(latency: float, results: Any) -> None:
    """Answer each chat after ``latency`` seconds; count prompts that hold another user's words, or none."""
    counts = {"prompts": 0, "foreign": 0, "without": 0}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head, body = await read_message(reader)
                if head.startswith(b"GET"):
                    reply = json.dumps(counts).encode()
                else:
                    user = json.loads(body)["user"].removeprefix("u").encode()
                    seen = set(CANARY.findall(body))
                    counts["prompts"] += 1
                    counts["foreign"] += bool(seen - {user})
                    counts["without"] += user not in seen
                    reply = REPLY
                    await asyncio.sleep(latency)
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                    % (len(reply), reply)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        results.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, user: str, key: str
) -> None:
    """Send one chat of a user and read the whole reply."""
    messages = [
        {"role": "system", "content": "You are a helpful cook. Answer in one sentence."},
        {"role": "user", "content": "What shall I cook for six guests on Sunday?"},
    ]
    body = json.dumps({"model": "m", "user": user, "messages": messages}).encode()
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    head, _ = await read_message(reader)
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"refused: {head[:80]!r}")


async def measure(port: int, users: list[str], concurrency: int, key: str) -> list[float]:
    """Return the seconds of each request, with at most ``concurrency`` in flight."""
    waiting, seconds = iter(users), []

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for user in waiting:
            start = time.perf_counter()
            await ask(reader, writer, port, user, key)
            seconds.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*(work() for _ in range(min(concurrency, len(users)))))
    return seconds


@contextmanager
def serving(home: Path, upstream: int) -> Iterator[tuple[int, int]]:
    """Run the server; give its port and process id."""
    command = [sys.executable, "-m", "personaagent", "serve", "--port", "0", "--rate", "0"]
    command += ["--upstream", f"http://127.0.0.1:{upstream}/v1"]
    environment = {**os.environ, "PERSONAAGENT_HOME": str(home)}
    log = (home / "log").open("w+")
    with subprocess.Popen(command, stderr=log, env=environment) as process:
        try:
            while not (match := re.search(r"http://127.0.0.1:(\d+)", (home / "log").read_text())):
                if process.poll() is not None:
                    raise SystemExit((home / "log").read_text())
                time.sleep(0.05)
            yield int(match[1]), process.pid
        finally:
            process.send_signal(signal.SIGINT)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return the memory of a process that is in RAM, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def fill(store: UserStore, users: list[str], interactions: int) -> None:
    """Store users of whom every text holds their own canary."""
    for user in users:
        store.add_user(user, task="free-text")
        word = f"CANARY{user[1:]}x"
        ids = [
            store.observe(
                user, query=f"What shall I cook on day {n}?", response=f"{word} with lentils {n}."
            ).id
            for n in range(interactions)
        ]
        parts = Persona().with_line(f"Likes {word}.", ids[:1])
        store.add_persona(user, "x", source="edit", why="benchmark", parts=parts.as_dict())


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return cuts[49] * 1000, cuts[98] * 1000


async def measure_parts(interactions: int) -> None:
    """Print the CPU of the parts of a chat: the least of many short runs, which other work disturbs least."""

    def least(run: Callable[[], object]) -> float:
        def once() -> float:
            start = time.process_time()
            for _ in range(20):
                run()
            return (time.process_time() - start) / 20

        return min(once() for _ in range(100)) * 1e6

    query = "What shall I cook for six guests on Sunday?"
    body = {"model": "m", "user": "u1", "messages": [{"role": "user", "content": query}]}
    with tempfile.TemporaryDirectory() as folder, UserStore(Path(folder) / "users.db") as store:
        fill(store, ["u1", "u2"], interactions)
        keys = Keys(Path(folder))
        token, _ = keys.create(user_id=None, rights=["read"])
        recall = Recall(store)
        context, memory = recall.context("u1", query), recall.memory("u1")
        matches, metrics = memory.search(query, MEMORIES), Metrics()
        sent = json.dumps(with_context("chat/completions", body, context.text))
        loop = asyncio.get_running_loop()
        rows = {
            "key": lambda: keys.find(token),
            "whether the user changed (1 statement)": lambda: store.head("u1"),
            "search": lambda: memory.search(query, MEMORIES),
            "the context's text": lambda: build_context(context.persona, matches),
            "context, all of it": lambda: recall.context("u1", query),
            "request and prompt as JSON": lambda: (json.loads(sent), json.dumps(body)),
            "count": lambda: metrics.count("/v1/chat/completions", "POST", 200, 0.01),
        }
        print("| part of a chat | us of CPU |\n|---|--:|")
        for name, run in rows.items():
            print(f"| {name} | {least(run):.0f} |")
        times = []
        for _ in range(1000):
            start = time.process_time()
            await loop.run_in_executor(None, int)
            times.append(time.process_time() - start)
        print(f"| a thread for the context | {statistics.median(times) * 1e6:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--requests", type=int, default=5, help="of each user")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--interactions", type=int, default=20, help="of each user, stored before")
    parser.add_argument("--latency", type=float, default=1.0, help="seconds that the model takes")
    parser.add_argument("--direct", type=int, help="requests to the model alone; by default as many")
    parser.add_argument("--parts", action="store_true")
    options = parser.parse_args()
    if options.parts:
        asyncio.run(measure_parts(options.interactions))
        return
    users = [f"u{number}" for number in range(options.users)]
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    model = context.Process(target=model_server, args=(options.latency, ports), daemon=True)
    model.start()
    upstream = ports.get()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with UserStore(home / "users.db") as store:
            fill(store, users, options.interactions)
        key, _ = Keys(home).create(user_id=None, rights=["read"])
        asked = users * options.requests
        with serving(home, upstream) as (port, pid):
            first = asyncio.run(measure(port, users, options.concurrency, key))
            direct = asyncio.run(measure(upstream, asked[: options.direct], options.concurrency, key))
            before, memory = cpu_seconds(pid), [resident_mb(pid)]
            start, through = time.perf_counter(), []
            for part in range(10):
                through += asyncio.run(measure(port, asked[part::10], options.concurrency, key))
                memory.append(resident_mb(pid))
            wall = time.perf_counter() - start
            cpu = (cpu_seconds(pid) - before) / len(asked) * 1000
    rows = {"model alone": direct, "through the server": through, "first request of a user": first}
    print("| ms | p50 | p99 |\n|---|--:|--:|")
    for name, seconds in rows.items():
        print("| {} | {:.1f} | {:.1f} |".format(name, *quantiles(seconds)))
    added = [a - b for a, b in zip(quantiles(through), quantiles(direct), strict=True)]
    print("| added | {:.1f} | {:.1f} |".format(*added))

    async def counts() -> dict[str, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream)
        writer.write(b"GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        counted: dict[str, int] = json.loads((await read_message(reader))[1])
        return counted

    counted = asyncio.run(counts())
    model.terminate()
    # Those that went to the model directly hold no context.
    without = counted["without"] - len(direct)
    print(
        f"{counted['prompts']:,} prompts, {counted['foreign']} with another user's words, {without} through "
        f"the server without the user's own; {cpu:.2f} CPU ms a request in the server, "
        f"{len(asked) / wall:.0f} requests/s; MB in the server before and after each tenth: "
        + " ".join(f"{megabytes:.0f}" for megabytes in memory)
    )
    if counted["foreign"] or without:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
