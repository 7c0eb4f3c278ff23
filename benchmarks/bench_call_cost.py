"""Where the CPU of a model call of the fleet goes, by layer, beside bare `dspy.LM` calls.

    python benchmarks/bench_call_cost.py [--users 100] [--concurrency 128] [--latency 0.2] [--stacks FILE]

The bare calls have the same prompts. A signal samples the main thread's stack whenever the process has used
some more CPU. A sample belongs to the innermost of our layers, of DSPy's or of the provider client in its
stack, so that pydantic, JSON and SQLAlchemy count where they are used; what has none of them is the event
loop. ``--stacks`` writes the samples, one stack and its microseconds a line, as flame graph tools read them.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

import dspy
from bench_fleet import bare, fleet, model, requests_of_fleet
from fleet_setup import ROOT, Loopback, fill

from program import UserStore

INTERVAL = 0.001
LAYERS = (
    ("dspy/_vendor/lm15", "provider client"),
    ("site-packages/litellm", "provider client"),
    ("dspy/clients", "DSPy client"),
    ("site-packages/dspy", "DSPy adapters, predictors, signatures"),
    ("site-packages/dbos", "DBOS"),
    ("program/store", "store"),
    ("program/memory", "memory search"),
    ("program/models", "forms, patience, replies"),
    ("program/usage", "counting, budget, digests"),
    ("program/calls", "counting, budget, digests"),
    ("program/evidence", "facts"),
    ("program/", "agent and tools"),
    ("optimizers/fleet", "fleet: steps, limit, locks"),
    ("optimizers/journal", "fleet: steps, limit, locks"),
    ("optimizers/", "alignment"),
)
OTHER = "event loop"
THREADS = "other threads: store, steps, DSPy's look-ups"


class Samples:
    """Samples of the main thread's stack, each with the CPU that it used since the one before."""

    def __init__(self) -> None:
        self.stacks: defaultdict[tuple[str, ...], float] = defaultdict(float)

    def __enter__(self) -> Samples:
        self._start = self._latest = (time.process_time(), time.thread_time())
        signal.signal(signal.SIGPROF, self._take)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *exc: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.cpu = time.process_time() - self._start[0]

    def _take(self, _: int, frame: FrameType | None) -> None:
        now = (time.process_time(), time.thread_time())
        main = max(0.0, now[1] - self._latest[1])
        others = max(0.0, now[0] - self._latest[0] - main)
        self._latest = now
        self.stacks[_stack(frame)] += main
        # The stacks of other threads cannot be read safely from here.
        self.stacks[(THREADS,)] += others

    def by_layer(self, calls: int) -> dict[str, float]:
        """Return milliseconds of CPU a call by layer."""
        layers: defaultdict[str, float] = defaultdict(float)
        for stack, n in self.stacks.items():
            layers[layer(stack)] += n
        return {name: 1e3 * n / calls for name, n in layers.items()}


def _stack(frame: FrameType | None) -> tuple[str, ...]:
    stack = []
    while frame is not None:
        stack.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")
        frame = frame.f_back
    return tuple(stack)


def layer(stack: tuple[str, ...]) -> str:
    if stack == (THREADS,):
        return THREADS
    for place in stack:
        for part, name in LAYERS:
            ours = not part.startswith(("dspy", "site-packages"))
            if place.startswith(f"{ROOT}/{part}") if ours else part in place:
                return name
    return OTHER


def measure(server: Loopback, arguments: argparse.Namespace) -> tuple[Samples, Samples, int]:
    base = server.base
    requests = requests_of_fleet(base, arguments)
    earlier = server.counts()["replies"]
    with tempfile.TemporaryDirectory() as name, UserStore(Path(name) / "users.db") as store:
        ids = fill(store, arguments.users)
        with Samples() as ours:
            asyncio.run(fleet(store, ids, arguments, Path(name), base, 1))
    calls = server.counts()["replies"] - earlier
    with Samples() as theirs:
        asyncio.run(bare(model(base), requests, calls, arguments.concurrency))
    return ours, theirs, calls


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--preset", default="grounded")
    parser.add_argument("--stacks", type=Path)
    arguments = parser.parse_args()
    dspy.configure(disable_history=True)
    with Loopback("--latency", str(arguments.latency)) as server:
        ours, theirs, calls = measure(server, arguments)
    fleet_ms, bare_ms = ours.by_layer(calls), theirs.by_layer(calls)
    print(f"{arguments.users} users, {calls:,} calls, {arguments.concurrency} in flight; ms of CPU a call")
    print(f"  {'':50} fleet   bare")
    for name in sorted(fleet_ms, key=fleet_ms.__getitem__, reverse=True):
        print(f"  {name:50} {fleet_ms[name]:5.2f}  {bare_ms.get(name, 0.0):5.2f}")
    print(f"  {'together':50} {sum(fleet_ms.values()):5.2f}  {sum(bare_ms.values()):5.2f}", flush=True)
    if arguments.stacks is not None:
        arguments.stacks.write_text(folded(ours))


def folded(samples: Samples) -> str:
    lines = (f"{';'.join(reversed(stack))} {round(1e6 * n)}\n" for stack, n in samples.stacks.items())
    return "".join(lines)


if __name__ == "__main__":
    main()
