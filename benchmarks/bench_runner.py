"""The runner's own cost: an instant method, so that everything measured is ours.

    python benchmarks/bench_runner.py

Gives seconds for 2,000 and for 32,000 answers, and how far the larger run is from linear (bound: 1.2).
Each size runs three times in turn, the fastest counts: other work on the machine only adds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eval.contracts import Answer, EvalUser, Query, UserView
from eval.manifest import make_manifest
from eval.methods.base import BaseMethod
from eval.runner import Limits, run_methods
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.task import get_task

SIZES = (2_000, 32_000)
QUERIES = 20
BOUND = 1.2
REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Instant(BaseMethod):
    """Answers without thinking."""

    name: ClassVar[str] = "instant"

    def answer(self, opened: UserView, query: Query) -> Answer:
        return Answer(text="comedy")


def users(answers: int) -> list[EvalUser]:
    made = []
    for number in range(answers // QUERIES):
        name = f"user{number}"
        item = Interaction(id="h", user_id=name, query="a film", response="comedy")
        queries = tuple(Query(id=f"q{i}", user_id=name, text="a film", gold="comedy") for i in range(QUERIES))
        made.append(EvalUser(user_id=name, history=(item,), queries=queries))
    return made


def seconds(answers: int, *, resumed: bool = False) -> float:
    """Time one run; with ``resumed`` the time to continue a finished one."""
    task, data, lm = get_task("LaMP-2M"), users(answers), scripted_lm(lambda system, user: "")
    methods = {"instant": Instant()}
    manifest = make_manifest(task=task, data={}, methods=methods, lm=lm)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(1 + resumed):
            started = time.perf_counter()
            outcome = run_methods(
                data, methods, task=task, manifest=manifest, out=Path(folder), lm=lm, limits=Limits(threads=2)
            )
        assert outcome.complete
        return time.perf_counter() - started


def main() -> int:
    seconds(200)
    best = {size: min(seconds(size) for _ in range(REPEATS)) for size in SIZES}
    small, large = SIZES
    ratio = best[large] / (best[small] * large / small)
    for size in SIZES:
        print(f"{size:>6} answers: {best[size]:6.2f} s, {1e3 * best[size] / size:.3f} ms each")
    print(f"{large:>6} answers, all there already: {seconds(large, resumed=True):6.2f} s")
    print(f"times linear: {ratio:.2f} (bound {BOUND})")
    return int(ratio > BOUND)


if __name__ == "__main__":
    sys.exit(main())
