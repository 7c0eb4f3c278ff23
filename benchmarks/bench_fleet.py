"""Many users against a model server on loopback: wall and CPU beside bare `dspy.LM` calls.

    python benchmarks/bench_fleet.py [--users 100] [--processes 1 2] [--concurrency 128] [--latency 0.2]
    python benchmarks/bench_fleet.py --workers 1 2 [--users 100] [--concurrency 16]

For each number of users and processes: the run of `align_users`, then as many bare calls of `dspy.LM.acall`
with the same prompts at the same concurrency, in one process, and calls x latency / concurrency. The full
size is ``--users 100 1000 5000``. With ``--workers``: so many `personaagent worker`, each with that
concurrency, share the users of a store on PostgreSQL; the time is from the first queued user to the last
aligned one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import dspy
from fleet_setup import MODEL, Loopback, fill, postgres, start

from optimizers import align_users
from optimizers.config import PRESETS
from optimizers.fleet import tasks
from optimizers.fleet.batch import Batch
from optimizers.fleet.engines import open_tables
from optimizers.fleet.processes import Share, align_in_processes
from program import UserStore

WARM = 4
"""Users for each worker who are aligned before the time is taken."""

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


def measure(n_users: int, processes: int, arguments: argparse.Namespace) -> None:
    with Loopback("--latency", str(arguments.latency)) as server, tempfile.TemporaryDirectory() as name:
        base, home = server.base, Path(name)
        requests = requests_of_fleet(base, arguments)
        earlier = server.counts()["replies"]
        with UserStore(home / "users.db") as store:
            ids = fill(store, n_users)
            wall, used = time.perf_counter(), cpu()
            statuses = asyncio.run(fleet(store, ids, arguments, home, base, processes))
            wall, used = time.perf_counter() - wall, cpu() - used
        seen = server.counts()
        calls = seen["replies"] - earlier
        bare_wall, bare_used = time.perf_counter(), cpu()
        asyncio.run(bare(model(base), requests, calls, arguments.concurrency))
        bare_wall, bare_used = time.perf_counter() - bare_wall, cpu() - bare_used
    ideal = calls * arguments.latency / arguments.concurrency
    own, child = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"{n_users} users, {processes} processes, {calls:,} calls, most in flight {seen['most']}")
    print(f"  {dict(statuses)}, resident at most {own:.0f} MB, in another process {child:.0f} MB")
    print(f"  fleet  {wall:7.1f} s  {1e3 * used / calls:5.2f} ms CPU a call  {wall / bare_wall:.2f} x bare")
    print(f"  bare   {bare_wall:7.1f} s  {1e3 * bare_used / calls:5.2f} ms CPU a call")
    print(f"  ideal  {ideal:7.1f} s", flush=True)


def measure_workers(n_users: int, n_workers: int, arguments: argparse.Namespace, url: str) -> None:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(Loopback("--latency", str(arguments.latency)))
        store = stack.enter_context(UserStore(url))
        ids = fill(store, n_users + WARM * n_workers)
        words = ("worker", "--concurrency", str(arguments.concurrency))
        workers = [start(server.base, home, url, *words) for _ in range(n_workers)]
        for worker in workers:
            stack.callback(worker.kill)
            assert worker.stderr is not None
            threading.Thread(target=worker.stderr.read, daemon=True).start()
        engine = stack.enter_context(open_tables(store, home))

        def align(chosen: list[str]) -> None:
            users = tuple(chosen)
            batch = Batch(
                users=users, config=PRESETS[arguments.preset], model=MODEL, wikipedia=False, trace="off"
            )
            batch_id, _ = engine.batches.open(batch)
            tasks.enqueue(store, chosen, batch_id)
            while tasks.tasks(store, unfinished=True):
                time.sleep(0.25)

        align(ids[n_users:])  # all of them are up then, most likely
        earlier = server.counts()["replies"]
        wall, used = time.perf_counter(), sum(map(cpu_of, workers))
        align(ids[:n_users])
        wall, used = time.perf_counter() - wall, sum(map(cpu_of, workers)) - used
        calls = server.counts()["replies"] - earlier
        users = [store.user(user_id) for user_id in ids[:n_users]]
    aligned = sum((user.persona_version or 0) > 1 for user in users)
    print(f"{n_users} users, {n_workers} workers, {calls:,} calls, {aligned} users have a second version")
    print(f"  {wall:7.1f} s  {1e3 * used / calls:5.2f} ms CPU a call", flush=True)


def cpu_of(process: subprocess.Popen[str]) -> float:
    """Return the seconds of CPU that a running process has taken."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, nargs="+", default=[100])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers", type=int, nargs="+", default=[])
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--preset", choices=list(PRESETS), default="grounded")
    arguments = parser.parse_args()
    dspy.configure(disable_history=True)
    if arguments.workers:
        with postgres() as create:
            for number, (n_users, n_workers) in enumerate(product(arguments.users, arguments.workers)):
                measure_workers(n_users, n_workers, arguments, create(f"run{number}"))
        return
    for n_users in arguments.users:
        for processes in arguments.processes:
            measure(n_users, processes, arguments)


if __name__ == "__main__":
    main()
