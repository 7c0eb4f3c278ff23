"""What tracing costs: time per alignment and bytes per model call; and how fast a big store lists.

Run ``python benchmarks/bench_tracing.py`` for the first two tables and ``--calls 1000000`` for the
third. Times are medians; every mode runs in its own process, one after the other, on the same work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

MODEL_SECONDS = 0.05
ALIGNMENTS = 8


def _align_once(home: Path, number: int, wait: float) -> int:
    import dspy

    from optimizers import PersonaAlignment, examples
    from program.agent import PersonaAgent
    from program.answers import Labels
    from program.memory.episodic import EpisodicMemory
    from program.memory.interaction import Interaction
    from program.models.scripted import scripted_lm
    from program.spans import about
    from program.task import Item, Task
    from program.tools import default_tools

    def reply(system: str, user: str) -> Any:
        time.sleep(wait)
        if "meticulous and critical evaluator" in system:
            return {"feedback": f"Mind the hour of the day {number}. " * 6}
        if "You refine the system prompt" in system:
            return {"new_system_prompt": f"You play music for user {number}. " * 30}
        steps = [{"tool": "search_memory", "query": "hour"}, {"tool": "read_profile"}]
        done = user.count(" gave:\n")
        action = steps[done] if done < 2 else {"tool": "finish", "answer": "jazz"}
        return {"thought": "I look.", "action": action}

    task = Task(
        name="music",
        question="jazz or rock?",
        answer=Labels(("jazz", "rock")),
        read_item=lambda item: Item(item["query"], item["response"]),
        read_query=str.strip,
    )
    user = f"user-{number}"
    past = [
        Interaction(id=f"i{n}", user_id=user, query=f"hour {n} of user {number}. " * 20, response="jazz")
        for n in range(12)
    ]
    memory = EpisodicMemory(user, past)
    persona = f"You play music and know user {number} well. " * 30
    tools = default_tools(home, wikipedia=False)
    lm = scripted_lm(reply)
    agent = PersonaAgent.for_user(user, memory, tools, task=task, persona=persona)
    with dspy.context(lm=lm, disable_history=True), about(user_id=user, run_id="bench"):
        PersonaAlignment().compile(agent, trainset=examples(memory, task))
    return len(lm.engine.prompts)


def child(mode: str, threads: int, wait: float, home: Path) -> None:
    """Align in one mode and print what it took."""
    from program.tracing.setup import open_tracer

    where = {"off": "off", "local": "local", "remote": "wandb:bench/marks"}[mode]
    with contextlib.ExitStack() as stack:
        stack.enter_context(open_tracer(where, home=home))
        _align_once(home, 0, 0.0)
        seconds = []
        for repeat in range(3):
            numbers = range(1 + repeat * ALIGNMENTS, 1 + (repeat + 1) * ALIGNMENTS)
            started, cpu = time.perf_counter(), time.process_time()
            with ThreadPoolExecutor(threads) as pool:
                jobs = [pool.submit(copy_context().run, _align_once, home, n, wait) for n in numbers]
                calls = sum(job.result() for job in jobs)
            seconds.append((time.perf_counter() - started, time.process_time() - cpu))
        closing = time.perf_counter()
    print(
        json.dumps(
            {
                "seconds": statistics.median(s for s, _ in seconds),
                "cpu_ms_per_call": statistics.median(c for _, c in seconds) / calls * 1000,
                "calls": calls,
                "all_calls": calls * 3 + calls // ALIGNMENTS,
                "close": time.perf_counter() - closing,
            }
        )
    )


def _run(mode: str, threads: int, wait: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        home, served = Path(folder) / "home", Path(folder) / "served"
        env = {**os.environ, "PYTHONPATH": str(ROOT), "DSPY_CACHEDIR": str(Path(folder) / "cache")}
        if mode == "remote":
            code = (
                "import sys; from pathlib import Path; "
                "from program.tracing.server.http_server import TraceServer; "
                "from program.tracing.server.trace_store import TraceStore; "
                "door = TraceServer(TraceStore(Path(sys.argv[1])), key='k' * 40); "
                "print(door.address, flush=True); door.serve_forever()"
            )
            command = [sys.executable, "-c", code, str(served / "traces.db")]
            server = stack.enter_context(
                subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(server.terminate)
            assert server.stdout is not None
            env |= {"WANDB_BASE_URL": server.stdout.readline().strip(), "WANDB_API_KEY": "k" * 40}
        command = [sys.executable, __file__, "--child", mode, str(threads), str(wait), str(home)]
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        files = [*home.glob("traces.db*"), *served.glob("traces.db*")]
        found["bytes"] = sum(file.stat().st_size for file in files) if files else 0
        return found


def overhead() -> None:
    """Print the table of modes."""
    print("mode    threads  model ms  s per 8 alignments  vs off  CPU ms/call  bytes/call  close s")
    for threads in (1, 16):
        for wait in (MODEL_SECONDS, 0.0):
            base = None
            for mode in ("off", "local", "remote"):
                found = _run(mode, threads, wait)
                base = base or found["seconds"]
                print(
                    f"{mode:7} {threads:7} {wait * 1000:9.0f} {found['seconds']:19.2f} "
                    f"{found['seconds'] / base:7.2f} {found['cpu_ms_per_call']:12.2f} "
                    f"{found['bytes'] / found['all_calls']:11.0f} {found['close']:8.2f}"
                )


def listing(calls: int) -> None:
    """Fill a store and print how long pages take."""
    from program.tracing.server.calls import write_end, write_start
    from program.tracing.server.trace_store import TraceStore
    from program.tracing.view import personas, reader
    from program.tracing.view.page.json_routes import answer_page

    project, users, per_trace = "local/personaagent", 1_000, 20
    with tempfile.TemporaryDirectory() as folder:
        store = TraceStore(Path(folder) / "traces.db")
        started = time.perf_counter()
        for first in range(0, calls, 10_000):
            with store.database.writing() as db:
                for number in range(first, min(first + 10_000, calls)):
                    trace = number - number % per_trace
                    root = number == trace
                    name = "align" if root else ("step" if number == trace + 1 else "lm")
                    identity = str(uuid.UUID(int=number + 1))
                    record = {
                        "project_id": project,
                        "id": identity,
                        "trace_id": str(uuid.UUID(int=trace + 1)),
                        "parent_id": None if root else str(uuid.UUID(int=trace + 1)),
                        "op_name": f"weave:///{project}/op/personaagent.{name}:x",
                        "started_at": 1.7e9 + number,
                        "ended_at": 1.7e9 + number + 0.5,
                        "attributes": {"user_id": f"user-{trace // per_trace % users:04}", "run_id": "r"},
                        "inputs": {"messages": [{"role": "user", "content": f"question {number} " * 8}]},
                        "output": {"said": ["an answer"]},
                        "summary": {"usage": {"m": {"requests": 1, "total_tokens": 300}}},
                        "exception": '{"type":"E","message":"","traceback":""}'
                        if number % 997 == 0
                        else None,
                    }
                    write_start(store.database, db, record)
                    write_end(store.database, db, record)
        filled = time.perf_counter() - started
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        print(f"{calls:,} calls written in {filled:.0f} s, {size / calls:.0f} bytes each")
        newest = [{"field": "started_at", "direction": "desc"}]
        failed = {"$expr": {"$eq": [{"$getField": "summary.weave.status"}, {"$literal": "error"}]}}
        views: dict[str, Any] = {
            "page of 100 newest traces": lambda: reader.list_traces(store, limit=100),
            "page of 100 newest calls": lambda: store.calls(project, sort_by=newest, limit=100),
            "page of 100 calls, last page": lambda: store.calls(project, limit=100, offset=calls - 100),
            "page of 100 traces of one user": lambda: reader.list_traces(
                store, user_id="user-0500", limit=100
            ),
            "page of 100 failed traces": lambda: reader.list_traces(store, failed=True, limit=100),
            "page of 100 failed calls": lambda: store.calls(project, query=failed, limit=100),
            "one trace": lambda: reader.show_trace(store, str(uuid.UUID(int=1))),
            "count of all calls": lambda: store.count(project),
            "personas of one user": lambda: personas.persona_history(store, "user-0500"),
            "page: first 200 users": lambda: answer_page(store, "/view/users"),
            "page: runs": lambda: answer_page(store, "/view/runs"),
        }
        for title, view in views.items():
            times = []
            for _ in range(5):
                began = time.perf_counter()
                view()
                times.append(time.perf_counter() - began)
            print(f"{title:34} {statistics.median(times) * 1000:8.1f} ms (first {times[0] * 1000:.1f})")
        store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, help="fill a store with so many calls and time its pages")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]), float(options.child[2]), Path(options.child[3]))
    elif options.calls:
        listing(options.calls)
    else:
        overhead()
