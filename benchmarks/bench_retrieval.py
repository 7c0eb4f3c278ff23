"""What each retriever finds, on real histories or on the sample of the demo; no language model.

    python benchmarks/bench_retrieval.py                                # the made-up sample
    python benchmarks/bench_retrieval.py --data FOLDER --task LaMP-2M   # real histories
    python benchmarks/bench_retrieval.py --data FOLDER --dense          # and MiniLM, which needs torch
    python benchmarks/bench_retrieval.py --data FOLDER --against hybrid --latest 10

FOLDER holds `user_top_100_history.json` and its labels (OPPU layout). Of the four items that rank
first for a query, `share` carry the true label, and `vote` says how often most of them do (a tie goes to
the label that ranks first). With `--latest` the queries are each user's latest interactions, which see only
what came before them. The intervals, 95 %, resample users; `against` another retriever is paired.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eval.data import users
from eval.demo import SAMPLE
from eval.tasks.base import LampTask
from program.memory.base import Retriever
from program.memory.episodic import EpisodicMemory
from program.memory.retrieval import Bm25, Dense, Hybrid, make_retriever
from program.memory.retrieval.static_encoder import StaticEncoder
from program.task import get_task

_K, _FEWEST = 4, 5
Scores = npt.NDArray[np.float64]


def named(name: str) -> Callable[[], Retriever]:
    return lambda: make_retriever(name)


def fused(weight: float, k: int = 60) -> Callable[[], Retriever]:
    return lambda: Hybrid(Bm25(), Dense(StaticEncoder()), k, weight)


class Aged(Hybrid):
    """Hybrid search whose scores `change` by the age of each text, in interactions; the newest has 0."""

    def __init__(self, change: Callable[[Scores, Scores], Scores]) -> None:
        super().__init__(Bm25(), Dense(StaticEncoder()), 60, 4)
        self.change = change

    def scores(self, query: str) -> Scores:
        scores = super().scores(query)
        return self.change(scores, np.arange(len(scores), dtype=np.float64)[::-1])


def fading(strength: float) -> Callable[[], Retriever]:
    """1 / rank, times ``exp(-age / strength)``."""

    def fade(scores: Scores, ages: Scores) -> Scores:
        ranks = 1 + np.searchsorted(np.sort(-scores), -scores, side="left")
        return np.exp(-ages / strength) / ranks

    return lambda: Aged(fade)


def with_recency(weight: float, k: int = 60) -> Callable[[], Retriever]:
    """A third rank, that of the newest."""
    return lambda: Aged(lambda scores, ages: scores + weight / (k + 1 + ages))


ROWS: dict[str, Callable[[], Retriever]] = {
    "recency": named("recency"),
    "lamp-bm25": named("lamp-bm25"),
    "bm25": named("bm25"),
    "static": named("static"),
    "bm25 + static, 1:1": fused(1),
    "bm25 + static, 1:2": fused(2),
    "bm25 + static, 1:4, k = 10": fused(4, 10),
    "hybrid": named("hybrid"),  # 1:4, k = 60
    **{f"hybrid, forgets in {n}": fading(n) for n in (2, 5, 10, 20, 40)},
    **{f"hybrid, recency {n}": with_recency(n) for n in (0.25, 0.5, 1, 2, 4)},
}
TORCH = {"dense": named("dense"), "hybrid:dense": named("hybrid:dense")}


def measure(
    folder: Path, task: LampTask, make: Callable[[], Retriever], latest: int
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Return share and vote of each query, shape ``(queries, 2)``, and each query's user."""
    rows: list[tuple[float, float]] = []
    owners: list[str] = []
    for user in users(folder, task, "oppu"):
        history = list(user.history)
        asked = [(query.text, query.gold, len(history)) for query in user.queries]
        if latest:
            first = max(_FEWEST, len(history) - latest)
            asked = [(item.query, item.response, n) for n, item in enumerate(history) if n >= first]
        memory = None
        for text, gold, n_before in asked:
            # A memory for each length: a ranking by age must not count what comes later.
            if memory is None or len(memory) != n_before:
                memory = EpisodicMemory(
                    user.user_id, history[:n_before], retrieval=make, indexed=task.retrieval_text
                )
            found = [item.response for item in memory.search(task.retrieval_query(text), _K)]
            if gold is None or not found:
                continue
            vote = Counter(found).most_common(1)[0][0]
            rows.append((found.count(gold) / len(found), float(vote == gold)))
            owners.append(user.user_id)
    return np.array(rows), owners


def interval(rows: npt.NDArray[np.float64], owners: list[str]) -> npt.NDArray[np.float64]:
    """Return the 95 % interval of each column's mean, shape ``(2, columns)``."""
    number = {owner: row for row, owner in enumerate(dict.fromkeys(owners))}
    sums = np.zeros((len(number), rows.shape[1] + 1))
    np.add.at(sums, [number[owner] for owner in owners], np.column_stack([rows, np.ones(len(rows))]))
    drawn = sums[np.random.default_rng(0).integers(len(sums), size=(10_000, len(sums)))].sum(axis=1)
    return np.asarray(np.percentile(drawn[:, :-1] / drawn[:, -1:], [2.5, 97.5], axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--task", default="LaMP-2M")
    parser.add_argument("--dense", action="store_true", help="also measure MiniLM; needs torch")
    parser.add_argument("--against", default="static", choices=list(ROWS))
    parser.add_argument("--latest", type=int, default=0, help="ask for so many of each user's interactions")
    options = parser.parse_args()
    task = LampTask.of(get_task(options.task))
    reference, _ = measure(options.data, task, ROWS[options.against], options.latest)
    for name, make in {**ROWS, **(TORCH if options.dense else {})}.items():
        start = time.perf_counter()
        rows, owners = measure(options.data, task, make, options.latest)
        took = time.perf_counter() - start
        share, vote = rows.mean(axis=0)
        low, high = interval(rows - reference, owners)
        print(
            f"{name:<27} share {share:.3f}  vote {vote:.3f}  against {options.against} "
            f"{(rows - reference)[:, 0].mean():+.3f} [{low[0]:+.3f}, {high[0]:+.3f}], "
            f"{(rows - reference)[:, 1].mean():+.3f} [{low[1]:+.3f}, {high[1]:+.3f}]"
            f"  n={len(rows)}, {len(set(owners))} users, {took:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
