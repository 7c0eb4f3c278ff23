"""Tests of spans and their attributes, with a tracer of a few lines."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import pytest

from program.spans import _about, _on_call, about, report_call, span, tracing


class RecordingSpan:
    def __init__(self) -> None:
        self.outputs: dict[str, Any] = {}

    def output(self, **values: Any) -> None:
        self.outputs.update(values)


class RecordingTracer:
    """Records the name, inputs, attributes and outputs of each span."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Mapping[str, Any], Mapping[str, Any], RecordingSpan]] = []

    @contextmanager
    def span(self, name: str, inputs: Mapping[str, Any]) -> Iterator[RecordingSpan]:
        opened = RecordingSpan()
        self.spans.append((name, inputs, _about.get(), opened))
        yield opened


def test_span_without_a_tracer_accepts_output_and_lets_errors_pass() -> None:
    with span("ask", query="q") as opened:
        opened.output(answer="a")
    with pytest.raises(ValueError, match="boom"), span("ask"):
        raise ValueError("boom")


def test_tracer_receives_names_inputs_and_outputs() -> None:
    tracer = RecordingTracer()
    with tracing(tracer), span("ask", query="q") as opened:
        opened.output(answer="a", score=0.0)
        opened.output(score=1.0)
    ((name, inputs, _, recorded),) = tracer.spans
    assert (name, inputs) == ("ask", {"query": "q"})
    assert recorded.outputs == {"answer": "a", "score": 1.0}


def test_inner_attributes_win_and_end_with_their_block() -> None:
    tracer = RecordingTracer()
    with tracing(tracer), about(user_id="ana", run_id="r1"):
        with about(user_id="bob"), span("inner"):
            pass
        with span("outer"):
            pass
    attributes = {name: dict(facts) for name, _, facts, _ in tracer.spans}
    assert attributes == {
        "inner": {"user_id": "bob", "run_id": "r1"},
        "outer": {"user_id": "ana", "run_id": "r1"},
    }
    assert _about.get() == {}


def test_attributes_end_when_their_block_raises() -> None:
    with pytest.raises(ValueError, match="boom"), about(user_id="ana"):
        raise ValueError("boom")
    assert _about.get() == {}


def test_tracing_none_switches_an_outer_tracer_off() -> None:
    tracer = RecordingTracer()
    with tracing(tracer):
        with tracing(None), span("hidden"):
            pass
        with span("visible"):
            pass
    assert [name for name, *_ in tracer.spans] == ["visible"]


def test_threads_are_traced_in_a_copied_context_only() -> None:
    tracer = RecordingTracer()

    def work(name: str) -> None:
        with span(name):
            pass

    with tracing(tracer), about(user_id="ana"):
        plain = threading.Thread(target=work, args=("plain",))
        copied = threading.Thread(target=copy_context().run, args=(work, "copied"))
        for thread in (plain, copied):
            thread.start()
            thread.join()
    assert [(name, facts["user_id"]) for name, _, facts, _ in tracer.spans] == [("copied", "ana")]


def test_usage_is_reported_to_the_open_model_call_only() -> None:
    entries: list[Mapping[str, Any]] = []
    report_call({"cost": 1.0})
    token = _on_call.set(entries.append)
    report_call({"cost": 2.0})
    _on_call.reset(token)
    report_call({"cost": 3.0})
    assert entries == [{"cost": 2.0}]
