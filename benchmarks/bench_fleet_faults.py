"""Many users against a model server that fails: what completes, what fails with which message, what is lost.

    python benchmarks/bench_fleet_faults.py [--users 50] [--faults 1000] [--concurrency 64] [--preset paper]

The server (`loopback.py --faults`) refuses, breaks off, delays and garbles replies. A run is repeated, as a
schedule would, until every user is aligned or nothing changes. The full size is ``--users 500 --faults
10000``. Ends with 1 if a user is missing, or if a text of a fault is in a persona or in feedback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import dspy
from fleet_setup import Loopback, fill
from loopback import FEEDBACK, GARBAGE, LINE

from optimizers import UserResult, align_users
from optimizers.config import PRESETS
from program import UserStore
from program.console import explain
from program.usage import UsageTracker, track_usage


async def align(
    store: UserStore, ids: list[str], arguments: argparse.Namespace, home: Path, lm: Any
) -> list[UserResult]:
    results = await align_users(
        store,
        ids,
        PRESETS[arguments.preset],
        lm=lm,
        concurrency=arguments.concurrency,
        home=home,
        wikipedia=False,
    )
    return [result async for result in results]


def spoiled(store: UserStore, user_id: str) -> list[str]:
    """Return what a user's persona and feedback hold that no good reply said."""
    texts = []
    for row in store.alignments(user_id):
        for step in row.record.get("steps", ()):
            feedback = (item["text"] for item in step["feedback"])
            texts += [text for text in feedback if text and text.strip() != FEEDBACK]
    persona = store.persona(user_id).text
    texts += [bad for bad in GARBAGE if bad and bad.strip() in persona]
    return texts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.1)
    parser.add_argument("--preset", choices=list(PRESETS), default="grounded")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    dspy.configure(disable_history=True)
    logging.getLogger("personaagent").addHandler(logging.NullHandler())
    logging.getLogger("personaagent").propagate = False
    options = ("--latency", str(arguments.latency), "--faults", str(arguments.faults))
    with (
        Loopback(*options) as server,
        tempfile.TemporaryDirectory() as name,
        UserStore(Path(name) / "users.db") as store,
    ):
        lm = dspy.LM("openai/gpt-4o-mini", api_base=server.base, api_key="none", cache=False)
        ids = fill(store, arguments.users)
        code = report(store, ids, arguments, Path(name), lm, server)
    sys.exit(code)


def report(
    store: UserStore, ids: list[str], arguments: argparse.Namespace, home: Path, lm: Any, server: Loopback
) -> int:
    missing: list[str] = []
    for number in range(1, arguments.runs + 1):
        started, tracker = time.perf_counter(), UsageTracker()
        with track_usage(tracker, lm):
            results = asyncio.run(align(store, ids, arguments, home, lm))
        seconds, seen = time.perf_counter() - started, server.counts()
        statuses = Counter(result.status for result in results)
        # A run that is stopped names nobody whom it did not try; the next one does.
        missing = [user_id for user_id in ids if user_id not in {result.user_id for result in results}]
        print(f"run {number}: {seconds:.0f} s, {dict(statuses)}, {tracker.total().calls:,} answers counted")
        print(
            f"  server: {seen['requests']:,} requests, {seen['replies']:,} replies, faults {seen['faults']}"
        )
        messages = Counter(_message(result) for result in results if result.error is not None)
        for message, times in messages.most_common():
            print(f"  {times} x {message}", flush=True)
        if set(statuses) <= {"aligned", "done"}:
            break
    bad = {user_id: texts for user_id in ids if (texts := spoiled(store, user_id))}
    learned = sum(LINE in store.persona(user_id).text for user_id in ids)
    unreadable = sum(
        bool(rollout["error"])
        for user_id in ids
        for row in store.alignments(user_id)
        for step in row.record.get("steps", ())
        for rollout in step["simulations"]
    )
    print(f"{len(ids)} users: {len(missing)} without a result, {learned} learned the line")
    print(f"  {unreadable} rollouts of batches could not be read")
    print(f"  {len(bad)} users with feedback or a persona from a fault")
    if bad:
        print(json.dumps(bad, indent=1)[:2000])
    return int(bool(missing or bad))


def _message(result: UserResult) -> str:
    assert result.error is not None
    line = explain(result.error) or f"{type(result.error).__name__}: {result.error}"
    return f"{result.status}: {line.replace(result.user_id, 'USER')[:300]}"


if __name__ == "__main__":
    main()
