"""`align` of many users, `fleet status` and `users forget`, against a model server on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optimizers.fleet import tasks
from optimizers.fleet.commands import workers_live
from optimizers.fleet.engines import open_tables
from program import Interaction, UserStore

ROOT = Path(__file__).parents[2]


class Loopback:
    def __init__(self) -> None:
        script = [sys.executable, str(ROOT / "benchmarks" / "loopback.py"), "--latency", "0.05"]
        self.process = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
        self.base = self.process.stdout.readline().strip()

    def requests(self) -> int:
        with urllib.request.urlopen(self.base.removesuffix("/v1") + "/counts") as response:
            return int(json.load(response)["requests"])


@pytest.fixture
def server() -> Iterator[Loopback]:
    server = Loopback()
    yield server
    server.process.kill()
    server.process.wait()
    server.process.stdout.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    with UserStore(home / "users.db") as store:
        for user_id in ("ana", "ben", "cem", "dan"):
            films = [
                Interaction(id=f"f{i}", user_id=user_id, query=f"Film {i} of {user_id}", response="action")
                for i in range(12)
            ]
            store.append(user_id, films, task="LaMP-2M")
    return home


def start(server: Loopback, home: Path, *words: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PERSONAAGENT_HOME": str(home),
        "OPENAI_API_BASE": server.base,
        "OPENAI_API_KEY": "none",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "personaagent", *words]
    # A job in the background, as these tests may be, ignores Ctrl-C, and its children with it.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home
        )
    finally:
        signal.signal(signal.SIGINT, handler)


def run(server: Loopback, home: Path, *words: str) -> tuple[int, str, str]:
    process = start(server, home, *words)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


ALIGN = ("align", "--model", "openai/gpt-4o-mini", "--no-wikipedia", "--trace", "off")


def test_a_repeated_command_pays_nothing_and_stale_users_alone_are_aligned(
    server: Loopback, home: Path
) -> None:
    code, out, err = run(server, home, *ALIGN, "--all", "--json")
    rows = json.loads(out)
    assert (code, [row["user_id"] for row in rows]) == (0, ["ana", "ben", "cem", "dan"])
    assert "4 of 4 users aligned" in err
    paid = server.requests()
    code, out, err = run(server, home, *ALIGN, "--all")
    assert (code, server.requests()) == (0, paid)
    assert "4 of 4 users aligned, 0 calls" in err
    assert out.count("nothing new") == 4
    with UserStore(home / "users.db") as store:
        store.observe("cem", query="New", response="action")
    code, out, err = run(server, home, *ALIGN, "--stale", "--json")
    assert [row["user_id"] for row in json.loads(out)] == ["cem"]
    assert server.requests() > paid


def test_processes_share_the_users_and_one_that_is_killed_is_replaced(server: Loopback, home: Path) -> None:
    process = start(server, home, *ALIGN, "--all", "--json", "--processes", "2")
    workers: list[str] = []
    while len(workers) < 2 or server.requests() < 20:
        time.sleep(0.02)
        assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        # One of them is the resource tracker of `multiprocessing`.
        found = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        workers = max(workers, found, key=len)
    os.kill(int(workers[0]), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    rows = json.loads(out)
    assert [(row["user_id"], row["persona_version"]) for row in rows] == [
        (name, 2) for name in ("ana", "ben", "cem", "dan")
    ]
    # At most the calls in flight of the killed process were paid twice.
    paid = sum(usage["calls"] for row in rows for usage in row["usage"].values())
    profiles, in_flight = 4, 8
    assert server.requests() <= paid + profiles + in_flight
    assert "4 of 4 users aligned" in err


def test_a_command_queues_its_users_for_a_living_worker(server: Loopback, home: Path) -> None:
    worker = start(server, home, "worker")
    try:
        assert "waits for users" in worker.stderr.readline()
        with UserStore(home / "users.db") as store:
            while not workers_live(store, home):
                time.sleep(0.05)
            code, out, err = run(server, home, *ALIGN, "--all", "--json")
            with open_tables(store, home):
                queued = [(task.user_id, task.state) for task in tasks.tasks(store)]
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)
    assert (code, [row["persona_version"] for row in json.loads(out)]) == (0, [2, 2, 2, 2]), err
    assert "4 of 4 users aligned" in err
    assert sorted(queued) == [(name, "done") for name in ("ana", "ben", "cem", "dan")]


def test_a_budget_is_that_of_all_processes(server: Loopback, home: Path) -> None:
    command = (*ALIGN, "--all", "--processes", "2", "--max-calls", "30", "--json")
    code, out, err = run(server, home, *command)
    assert code == 3, err
    assert 20 < server.requests() <= 30
    assert [row["status"] for row in json.loads(out)].count("stopped") == 1
    assert "the limit is 30 calls" in out + err


def test_ctrl_c_ends_all_processes_after_the_calls_in_flight(server: Loopback, home: Path) -> None:
    process = start(server, home, *ALIGN, "--all", "--processes", "2")
    while server.requests() < 10:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 4 users aligned" in err
    assert "Traceback" not in err
    # Nobody is left who calls, and what was answered is counted.
    requests = server.requests()
    calls = int(re.search(r"aligned, (\d+) calls", err)[1])
    assert calls == requests
    time.sleep(0.3)
    assert server.requests() == requests


def test_ctrl_c_ends_with_what_was_done_and_paid_and_the_next_run_goes_on(
    server: Loopback, home: Path
) -> None:
    process = start(server, home, *ALIGN, "--all", "--concurrency", "3")
    while server.requests() < 40:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 4 users aligned" in err
    assert "calls" in err
    assert "Interrupted." in err
    assert "Traceback" not in err
    code, out, err = run(server, home, "fleet", "status", "--json")
    assert code == 0
    states = {row["state"] for row in json.loads(out)}
    assert "running" not in states
    assert "interrupted" in states
    assert run(server, home, *ALIGN, "--all")[0] == 0
    code, out, err = run(server, home, "fleet", "status")
    assert "4 done" in err


def test_forgetting_a_user_reaches_the_pieces(server: Loopback, home: Path) -> None:
    for user_id in ("ana", "ben"):  # a budget ends it midway, so that pieces are kept
        run(server, home, *ALIGN, user_id, "--max-calls", "8")
    kept = b"".join(path.read_bytes() for path in home.glob("fleet.db*"))
    assert b"of ana" in kept
    assert run(server, home, "users", "forget", "ana", "--yes")[0] == 0
    left = b"".join(path.read_bytes() for path in home.glob("fleet.db*"))
    assert b"of ana" not in left
    assert b"of ben" in left


@pytest.mark.parametrize("words", [[], ["ana", "--stale"], ["--all", "--stale"], ["ana", "--all"]])
def test_users_are_chosen_in_one_way(server: Loopback, home: Path, words: list[Any]) -> None:
    code, _, err = run(server, home, *ALIGN, *words)
    assert code == 2
    assert "name the users to align" in err
    assert server.requests() == 0


def test_titles_that_no_task_can_use_are_refused(server: Loopback, home: Path) -> None:
    (home / "titles.txt").write_text("A title\n")
    code, _, err = run(server, home, *ALIGN, "ana", "--negatives", str(home / "titles.txt"))
    assert code == 2
    assert "such as LaMP-1; leave it out for LaMP-2M" in " ".join(err.split())
    assert server.requests() == 0


def test_fleet_status_without_any_alignment(server: Loopback, home: Path) -> None:
    assert run(server, home, "fleet", "status") == (0, "", "no alignment yet\n")
    assert not (home / "fleet.db").exists()
