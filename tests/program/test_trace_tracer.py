"""Tests of the tracer: the call tree, failures, and the content policy."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import dspy
import pytest

from program.errors import ConfigError
from program.models.scripted import scripted_lm
from program.spans import about, span, tracing
from program.tracing.content import ContentPolicy, redact_secrets
from program.tracing.forget import forget_user
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT, open_tracer, store_path
from program.tracing.weave.circuit_breaker import CircuitBreaker
from program.tracing.weave.evaluations import EvaluatedQuery, log_evaluation
from program.tracing.weave.tracer import WeaveTracer
from program.usage import UsageTracker, track_usage


def read(home: Path) -> list[dict[str, Any]]:
    store = TraceStore(store_path(home))
    try:
        return store.calls(LOCAL_PROJECT)
    finally:
        store.close()


def short(call: dict[str, Any]) -> str:
    return str(call["summary"]["weave"]["trace_name"]).removeprefix("personaagent.")


def tree(calls: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    names = {call["id"]: short(call) for call in calls}
    return [(short(call), names.get(call["parent_id"])) for call in calls]


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[WeaveTracer]:
    with open_tracer("local", home=tmp_path) as opened:
        assert opened is not None
        yield opened


def answering() -> dspy.LM:
    return scripted_lm(lambda system, user: "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]")


def test_off_traces_nothing_and_imports_nothing(tmp_path: Path) -> None:
    with open_tracer("off", home=tmp_path) as opened, span("ask", query="q") as trace:
        trace.output(answer="a")
    assert opened is None
    assert list(tmp_path.iterdir()) == []


def test_data_directory_is_the_default_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONAAGENT_HOME", str(tmp_path / "data"))
    with open_tracer("local"), span("ask", query="q"):
        pass
    assert [short(call) for call in read(tmp_path / "data")] == ["ask"]


@pytest.mark.parametrize("destination", ["", "wandb", "wandb:project", "wandb:a/b/c", "remote", "LOCAL"])
def test_unknown_destination_is_rejected(tmp_path: Path, destination: str) -> None:
    with (
        pytest.raises(ConfigError, match="local, off or wandb:ENTITY/PROJECT"),
        open_tracer(destination, home=tmp_path),
    ):
        pass


def test_nested_spans_become_a_tree_of_calls(tmp_path: Path) -> None:
    with (
        open_tracer("local", home=tmp_path),
        about(user_id="ana", run_id="r1"),
        span("align", plan={"calls": 3}) as outer,
    ):
        with span("step", number=2), span("simulate", interaction_id="i1") as trace:
            trace.output(answer="jazz", score=1.0)
        with pytest.raises(ValueError, match="odd"), span("gate"):
            raise ValueError("odd")
        outer.output(done=True)
    align, step, simulate, gate = read(tmp_path)
    assert tree([align, step, simulate, gate]) == [
        ("align", None),
        ("step", "align"),
        ("simulate", "step"),
        ("gate", "align"),
    ]
    assert {c["trace_id"] for c in (align, step, simulate, gate)} == {align["id"]}
    assert (align["inputs"], align["output"]) == ({"plan": {"calls": 3}}, {"done": True})
    assert simulate["output"] == {"answer": "jazz", "score": 1.0}
    assert (step["display_name"], simulate["attributes"]["step"]) == ("step 2", 2)
    assert "step" not in gate["attributes"]
    assert all(c["attributes"]["user_id"] == "ana" for c in (align, step, simulate, gate))
    assert json.loads(gate["exception"])["type"] == "ValueError"
    assert align["summary"]["status_counts"] == {"success": 3, "error": 1}
    assert align["summary"]["weave"]["status"] == "descendant_error"


def test_usage_of_model_calls_adds_up_in_parents(tmp_path: Path) -> None:
    lm = answering()
    tracker = UsageTracker()
    with (
        open_tracer("local", home=tmp_path),
        track_usage(tracker, lm),
        span("ask"),
        track_usage(UsageTracker(parent=tracker)),
    ):
        for question in ("one?", "two?"):
            dspy.Predict("question -> answer")(question=question)
    ask, *leaves = read(tmp_path)
    assert [short(leaf) for leaf in leaves] == ["lm", "lm"]
    assert "two?" in leaves[1]["inputs"]["messages"][-1]["content"]
    assert "yes" in json.dumps(leaves[1]["output"])
    used = ask["summary"]["usage"][lm.model]
    total = tracker.total()
    assert (used["requests"], used["prompt_tokens"], used["completion_tokens"]) == (
        2,
        total.input_tokens,
        total.output_tokens,
    )
    assert ask["summary"]["cost"] == {"usd": 0.0, "unpriced": 2, "cache_hits": 0}


def test_spans_of_sixteen_threads_keep_their_parents(tmp_path: Path) -> None:
    def work(worker: int) -> None:
        with about(user_id=f"u{worker}"), span("simulate", interaction_id=str(worker)):
            for n in range(10):
                with span("predict", n=n), span("tool"):
                    pass

    with open_tracer("local", home=tmp_path), span("align"), ThreadPoolExecutor(16) as pool:
        for job in [pool.submit(copy_context().run, work, n) for n in range(16)]:
            job.result()
    calls = read(tmp_path)
    assert len(calls) == 1 + 16 * 21
    assert [call for call in calls if call["parent_id"] is None] == calls[:1]
    parents = {call["id"]: call for call in calls}
    for call in calls[1:]:
        above = parents[call["parent_id"]]
        assert above["attributes"].get("user_id") in (None, call["attributes"]["user_id"])
        assert short(above) == {"simulate": "align", "predict": "simulate", "tool": "predict"}[short(call)]
    assert calls[0]["summary"]["status_counts"]["success"] == len(calls)


async def test_asyncio_tasks_keep_their_own_branches(tmp_path: Path) -> None:
    async def work(n: int) -> None:
        with span("simulate", n=n):
            await asyncio.sleep(0.001 * (n % 3))
            with span("tool", n=n):
                await asyncio.sleep(0)

    with open_tracer("local", home=tmp_path), span("align"):
        await asyncio.gather(*(work(n) for n in range(20)))
    calls = {call["id"]: call for call in read(tmp_path)}
    tools = [call for call in calls.values() if short(call) == "tool"]
    assert len(tools) == 20
    assert all(calls[tool["parent_id"]]["inputs"] == tool["inputs"] for tool in tools)


def test_dspys_thread_pools_keep_the_tree_and_the_user(tmp_path: Path) -> None:
    class Program(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            with span("agent", question=question):
                return self.predict(question=question)

    devset = [dspy.Example(question=f"q{n}", answer="yes").with_inputs("question") for n in range(12)]
    evaluate = dspy.Evaluate(devset=devset, metric=lambda e, p: p.answer == e.answer, num_threads=4)
    with (
        open_tracer("local", home=tmp_path),
        dspy.context(lm=answering()),
        about(user_id="ana"),
        span("align"),
    ):
        assert evaluate(Program()).score == 100.0
    calls = read(tmp_path)
    assert tree(calls).count(("agent", "evaluate")) == 12
    assert tree(calls).count(("lm", "agent")) == 12
    assert tree(calls)[:2] == [("align", None), ("evaluate", "align")]
    assert {call["attributes"].get("user_id") for call in calls} == {"ana"}


def test_weave_ops_and_spans_nest_in_each_other(tmp_path: Path) -> None:
    with open_tracer("local", home=tmp_path) as tracer:
        import weave

        @weave.op
        def helper() -> int:
            with span("tool"):
                return 1

        with span("agent"):
            helper()
    assert tracer is not None
    calls = read(tmp_path)
    assert tree(calls) == [("agent", None), ("helper", "agent"), ("tool", "helper")]
    assert [call["summary"]["status_counts"]["success"] for call in calls] == [3, 2, 1]


def test_failing_store_never_raises_and_warns_once(
    tracer: WeaveTracer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with span("ask"):
        pass
    monkeypatch.setattr(tracer.client.server, "call_start", full)
    monkeypatch.setattr(tracer.client.server, "call_end", full)
    with caplog.at_level(logging.WARNING):
        for n in range(50):
            with span("ask", query="private words") as trace, span("agent"):
                trace.output(answer=n)
    assert tracer.dropped >= 50
    assert [record.message for record in caplog.records] == [
        "tracing failed (OSError); the run goes on without its trace"
    ]


def test_unserializable_values_are_replaced_by_their_type(tmp_path: Path) -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

        __str__ = __repr__

    loop: list[Any] = []
    loop.append(loop)
    with (
        open_tracer("local", home=tmp_path) as tracer,
        span("ask", a=Hostile(), b=loop, c=dspy.Predict("a -> b")),
    ):
        pass
    assert tracer is not None
    assert tracer.dropped == 0
    assert read(tmp_path)[0]["inputs"]["a"] == "<Hostile>"


@pytest.mark.parametrize("content", ["none", "hash"])
def test_content_policy_keeps_user_text_out_of_the_file(tmp_path: Path, content: Any) -> None:
    words = ["the secret query", "the secret answer", "ana@mail", "secret persona"]
    with (
        open_tracer("local", home=tmp_path, content=content),
        about(user_id=words[2]),
        dspy.context(lm=answering()),
    ):
        with span("step", number=1) as trace:
            dspy.Predict("question -> answer")(question=words[0])
            decision = {"accept": True, "reason": "every rewrite is kept"}
            batch = [{"interaction_id": "i1", "truth": words[1], "score": 0.5}]
            changed = {
                "persona_before": words[3],
                "persona_after": words[3] + "!",
                "probabilities": {words[1]: 1.0},
            }
            trace.output(step={**changed, "decision": decision, "simulations": batch})
        with pytest.raises(ValueError, match="secret"), span("persona", text=words[3], version=1):
            raise ValueError(words[1])
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert [word for word in words if word.encode() in stored] == []
    step = read(tmp_path)[0]["output"]["step"]
    assert step["decision"] == {"accept": True, "reason": "every rewrite is kept"}
    assert step["simulations"][0]["score"] == 0.5
    if content == "hash":
        assert step["persona_before"] != step["persona_after"]


def test_default_redaction_removes_secrets_and_is_replaceable(tmp_path: Path) -> None:
    query = "write to ana@example.org with sk-abcdefghijklmnop1234 or 4111 1111 1111 1111, call 2026"
    with open_tracer("local", home=tmp_path / "a"), span("ask", query=query):
        pass
    with (
        open_tracer("local", home=tmp_path / "b", redact=lambda text: text.upper()),
        span("ask", query="quiet"),
    ):
        pass
    (first,), (second,) = read(tmp_path / "a"), read(tmp_path / "b")
    assert first["inputs"]["query"] == "write to [redacted] with [redacted] or [redacted], call 2026"
    assert second["inputs"]["query"] == "QUIET"


def test_redaction_takes_linear_time() -> None:
    started = time.perf_counter()
    for text in ("a" * 200_000 + "@", "1 " * 100_000, "a.b-" * 50_000 + "@" + "c." * 50_000):
        redact_secrets(text)
    assert time.perf_counter() - started < 5.0


def test_fingerprints_depend_on_the_installation() -> None:
    policies = [ContentPolicy(content="hash", key=key) for key in (b"a" * 32, b"b" * 32)]
    assert policies[0].clean("comedy") != policies[1].clean("comedy")
    assert policies[0].clean("comedy") == policies[0].clean("comedy")


def test_personas_and_batches_are_published_as_weave_objects(tmp_path: Path) -> None:
    import weave

    def step(before: str, after: str) -> dict[str, Any]:
        batch = [{"interaction_id": "i1", "query": "night", "truth": "jazz"}]
        return {"persona_before": before, "persona_after": after, "candidate": after, "simulations": batch}

    with open_tracer("local", home=tmp_path) as tracer:
        assert tracer is not None
        for user in ("ana", "bob"):
            with about(user_id=user), span("align"):
                for n, pair in enumerate(
                    [("You play.", "You play jazz."), ("You play jazz.", "You play.")], 1
                ):
                    with span("step", number=n) as trace:
                        trace.output(step=step(*pair))
        name = f"persona-{tracer.policy.pseudonym('ana')}"
        tracer.client.flush()
        calls = [call for call in read(tmp_path) if short(call) == "step"]
        first = calls[0]["output"]["step"]
        assert weave.ref(first["persona_before"]).get().content == "You play."
        assert weave.ref(f"{name}:v1").get().content == "You play jazz."
        assert first["candidate"] == first["persona_after"]
        assert [dict(row) for row in weave.ref(calls[0]["output"]["interactions"]).get().rows] == [
            {"id": "i1", "query": "night", "response": "jazz"}
        ]
        # The same text as Weave itself would publish it is the same version.
        assert weave.publish(weave.StringPrompt("You play jazz."), name=name).uri == first["persona_after"]
        rows = [{"id": "i1", "query": "night", "response": "jazz"}]
        own = f"interactions-{tracer.policy.pseudonym('bob')}"
        assert weave.publish(weave.Dataset(name=own, rows=rows)).uri == calls[2]["output"]["interactions"]
        # Equal texts of two users are objects of their own.
        assert calls[2]["output"]["step"]["persona_before"] != first["persona_before"]


def test_evaluation_is_written_as_a_weave_evaluation(tmp_path: Path) -> None:
    rows = [
        EvaluatedQuery(user_id="ana", query_id="1", query="night?", answer="jazz", scores={"accuracy": 1.0}),
        EvaluatedQuery(user_id="bob", query_id="2", query="day?", answer=None, error="LMTimeoutError"),
    ]
    with open_tracer("local", home=tmp_path) as tracer:
        assert tracer is not None
        log_evaluation(
            tracer,
            name="LaMP-like 2M, run 7",
            method="rag",
            settings={"k": 4},
            rows=rows,
            summary={"accuracy": {"value": 1.0, "n": 1, "failed": 1}},
        )
        tracer.client.flush()
        (evaluation,) = [c for c in tracer.client.get_calls() if c.func_name == "Evaluation.evaluate"]
        assert evaluation.display_name == "LaMP-like 2M, run 7"
        assert evaluation.output["output"]["accuracy"] == {"value": 1.0, "n": 1, "failed": 1}
        assert evaluation.inputs["model"].k == 4
        predictions = [c for c in tracer.client.get_calls() if c.func_name == "Evaluation.predict_and_score"]
    assert [dict(p.output["scores"]) for p in predictions] == [{"accuracy": 1.0}, {}]
    assert [p.attributes["user_id"] for p in predictions] == ["ana", "bob"]


def test_forgetting_a_user_leaves_no_byte_in_the_traces(tmp_path: Path) -> None:
    with open_tracer("local", home=tmp_path), dspy.context(lm=answering()):
        for user in ("ana", "bob"):
            with about(user_id=user), span("step", number=1) as trace:
                dspy.Predict("question -> answer")(question=f"question of {user} " * 20)
                changed = {"persona_before": f"persona of {user}", "persona_after": f"new persona of {user}"}
                batch = [{"interaction_id": "i1", "query": f"asked by {user}", "truth": f"said by {user}"}]
                trace.output(step={**changed, "simulations": batch})
    assert forget_user(tmp_path, "ana") == 2
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert [what for what in (b"of ana", b"by ana", b'"ana"') if what in stored] == []
    assert {call["attributes"]["user_id"] for call in read(tmp_path)} == {"bob"}
    assert forget_user(tmp_path / "nothing", "ana") == 0


def test_open_spans_are_closed_as_interrupted(tmp_path: Path) -> None:
    with open_tracer("local", home=tmp_path):
        span("align").__enter__()
    (call,) = read(tmp_path)
    assert json.loads(call["exception"])["type"] == "InterruptedError"


def test_span_without_a_tracer_is_not_recorded(tmp_path: Path) -> None:
    with open_tracer("local", home=tmp_path), span("align"):
        thread = threading.Thread(target=lambda: span("tool").__enter__())
        thread.start()
        thread.join()
        with tracing(None), span("tool"):
            pass
    assert tree(read(tmp_path)) == [("align", None)]


def test_pauses_double_while_the_destination_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    now, attempts = 0.0, []
    monkeypatch.setattr("program.tracing.weave.circuit_breaker.time.monotonic", lambda: now)
    breaker = CircuitBreaker()

    def die() -> None:
        attempts.append(now)
        raise ConnectionError

    for now in range(100):  # noqa: B007 - the clock
        breaker.attempt(die)
    # Three tries, then pauses of 5, 10, 20, 40 and 80 seconds.
    assert attempts == [0, 1, 2, 7, 17, 37, 77]
    assert breaker.failed == 100
    now = 200.0
    breaker.attempt(lambda: None)
    breaker.attempt(die)
    assert attempts[-1] == 200.0


def test_call_is_stored_even_if_its_objects_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_tracer("local", home=tmp_path) as tracer, about(user_id="ana"):
        assert tracer is not None

        def refuse(*_: object, **__: object) -> None:
            raise ConnectionError

        monkeypatch.setattr("weave.publish", refuse)
        with span("step", number=1) as trace:
            trace.output(step={"persona_before": "You are A", "persona_after": "You are B"})
    (call,) = read(tmp_path)
    assert call["op_name"] == "personaagent.step"
    assert call["output"]["step"]["persona_after"] == "You are B"
