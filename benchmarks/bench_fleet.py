"""Many users against a model server on loopback: wall and CPU beside bare `dspy.LM` calls.

    python benchmarks/bench_fleet.py [--users 100] [--processes 1 2] [--concurrency 128] [--latency 0.2]

For each number of users and processes: the run of `align_users`, then as many bare calls of `dspy.LM.acall`
with the same prompts at the same concurrency, in one process, and calls x latency / concurrency. The full
size is ``--users 100 1000 5000``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import dspy

from optimizers import align_users
from optimizers.config import PRESETS
from optimizers.fleet.processes import Share, align_in_processes
from program import Interaction, UserStore


def fill(store: UserStore, n_users: int) -> list[str]:
    ids = [f"user{number}" for number in range(n_users)]
    for user_id in ids:
        films = [
            Interaction(id=f"f{n}", user_id=user_id, query=f"Film {n} of {user_id}", response="action")
            for n in range(12)
        ]
        store.append(user_id, films, task="LaMP-2M")
    return ids


Request = dict[str, Any]
"""The keyword arguments of one call."""


class Recorder(dspy.LM):  # type: ignore[misc]
    """Keeps what it is asked."""

    requests: ClassVar[list[Request]] = []

    async def acall(self, prompt: Any = None, **arguments: Any) -> Any:
        self.requests.append(arguments)
        return await super().acall(prompt, **arguments)


def requests_of_fleet(base: str, arguments: argparse.Namespace, n_users: int = 8) -> list[Request]:
    """Return the requests of a few users, for the bare calls."""
    Recorder.requests.clear()
    with tempfile.TemporaryDirectory() as name, UserStore(Path(name) / "users.db") as store:
        ids = fill(store, n_users)
        asyncio.run(fleet(store, ids, arguments, Path(name), base, 1, Recorder))
    return list(Recorder.requests)


async def bare(lm: Any, requests: list[Request], n_calls: int, concurrency: int) -> None:
    left = iter(range(n_calls))

    async def caller() -> None:
        for number in left:
            await lm.acall(**requests[number % len(requests)])

    await asyncio.gather(*(caller() for _ in range(concurrency)))


def model(base: str, kind: Any = dspy.LM) -> Any:
    return kind("openai/gpt-4o-mini", api_base=base, api_key="none", cache=False)


@contextmanager
def models(base: str) -> Iterator[None]:
    """Open the model in a process that shares the users."""
    with dspy.context(lm=model(base), disable_history=True):
        yield


async def fleet(
    store: UserStore,
    ids: list[str],
    arguments: argparse.Namespace,
    home: Path,
    base: str,
    processes: int,
    kind: Any = dspy.LM,
) -> Counter[str]:
    options = {"concurrency": arguments.concurrency, "home": home, "wikipedia": False}
    config = PRESETS[arguments.preset]
    if processes == 1:
        results = await align_users(store, ids, config, lm=model(base, kind), **options)
    else:
        share = Share(
            store=str(home / "users.db"),
            user_ids=ids,
            config=config,
            models=partial(models, base),
            options=options,
        )
        results = align_in_processes(share, processes)
    return Counter([result.status async for result in results])


def cpu() -> float:
    """Return seconds of this process and of those that it waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def counts(base: str) -> dict[str, int]:
    with urllib.request.urlopen(base.removesuffix("/v1") + "/counts") as response:
        return dict(json.load(response))


def measure(n_users: int, processes: int, arguments: argparse.Namespace) -> None:
    script = str(Path(__file__).with_name("loopback.py"))
    command = [sys.executable, script, "--latency", str(arguments.latency)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as name,
    ):
        try:
            assert server.stdout is not None
            base = server.stdout.readline().strip()
            home = Path(name)
            requests = requests_of_fleet(base, arguments)
            earlier = counts(base)["replies"]
            with UserStore(home / "users.db") as store:
                ids = fill(store, n_users)
                wall, used = time.perf_counter(), cpu()
                statuses = asyncio.run(fleet(store, ids, arguments, home, base, processes))
                wall, used = time.perf_counter() - wall, cpu() - used
            seen = counts(base)
            calls = seen["replies"] - earlier
            bare_wall, bare_used = time.perf_counter(), cpu()
            asyncio.run(bare(model(base), requests, calls, arguments.concurrency))
            bare_wall, bare_used = time.perf_counter() - bare_wall, cpu() - bare_used
        finally:
            server.kill()
    ideal = calls * arguments.latency / arguments.concurrency
    own, child = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"{n_users} users, {processes} processes, {calls:,} calls, most in flight {seen['most']}")
    print(f"  {dict(statuses)}, resident at most {own:.0f} MB, in another process {child:.0f} MB")
    print(f"  fleet  {wall:7.1f} s  {1e3 * used / calls:5.2f} ms CPU a call  {wall / bare_wall:.2f} x bare")
    print(f"  bare   {bare_wall:7.1f} s  {1e3 * bare_used / calls:5.2f} ms CPU a call")
    print(f"  ideal  {ideal:7.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, nargs="+", default=[100])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--preset", choices=list(PRESETS), default="grounded")
    arguments = parser.parse_args()
    dspy.configure(disable_history=True)
    for n_users in arguments.users:
        for processes in arguments.processes:
            measure(n_users, processes, arguments)


if __name__ == "__main__":
    main()
