"""Many users through the batch APIs, with faults and kills, beside an undisturbed online run.

    python benchmarks/bench_fleet_batch.py [--users 20] [--kills 6] [--models openai/gpt-4o-mini ...]

For each model: an online run, then a run in batches with 5 % failed, 5 % expired and 3 % garbled requests, in
which the process is killed in turn before and after a batch is created, and a reply to a creation is lost. It
prints whether every user has the persona of the online run, and what the server counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import dspy

from optimizers import ProviderBatches, align_users
from program import Interaction, UserStore

MODELS = ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"]
FAULTS = {"fail": 0.05, "expire": 0.05, "garble": 0.03}


def fill(store: UserStore, n_users: int) -> None:
    for number in range(n_users):
        user_id = f"user{number}"
        films = [
            Interaction(id=f"f{n}", user_id=user_id, query=f"Film {n} of {user_id}", response="action")
            for n in range(12)
        ]
        store.append(user_id, films, task="LaMP-2M")


async def align(store: UserStore, model: str, base: str, home: Path, batches: ProviderBatches | None) -> None:
    lm = dspy.LM(model, api_base=base, api_key="none", cache=False)
    ids = [user.user_id for user in store.users()]
    results = await align_users(
        store, ids, lm=lm, home=home, wikipedia=False, concurrency=64, batches=batches
    )
    async for result in results:
        if result.status not in ("aligned", "done"):
            print(result, result.error)


def run(model: str, base: str, home: Path, engine: str) -> None:
    """Align every user of a store; what the child process does."""
    dspy.configure(disable_history=True)
    batches = ProviderBatches(quiet=0.2, poll=0.1) if engine == "batch" else None
    with UserStore(home / "users.db") as store:
        print("ready", flush=True)
        sys.stdin.readline()
        asyncio.run(align(store, model, base, home, batches))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, flush=True)


def ask(base: str, path: str, data: Any = None) -> dict[str, int]:
    body = None if data is None else json.dumps(data).encode()
    with urllib.request.urlopen(base.removesuffix("/v1") + path, data=body) as response:
        return dict(json.load(response))


def start(model: str, base: str, home: Path, engine: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", model, base, str(home), engine]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def personas(home: Path) -> list[tuple[str, list[tuple[int, str]]]]:
    with UserStore(home / "users.db") as store:
        return [
            (user.user_id, [(v.version, v.text) for v in store.persona_history(user.user_id)])
            for user in store.users()
        ]


def measure(model: str, n_users: int, kills: int) -> None:
    server_file = Path(__file__).with_name("loopback_batches.py")
    command = [sys.executable, str(server_file), "--seconds", "0.2"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as name,
    ):
        try:
            assert server.stdout is not None
            base = server.stdout.readline().strip()
            homes = [Path(name) / "online", Path(name) / "batch"]
            for home in homes:
                home.mkdir()
                with UserStore(home / "users.db") as store:
                    fill(store, n_users)
            begin = time.perf_counter()
            print(*start(model, base, homes[0], "online").communicate("\n")[0].splitlines()[:-1], sep="\n")
            online, begin = time.perf_counter() - begin, time.perf_counter()
            calls = ask(base, "/batch-counts")["requests"]
            ask(base, "/faults", FAULTS)
            killed = 0
            while True:
                process = start(model, base, homes[1], "batch")
                if killed < kills:
                    moment = ("before", "after")[killed % 2]
                    # The batch after some others; the reply to one of those is lost.
                    ask(base, "/faults", {"kill": process.pid, "moment": moment, "skip": killed % 3})
                elif killed == kills:
                    ask(base, "/faults", {"moment": "reset"})
                out = process.communicate("\n")[0]
                if process.returncode != -signal.SIGKILL:
                    break
                killed += 1
            took, counts = time.perf_counter() - begin, ask(base, "/batch-counts")
        finally:
            server.kill()
        same = personas(homes[0]) == personas(homes[1])
    memory = out.splitlines()[-1]
    print(f"{model}: {n_users} users, {calls} calls in {online:.0f} s online")
    print(f"  batches {took:.0f} s, {killed} kills, {memory} MB, same personas and versions: {same}")
    print(f"  {counts}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        _, _, model, base, home, engine = sys.argv
        run(model, base, Path(home), engine)
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--models", nargs="+", default=MODELS)
    arguments = parser.parse_args()
    for model in arguments.models:
        measure(model, arguments.users, arguments.kills)


if __name__ == "__main__":
    main()
