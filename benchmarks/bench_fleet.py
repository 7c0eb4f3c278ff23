"""Many users against a model server on loopback: wall and CPU beside bare `dspy.LM` calls.

    python benchmarks/bench_fleet.py [--users 200 1000] [--concurrency 128] [--latency 0.2] [--preset paper]

For each number of users: the run of `align_users`, then as many bare calls with a short prompt at the same
concurrency, and calls x latency / concurrency.
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
from pathlib import Path
from typing import Any

import dspy

from optimizers import align_users
from optimizers.config import PRESETS
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


async def bare(lm: Any, n_calls: int, concurrency: int) -> None:
    left = iter(range(n_calls))

    async def caller() -> None:
        for number in left:
            await lm.acall(f"Call {number}")

    await asyncio.gather(*(caller() for _ in range(concurrency)))


async def fleet(
    store: UserStore, ids: list[str], arguments: argparse.Namespace, home: Path, lm: Any
) -> Counter[str]:
    results = await align_users(
        store,
        ids,
        PRESETS[arguments.preset],
        lm=lm,
        concurrency=arguments.concurrency,
        home=home,
        wikipedia=False,
    )
    return Counter([result.status async for result in results])


def counts(base: str) -> dict[str, int]:
    with urllib.request.urlopen(base.removesuffix("/v1") + "/counts") as response:
        return dict(json.load(response))


def measure(n_users: int, arguments: argparse.Namespace) -> None:
    command = [
        sys.executable,
        str(Path(__file__).with_name("loopback.py")),
        "--latency",
        str(arguments.latency),
    ]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as name,
    ):
        try:
            assert server.stdout is not None
            base = server.stdout.readline().strip()
            home = Path(name)
            lm = dspy.LM("openai/gpt-4o-mini", api_base=base, api_key="none", cache=False)
            with UserStore(home / "users.db") as store:
                ids = fill(store, n_users)
                wall, cpu = time.perf_counter(), time.process_time()
                statuses = asyncio.run(fleet(store, ids, arguments, home, lm))
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            seen = counts(base)
            calls = seen["replies"]
            bare_wall, bare_cpu = time.perf_counter(), time.process_time()
            asyncio.run(bare(lm, calls, arguments.concurrency))
            bare_wall, bare_cpu = time.perf_counter() - bare_wall, time.process_time() - bare_cpu
        finally:
            server.kill()
    ideal = calls * arguments.latency / arguments.concurrency
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{n_users} users, {calls:,} calls, most in flight {seen['most']}, {dict(statuses)}, {memory:.0f} MB"
    )
    print(f"  fleet  {wall:7.1f} s  {1e3 * cpu / calls:5.2f} ms CPU a call  {wall / bare_wall:.2f} x bare")
    print(f"  bare   {bare_wall:7.1f} s  {1e3 * bare_cpu / calls:5.2f} ms CPU a call")
    print(f"  ideal  {ideal:7.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--preset", choices=list(PRESETS), default="grounded")
    arguments = parser.parse_args()
    dspy.configure(disable_history=True)
    for n_users in arguments.users:
        measure(n_users, arguments)


if __name__ == "__main__":
    main()
