"""SIGKILL at random times, of workers and commands and their processes: what is lost, and what is paid again.

    python benchmarks/bench_fleet_kills.py [--kills 6] [--store sqlite postgresql] [--out kills.jsonl]

Each round aligns users with `personaagent align --all` on a model server on loopback, with a `personaagent
worker` beside it or in two processes of its own (`KINDS`), kills what its turn says, starts it again, and
compares with an undisturbed run: every user has the same persona in as many versions, the same requests were
made, and each one that came again had no reply at the moment of the kill, or one younger than `WRITING`.
Rounds that the file has already are not run again. `--take-over` measures how long a living worker takes to
notice a dead one.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fleet_setup import MODEL, Loopback, fill, postgres, start

from optimizers.config import PAPER
from optimizers.fleet import tasks
from optimizers.fleet.batch import Batch
from optimizers.fleet.engines import open_tables
from program import UserStore

KINDS = {
    "worker": ("worker",),
    "command": ("command",),
    "both": ("worker", "command"),
    "parent": ("parent",),
    "child": ("child",),
}
"""What is killed: the first three beside a worker; a parent is a command with processes, its children."""

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


def wait_for(server: Loopback, n_requests: int, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while server.counts()["requests"] < n_requests:
        assert time.monotonic() < deadline, "no call came"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Return the processes that a command has started to align users."""
    ids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in ids if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def play(number: int, kind: str, where: str, create: Any, right: dict[str, int], latency: float) -> Any:
    """Align the users once, kill what the kind says, and return what came of it and what was asked."""
    rng = random.Random(number)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home, server = Path(name), stack.enter_context(Loopback("--latency", str(latency)))
        location = str(home / "users.db") if where == "sqlite" else create(f"round{number}")
        _fill(location)
        running: dict[str, subprocess.Popen[str]] = {}

        def begin(what: str) -> None:
            running[what] = start(server.base, home, location, *WORDS[what])
            stack.callback(running[what].kill)

        command = "parent" if kind in ("parent", "child") else "command"
        if command == "command":
            begin("worker")
            time.sleep(rng.uniform(0.0, 2.0))
        begin(command)
        wait_for(server, rng.randint(1, sum(right.values()) - 1))
        if kind == "child":
            pids = [rng.choice(children(running["parent"].pid))]
        else:
            pids = [running[what].pid for what in KINDS[kind]]
        server.ask(f"/kill-in/{rng.uniform(0.0, 0.3):.3f}/{','.join(map(str, pids))}", data=b"")
        killed = time.monotonic()
        for what in KINDS[kind]:
            if what != "child":  # its parent starts another one
                running[what].communicate()
                begin(what)
        # The command alone ends: by then every user is done, whoever did it.
        errors = running[command].communicate(timeout=600)[1]
        row = {
            "round": number,
            "kind": kind,
            "store": where,
            "code": running[command].returncode,
            "error": errors.strip().splitlines()[-1:] if running[command].returncode else "",
            "seconds": round(time.monotonic() - killed, 1),
        }
        return row, state(location), server.ask("/asked")


def compare(asked: dict[str, Any], right: dict[str, int]) -> dict[str, Any]:
    """Return how many requests came again, by what the server knew of them at the kill, and what is wrong."""
    again = {
        name: times - right.get(name, 0)
        for name, times in asked["asked"].items()
        if times != right.get(name, 0)
    }
    missing = sum(asked["asked"].get(name, 0) < times for name, times in right.items())
    unanswered = {name: times for name, times in again.items() if name in asked["in_flight"]}
    ages = [asked["ages"].get(name) for name in again if name not in unanswered]
    known = [round(age, 3) for age in ages if age is not None]
    return {
        "in_flight": len(asked["in_flight"]),
        "again": sum(times for times in again.values() if times > 0),
        "again_in_flight": sum(unanswered.values()),
        "oldest": max(known, default=0.0),
        "other": missing + sum(age is None for age in ages),
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
        wait_for(server, 2)
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
        for number in range(arguments.kills):
            if number in done:
                continue
            where = arguments.store[number % len(arguments.store)]
            kind = list(KINDS)[number // len(arguments.store) % len(KINDS)]
            row, found, asked = play(number, kind, where, create, requests, arguments.latency)
            row |= compare(asked, requests)
            row["wrong"] = judge(row, found, right)
            rows.append(row)
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    for where in arguments.store:
        for kind in KINDS:
            some = [row for row in rows if row["kind"] == kind and row["store"] == where]
            wrong = [row for row in some if row["wrong"]]
            flying, again, unanswered = (
                sum(row[name] for row in some) for name in ("in_flight", "again", "again_in_flight")
            )
            oldest = max((row["oldest"] for row in some), default=0.0)
            print(
                f"{where} {kind}: {len(some)} kills, {len(wrong)} wrong; {flying} calls in flight, {again} "
                f"came again, {again - unanswered} of them after a reply at most {oldest} s old"
            )


if __name__ == "__main__":
    main()
