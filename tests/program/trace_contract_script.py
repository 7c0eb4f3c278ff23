"""Uses Weave's public API on a client, in process or over HTTP, and prints what it reads back.

Run as ``python trace_contract_script.py in-process FILE`` or ``... http``. Prints one JSON object
without values that differ between runs.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

from program.tracing.weave import private_api

private_api.prepare_environment()

import weave  # noqa: E402 - the environment must be ready before weave is imported


def open_client(transport: str) -> Any:
    if transport == "http":
        return weave.init("local/contract")
    from program.tracing.server.trace_store import TraceStore

    client = private_api.local_client(TraceStore(Path(sys.argv[2])), "local/contract")
    private_api.install_client(client)
    return client


@weave.op
def leaf(n: int) -> dict[str, Any]:
    if n == 2:
        raise ValueError("two is too many")
    return {"n": n, "model": "m", "usage": {"prompt_tokens": 10 * n, "completion_tokens": 1}}


@weave.op
def tree(count: int) -> int:
    succeeded = 0
    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(copy_context().run, leaf, n) for n in range(count)]:
            succeeded += job.exception() is None
    return succeeded


@weave.op
def match(output: str, expected: str) -> dict[str, bool]:
    return {"right": output == expected}


def status(call: Any) -> str:
    return str(getattr(call.summary["weave"]["status"], "value", call.summary["weave"]["status"]))


def calls_part(c: Any) -> dict[str, Any]:
    with weave.attributes({"user_id": "u1", "step": 1}), weave.thread("user:u1"):
        _, root = tree.call(4)
    other = c.create_call("by hand", {"text": "ä" * 300})
    c.finish_call(other, {"score": 0.5})
    c.flush()
    root.set_display_name("the tree")
    c.add_cost("m", prompt_token_cost=0.5, completion_token_cost=1.0)
    c.flush()
    below = list(c.get_calls(filter={"parent_ids": [root.id]}))
    root_read = c.get_call(root.id, include_costs=True)
    failed = {"$expr": {"$eq": [{"$getField": "summary.weave.status"}, {"$literal": "error"}]}}
    high = {"$expr": {"$gt": [{"$getField": "output.score"}, {"$literal": 0.1}]}}
    down = [{"field": "inputs.n", "direction": "desc"}]
    answers = {
        "count": len(c.get_calls()),
        "names": sorted(call.func_name for call in c.get_calls(page_size=2)),
        "below": sorted((call.inputs["n"], status(call)) for call in below),
        "same trace": {call.trace_id for call in below} == {root.trace_id},
        "attributes": [root_read.attributes["user_id"], root_read.thread_id, below[0].attributes["step"]],
        "root": [root_read.display_name, root_read.output, status(root_read)],
        "usage": dict(root_read.summary["usage"]["m"]),
        "cost": root_read.summary["weave"]["costs"]["m"]["prompt_tokens_total_cost"],
        "error": json.loads(next(call.exception for call in below if call.exception))["message"],
        "failed": [call.inputs["n"] for call in c.get_calls(query=failed)],
        "high": [call.output["score"] for call in c.get_calls(query=high)],
        "sorted": [
            call.inputs["n"] for call in c.get_calls(filter={"op_names": [leaf.ref.uri]}, sort_by=down)
        ],
        "columns": [call.output for call in c.get_calls(columns=["output"], query=high)],
        "text": c.get_call(other.id).inputs["text"] == "ä" * 300,
    }
    root.feedback.add_note("good")
    root.feedback.add_reaction("👍")
    root.feedback.add("custom", {"x": 1})
    c.flush()
    answers["feedback"] = sorted(f.feedback_type for f in c.get_call(root.id).feedback)
    c.purge_costs([row.id for row in c.query_costs()])
    answers["costs left"] = len(c.query_costs())
    c.delete_call(other)
    answers["after deletion"] = len(c.get_calls())
    return answers


def objects_part(c: Any) -> dict[str, Any]:
    first = weave.publish(weave.StringPrompt("You are A"), name="persona-u1")
    weave.publish(weave.StringPrompt("You are B"), name="persona-u1", tags=["aligned"], aliases=["best"])
    rows = [{"q": f"q{n}", "a": n} for n in range(3)]
    dataset = weave.publish(weave.Dataset(name="interactions-u1", rows=rows))
    c.flush()
    read = weave.ref(dataset.uri).get()
    answers: dict[str, Any] = {
        "content": [weave.ref(f"persona-u1:{v}").get().content for v in ("v0", "v1", "best", "latest")],
        "again": weave.publish(weave.StringPrompt("You are A"), name="persona-u1").digest == first.digest,
        "latest": weave.ref("persona-u1:latest").get().content,
        "digests": [first.digest, dataset.digest],
        "rows": [dict(row) for row in read.rows],
        "row": read.rows[1].ref.get()["a"],
        "tags": [c.get_tags(first), sorted(c.get_aliases(weave.ref("persona-u1:v1"))), c.list_tags()],
    }
    read.add_rows([{"q": "q3", "a": 3}])
    answers["rows after"] = len(weave.ref("interactions-u1:latest").get().rows)
    big = weave.publish(weave.Dataset(name="big", rows=[{"n": n} for n in range(1500)]))
    answers["big"] = [len(big.get().rows), big.get().rows[1499]["n"]]
    c.remove_aliases(weave.ref("persona-u1:v1"), ["best"])
    c.delete_object_version(first)
    try:
        first.get()
    except Exception as error:  # noqa: BLE001 - weave's own type differs by version
        answers["deleted"] = "deleted" in str(error).lower()
    return answers


def evaluation_part(c: Any) -> dict[str, Any]:
    import asyncio

    class Parrot(weave.Model):
        word: str

        @weave.op
        def predict(self, question: str) -> str:
            return self.word

    rows = [{"question": "q1", "expected": "yes"}, {"question": "q2", "expected": "no"}]
    evaluation = weave.Evaluation(name="parrots", dataset=rows, scorers=[match])
    result = asyncio.run(evaluation.evaluate(Parrot(word="yes")))
    log = weave.EvaluationLogger(name="imperative", model="rag", dataset="LaMP_like")
    log.log_example(inputs={"q": 1}, output="x", scores={"accuracy": 1.0})
    log.log_summary({"n": 1})
    c.flush()
    return {
        "right": result["match"]["right"],
        "evaluations": sorted(
            call.display_name or "" for call in c.get_calls() if call.func_name == "Evaluation.evaluate"
        )[-1],
        "scored": len(c.get_calls(scored_by="match")),
    }


if __name__ == "__main__":
    opened = open_client(sys.argv[1])
    parts = {"calls": calls_part, "objects": objects_part, "evaluation": evaluation_part}
    sys.stdout.write(json.dumps({name: part(opened) for name, part in parts.items()}, sort_keys=True))
    opened.finish(use_progress_bar=False)
