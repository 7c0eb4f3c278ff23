"""What the embedded model costs and how its two ways to answer compare.

    python benchmarks/bench_embedded.py                       # speed and memory
    python benchmarks/bench_embedded.py --data FOLDER --n 60  # and accuracy on real histories
    python benchmarks/bench_embedded.py --model gguf:PATH     # of another file

FOLDER holds `user_top_100_history.json` and `user_top_100_history_label.json` (OPPU layout). Both
ways see the same content: a persona of the user's most frequent answers, and four BM25 items.
Times are of one process on a shared machine: compare rows of one run only.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
from rank_bm25 import BM25Okapi

from program.memory.interaction import Interaction
from program.memory.semantic import Profile, count_facts, render
from program.models.adapter import adapter_for
from program.models.embedded import EmbeddedLM
from program.signatures import Conclude
from program.task import Task, get_task

_ITEM_CHARS = 150


def timed(label: str, work: Callable[[], Any]) -> None:
    start, cpu = time.perf_counter(), time.process_time()
    work()
    print(f"{label:<44}{time.perf_counter() - start:8.2f} s{time.process_time() - cpu:8.2f} cpu-s")


def speed(model: str) -> None:
    lm = EmbeddedLM(model, max_tokens=32)
    text = "The fox met a traveller at the edge of the wood and asked for news. " * 30
    stars = dspy.Signature("review -> stars: Literal[1, 2, 3, 4, 5]")
    rate = dspy.Predict(stars.with_updated_fields("stars", desc="1 to 5"))
    timed("load and first short answer", lambda: lm("Say yes."))
    timed("500-token prompt, cold, 32 tokens out", lambda: lm(f"1 {text}"))
    # Not word for word the same, which would be answered from memory.
    timed("the same and a word, from the prefix cache", lambda: lm(f"1 {text} Why?"))
    timed("decision among 5 labels, 500 tokens, cold", lambda: rate(review=f"2 {text}", lm=lm.decisions))
    timed(
        "the same and a word, from the prefix cache", lambda: rate(review=f"2 {text} Why?", lm=lm.decisions)
    )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def cases(folder: Path, task: Task, n: int) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the inputs of the final answer and the user's true one, one query for each user first."""
    users = json.loads((folder / "user_top_100_history.json").read_text())
    labels = json.loads((folder / "user_top_100_history_label.json").read_text())["golds"]
    gold = {label["id"]: label["output"] for label in labels}
    turns = [(user, query) for turn in range(9) for user in users for query in user["query"][turn : turn + 1]]
    for user, query in turns[:n]:
        items = [task.read_item(item) for item in user["profile"]]
        history = [Interaction(id=str(i), user_id="u", query=q, response=r) for i, (q, r) in enumerate(items)]
        asked = task.read_query(query["input"])
        scores = BM25Okapi([item.query.split() for item in items]).get_scores(asked.split())
        best = sorted(range(len(items)), key=lambda i: (-scores[i], -i))[:4]
        found = "\n".join(
            f"{task.response_noun}: {items[i].response} | {items[i].query[:_ITEM_CHARS]}" for i in best
        )
        facts = render(Profile(facts=count_facts(history, task.response_type)))
        yield (
            {
                "persona": f"You are the personal assistant of one user.\n{facts}",
                "task": task.question,
                "steps": f"1. search_memory gave:\n{found}",
                "query": asked[:_ITEM_CHARS],
            },
            gold[query["id"]],
        )


def answers(model: str, folder: Path, task: Task, n: int) -> None:
    lm = EmbeddedLM(model, max_tokens=48)
    desc = f"the final answer, {task.answer.hint}"
    signature = Conclude.with_updated_fields("answer", type_=task.answer.annotation, desc=desc)
    rows = list(cases(folder, task, n))
    for name, way in (("JSON schema", lm), ("likelihood", lm.decisions)):
        right, start, cpu = 0, time.perf_counter(), time.process_time()
        with dspy.context(lm=lm, adapter=adapter_for(lm)):
            for inputs, truth in rows:
                act = dspy.Predict(signature.with_instructions(inputs["persona"]))
                fields = {key: value for key, value in inputs.items() if key != "persona"}
                right += str(act(**fields, lm=way).answer) == truth
        took, used = time.perf_counter() - start, time.process_time() - cpu
        print(
            f"{task.name} {name:<12} accuracy {right / len(rows):.3f} (n={len(rows)})"
            f"  {took / len(rows):.2f} s {used / len(rows):.2f} cpu-s an item"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--task", default="LaMP-2M")
    parser.add_argument("--n", type=int, default=60)
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    if options.data:
        answers(options.model, options.data, get_task(options.task), options.n)
    else:
        speed(options.model)


if __name__ == "__main__":
    main()
