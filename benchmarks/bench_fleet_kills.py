"""SIGKILL at random times, of workers and commands and their processes: what is lost, and what is paid again.

    python benchmarks/bench_fleet_kills.py [--kills 6] [--store sqlite postgresql] [--out kills.jsonl]

Each round aligns users with `personaagent align --all` on a model server on loopback, with a `personaagent
worker` beside it or in two processes of its own (`KINDS`). It kills and starts again what chance says, up to
`KILLS` times, and compares with an undisturbed run: every user has the same persona in as many versions, the
same requests were made, and each time that one came again it had no reply at the moment of a kill, or one
younger than `WRITING`. Rounds that the file has already are not run again. `--take-over` measures how long a
living worker takes to notice a dead one.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

from fleet_setup import MODEL, Loopback, fill, postgres, start

from optimizers.config import PAPER
from optimizers.fleet import tasks
from optimizers.fleet.batch import Batch
from optimizers.fleet.engines import open_tables
from program import UserStore

KINDS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"worker": ("worker",), "command": ("command",), "both": ("worker", "command")},
    {"parent": ("parent",), "child": ("child",)},
)
"""What is killed: beside a worker, or a command with processes and these. Rounds take turns."""

KILLS = 4
"""Most kills of a round."""

CHILDREN = 2
"""Most children in a row: the users of one that dies three times fail, by intention."""

WRITING = 0.25
"""Seconds after a reply in which the one who asked may not have written it yet."""

USERS = 6
ALIGN = ("align", "--all", "--preset", "paper", "--model", MODEL, "--no-wikipedia", "--trace", "off")
WORDS = {"worker": ("worker",), "command": ALIGN, "parent": (*ALIGN, "--processes", "2")}


def _fill(location: str) -> list[str]:
    with UserStore(location) as store:
        return fill(store, USERS, n_films=6)


def state(location: str) -> dict[str, Any]:
    with UserStore(location) as store:
        return {
            user.user_id: {
                "versions": [[v.version, v.text] for v in store.persona_history(user.user_id)],
                "running": sum(row.status == "running" for row in store.alignments(user.user_id)),
            }
            for user in store.users()
        }


def undisturbed(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the state of a run that nobody kills, and how often it makes each request."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home, server = Path(name), stack.enter_context(Loopback("--latency", str(arguments.latency)))
        location = str(home / "users.db")
        _fill(location)
        process = start(server.base, home, location, *ALIGN)
        errors = process.communicate(timeout=600)[1]
        assert process.returncode == 0, errors
        return state(location), server.ask("/asked")["asked"]


def wait_for(server: Loopback, n_requests: int, process: subprocess.Popen[str]) -> bool:
    """Return true when so many requests have come, and false if the process ends before."""
    while server.counts()["requests"] < n_requests:
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    return True


def children(pid: int) -> list[int]:
    """Return the processes that a command has started to align users."""
    ids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in ids if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def play(number: int, where: str, create: Any, most: int, latency: float) -> Any:
    """Align the users once, kill at random, and return what came of it, the store's state, what was asked."""
    rng, kinds = random.Random(number), KINDS[number // 2 % len(KINDS)]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home, server = Path(name), stack.enter_context(Loopback("--latency", str(latency)))
        location = str(home / "users.db") if where == "sqlite" else create(f"round{number}")
        _fill(location)
        running: dict[str, subprocess.Popen[str]] = {}

        def begin(what: str) -> None:
            running[what] = start(server.base, home, location, *WORDS[what])
            stack.callback(running[what].kill)

        command = "command" if "worker" in kinds else "parent"
        if "worker" in kinds:
            begin("worker")
            time.sleep(rng.uniform(0.0, 2.0))
        begin(command)
        kills: list[str] = []
        until = 0
        while len(kills) < most:
            until = max(until, server.counts()["requests"]) + rng.randint(1, 20)
            if not wait_for(server, until, running[command]):
                break
            kind = rng.choice(list(kinds))
            if kind == "child" and kills[-CHILDREN:] == ["child"] * CHILDREN:
                kind = "parent"
            if kind == "child":
                pids = [rng.choice(found)] if (found := children(running["parent"].pid)) else []
            else:
                pids = [running[what].pid for what in kinds[kind]]
            if not pids:
                continue
            server.ask(f"/kill-in/{rng.uniform(0.0, 0.3):.3f}/{','.join(map(str, pids))}", data=b"")
            kills.append(kind)
            for what in kinds[kind]:
                if what != "child":  # its parent starts another one
                    running[what].communicate()
                    begin(what)
        # The command alone ends: by then every user is done, whoever did it.
        errors = running[command].communicate(timeout=600)[1]
        row = {
            "round": number,
            "kills": kills,
            "store": where,
            "code": running[command].returncode,
            "error": errors.strip().splitlines()[-1:] if running[command].returncode else "",
        }
        return row, state(location), server.ask("/asked")


def compare(asked: dict[str, Any], right: dict[str, int], kinds: list[str]) -> dict[str, Any]:
    """Return how many requests came again, and what the server knew of them at the kills.

    A request may come again once for each kill at which it was in flight, or answered a moment before. One
    that a killed process had sent and the server read a moment later was in flight, too; a parent has none.
    """
    in_flight = Counter(
        name
        for kill, kind in zip(asked["kills"], kinds, strict=True)
        for name in (*kill["in_flight"], *(kill["late"] if kind != "parent" else ()))
    )
    again = {name: n for name, times in asked["asked"].items() if (n := times - right.get(name, 0))}
    excess = {name: n - in_flight[name] for name, n in again.items() if n > in_flight[name]}
    ages = {
        name: sorted(kill["ages"].get(name, inf) for kill in asked["kills"])[:n] for name, n in excess.items()
    }
    known = [round(age, 3) for own in ages.values() for age in own if age < inf]
    return {
        "in_flight": in_flight.total(),
        "again": sum(n for n in again.values() if n > 0),
        "answered": len(known),
        "oldest": max(known, default=0.0),
        "other": sum(n < 0 for n in again.values())
        + sum(name not in asked["asked"] for name in right)
        + sum(excess.values())
        - len(known),
    }


def judge(row: dict[str, Any], found: dict[str, Any], right: dict[str, Any]) -> str:
    if row["code"]:
        return f"the command ended with {row['code']}: {row['error']}"
    for user_id, user in right.items():
        if found[user_id] != user:
            return f"{user_id} differs"
    if row["other"]:
        return f"{row['other']} requests are not those of the undisturbed run"
    if row["oldest"] > WRITING:
        return f"a call was paid again whose reply was {row['oldest']} s old"
    return ""


def take_over(where: str, create: Any, latency: float) -> None:
    """Kill a worker that has all users while another one lives, and print how long until it takes over."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home, server = Path(name), stack.enter_context(Loopback("--latency", str(latency)))
        location = str(home / "users.db") if where == "sqlite" else create("takeover")
        ids = _fill(location)
        with UserStore(location) as store, open_tables(store, home) as engine:
            asked = Batch(users="all", config=PAPER, model=MODEL, wikipedia=False, trace="off")
            batch_id, _ = engine.batches.open(asked)
            tasks.enqueue(store, ids, batch_id)
        first = start(server.base, home, location, "worker")
        stack.callback(first.kill)
        assert wait_for(server, 2, first)
        second = start(server.base, home, location, "worker")
        stack.callback(second.kill)
        assert second.stderr is not None
        while "waits for users" not in second.stderr.readline():
            pass
        time.sleep(3)  # it opens its tables
        killed = time.monotonic()
        first.kill()
        taken, lines = 0.0, 0
        for line in second.stderr:
            if "took over" in line:
                taken = time.monotonic() - killed
                print(line.strip())
            lines += "aligned" in line
            if lines == len(ids):
                break
        done = time.monotonic() - killed
        print(
            f"{where}: taken over {taken:.1f} s after the kill, {len(ids)} users done {done:.1f} s after it"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument(
        "--store", choices=["sqlite", "postgresql"], nargs="+", default=["sqlite", "postgresql"]
    )
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--out", type=Path, default=Path("kills.jsonl"))
    parser.add_argument("--take-over", action="store_true")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        create = stack.enter_context(postgres()) if "postgresql" in arguments.store else None
        if arguments.take_over:
            for where in arguments.store:
                take_over(where, create, arguments.latency)
            return
        rows = []
        if arguments.out.exists():
            rows = [json.loads(line) for line in arguments.out.read_text(encoding="utf-8").splitlines()]
        right, requests = undisturbed(arguments)
        print(f"undisturbed: {sum(requests.values())} calls", flush=True)
        done = {row["round"] for row in rows}
        for number in count():
            left = arguments.kills - sum(len(row["kills"]) for row in rows)
            if left <= 0:
                break
            if number in done:
                continue
            where = arguments.store[number % len(arguments.store)]
            row, found, asked = play(number, where, create, min(left, KILLS), arguments.latency)
            row |= compare(asked, requests, row["kills"])
            row["wrong"] = judge(row, found, right)
            rows.append(row)
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    for where in arguments.store:
        some = [row for row in rows if row["store"] == where]
        kinds = Counter(kind for row in some for kind in row["kills"])
        wrong = sum(bool(row["wrong"]) for row in some)
        flying, again, answered = (
            sum(row[name] for row in some) for name in ("in_flight", "again", "answered")
        )
        oldest = max((row["oldest"] for row in some), default=0.0)
        print(f"{where}: {kinds.total()} kills {dict(kinds)} in {len(some)} rounds, {wrong} of them wrong")
        print(
            f"  {flying} calls in flight, {again} came again, {answered} of them after a reply at most "
            f"{oldest} s old"
        )


if __name__ == "__main__":
    main()
