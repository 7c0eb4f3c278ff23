"""What the gate decided for the users of an evaluation run, and what that was worth on held-out queries.

    .venv/bin/python benchmarks/bench_gate_outcomes.py RUN [--gated LABEL] [--always LABEL] [--before LABEL]

For each outcome: the number of users, and the gain in log-likelihood of the true answer on their held-out
queries, with 95 % intervals over users: of the gated method over the first persona, and of the same method
with the gate ``always``, which keeps the first proposal whatever the tests say. Prints a table in Markdown.
The defaults are the labels of the main table in `eval/RESULTS.md`.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from eval.metrics import LOG_LIKELIHOOD, likelihood_rows
from eval.records import QueryRecord, Run, read_run
from eval.statistics import difference
from program.task import Task, get_task

OUTCOMES = ("confirmed", "provisional", "rolled back", "refused", "no-op")


def outcome_of(run: Run, label: str, user_id: str) -> str:
    """Return what the last step of a user's alignment decided."""
    steps = run.prepared[label, user_id].alignment_steps
    return str(steps[-1]["decision"]["outcome"]) if steps else "no-op"


def gain(run: Run, task: Task, after: str, before: str, queries: Sequence[QueryRecord]) -> str:
    """Return the mean difference in log-likelihood with its interval over users."""
    both = [
        (query, first.probabilities, second.probabilities)
        for query in queries
        if (first := run.answer(before, query)) is not None
        and (second := run.answer(after, query)) is not None
        and first.probabilities
        and second.probabilities
    ]
    if not both:
        return "-"
    golds = [str(query.gold) for query, _, _ in both]
    first_rows = likelihood_rows([first for _, first, _ in both], golds, task)
    second_rows = likelihood_rows([second for _, _, second in both], golds, task)
    users = [query.user_id for query, _, _ in both]
    result = difference(second_rows, first_rows, users, LOG_LIKELIHOOD).interval
    if result.low is None:
        return f"{result.value:+.2f} (n = {result.n})"
    return f"{result.value:+.2f} [{result.low:+.2f}, {result.high:+.2f}] (n = {result.n})"


def main() -> None:
    """Print the table of one run folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--gated", default="grounded:tools=false")
    parser.add_argument("--always", default="grounded:tools=false,gate=always")
    parser.add_argument("--before", default="grounded:tools=false,steps=0")
    options = parser.parse_args()
    run = read_run(options.run)
    task = get_task(run.manifest.task)
    users: dict[str, list[str]] = defaultdict(list)
    for label, user_id in run.prepared:
        if label == options.gated:
            users[outcome_of(run, label, user_id)].append(user_id)
    proposals = Counter(
        check["decision"]["outcome"]
        for (label, _), record in run.prepared.items()
        if label == options.gated
        for step in record.alignment_steps
        for check in step["checks"]
    )
    print("| decided for a user | users | proposals | held-out gain, gated | held-out gain, always |")
    print("|---|--:|--:|---|---|")
    for outcome in (*OUTCOMES, "all"):
        chosen = (
            users.get(outcome, [])
            if outcome != "all"
            else [name for group in users.values() for name in group]
        )
        queries = [query for query in run.queries if query.user_id in set(chosen)]
        cells = [gain(run, task, label, options.before, queries) for label in (options.gated, options.always)]
        tested = proposals[outcome] if outcome != "all" else sum(proposals.values())
        print(f"| {outcome} | {len(chosen)} | {tested} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
