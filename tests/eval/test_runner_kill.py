"""A run that is killed three times and resumed equals an uninterrupted run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from eval.records import read_run

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, signal, sys
from pathlib import Path
from eval.contracts import EvalUser, Query
from eval.manifest import make_manifest
from eval.methods.registry import make_methods
from eval.runner import Limits, run_methods
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.task import get_task

out, calls, last = Path(sys.argv[1]), open(sys.argv[2], "ab", buffering=0), int(sys.argv[3])
task = get_task("LaMP-2M")
tags = task.answer.values

def user(name):
    history = [
        Interaction(id=f"{name}h{i}", user_id=name, query=f"{name} film {i}", response=tags[i % 4])
        for i in range(5)
    ]
    queries = [Query(id=f"{name}q{i}", user_id=name, text=f"{name} new {i}", gold=tags[i]) for i in range(3)]
    return EvalUser(user_id=name, history=tuple(history), queries=tuple(queries))

def reply(system, user):
    calls.write(b".")
    if 0 < last <= os.fstat(calls.fileno()).st_size:
        os.kill(os.getpid(), signal.SIGKILL)
    if "write the new system prompt" in user:
        return "Someone who saw " + str(len(user)) + " letters of feedback."
    if "write the feedback" in user or "write the profile" in user:
        return "more of " + user[-60:-40]
    if "`action`" in user:
        return {"thought": "look", "action": {"tool": "search_memory", "query": "film"}}
    return {"answer": tags[(len(system) + len(user)) % 4]}

lm = scripted_lm(reply)
lm.model = "scripted/kill-test"
methods = make_methods(["user-majority,rag,personaagent"], task)
data = [user(f"user{i}") for i in range(8)]
manifest = make_manifest(task=task, data={}, methods=methods, lm=lm)
outcome = run_methods(data, methods, task=task, manifest=manifest, out=out, lm=lm, limits=Limits(threads=2))
assert outcome.complete
"""

CALLS_IN_FLIGHT = 2 * 25
"""Two threads, each in the middle of at most one alignment of 25 calls."""


def test_run_killed_three_times_equals_uninterrupted_run(tmp_path: Path) -> None:
    rng = random.Random(3)
    calls = {name: tmp_path / f"{name}.calls" for name in ("whole", "killed")}
    assert _run(tmp_path / "whole", calls["whole"]) == 0
    paid = calls["whole"].stat().st_size
    for share in (0.2, 0.5, 0.8):
        last = round(paid * share) + rng.randrange(paid // 10)
        assert _run(tmp_path / "killed", calls["killed"], last) == -signal.SIGKILL
    assert _run(tmp_path / "killed", calls["killed"]) == 0
    assert _essence(tmp_path / "killed") == _essence(tmp_path / "whole")
    assert paid <= calls["killed"].stat().st_size <= paid + 3 * CALLS_IN_FLIGHT


def _run(out: Path, calls: Path, last: int = 0) -> int:
    """Run until the end, or until a SIGKILL at the ``last`` call."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(out), str(calls), str(last)]
    return subprocess.run(command, env=environment, timeout=300).returncode


def _essence(out: Path) -> Any:
    run = read_run(out)
    return _timeless([vars(record) for record in (*run.prepared.values(), *run.answers.values())])


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key != "seconds"}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value
