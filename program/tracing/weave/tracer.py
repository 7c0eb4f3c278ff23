"""The tracer: writes spans as Weave calls.

A span is written when it opens and when it closes, so a killed process loses no finished span and
its open spans stay visible. Open spans are on Weave's own call stack, so they nest with Weave ops.
"""

from __future__ import annotations

import contextvars
import threading
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from program.spans import _about
from program.tracing.content import ContentPolicy
from program.tracing.weave import private_api, usage_totals
from program.tracing.weave.circuit_breaker import CircuitBreaker
from program.tracing.weave.publisher import Publisher

_ATTRIBUTES = ("user_id", "run_id", "persona_version", "step")
_KINDS = {"lm": "llm", "tool": "tool", "agent": "agent", "textual_loss": "scorer", "gate": "scorer"}


class WeaveTracer:
    """Writes spans through a Weave client. Safe to share between threads.

    Never raises into the program; see `CircuitBreaker`.

    Args:
        client: Weave's current client.
        policy: How much of each text is stored.
        process: Name of this process, stored with every span; only for the local store.
    """

    def __init__(self, client: Any, policy: ContentPolicy, *, process: str | None = None) -> None:
        self.client = client
        self.project = f"{client.entity}/{client.project}"
        self.policy = policy
        self.publisher = Publisher(client, policy)
        self.records = CircuitBreaker()
        self._objects = CircuitBreaker()
        self._process = process
        self._stack = private_api.call_stack()
        self._ops: dict[str, str] = {}
        self._open: dict[str, _WeaveSpan] = {}
        self._lock = threading.Lock()

    def span(self, name: str, inputs: Mapping[str, Any]) -> _WeaveSpan:
        """Return a span, which opens on ``__enter__``."""
        return _WeaveSpan(self, name, inputs)

    def interrupt(self) -> None:
        """Close all open spans as interrupted."""
        for span in list(self._open.values()):
            span.close(InterruptedError("the trace was closed before this step ended"))

    @property
    def dropped(self) -> int:
        """Number of records and objects that could not be written."""
        return self.records.failed + self._objects.failed

    def _op(self, name: str) -> str:
        """Return the reference of the op for spans called ``name``; its plain name if publishing fails."""
        if name not in self._ops:

            def publish() -> None:
                import weave

                def step() -> None: ...

                op = weave.op(step, name=f"personaagent.{name}", enable_code_capture=False)
                self._ops[name] = str(weave.publish(op, name=f"personaagent.{name}").uri)

            self._objects.attempt(publish)
        return self._ops.get(name, f"personaagent.{name}")

    def _attributes(self, name: str) -> dict[str, Any]:
        attributes = {key: value for key, value in _about.get().items() if value is not None}
        attributes["weave"] = {"client": "personaagent", "kind": _KINDS.get(name, "")}
        if isinstance(attributes.get("user_id"), str):
            attributes["user_id"] = self.policy.user(attributes["user_id"])
        if self._process:
            attributes["process"] = self._process
        return attributes


class _WeaveSpan:
    """One open span."""

    def __init__(self, tracer: WeaveTracer, name: str, inputs: Mapping[str, Any]) -> None:
        self.id = str(uuid.uuid4())
        self.totals: usage_totals.Totals = {"status_counts": {"success": 0, "error": 0}}
        self._tracer = tracer
        self._name = name
        self._inputs = inputs
        self._outputs: dict[str, Any] = {}
        self._own: usage_totals.Totals = {}
        self._about: contextvars.Token[Mapping[str, Any]] | None = None
        self._user_id: str | None = None
        self._call: Any = None
        self._parent: Any = None
        self._sent = False

    def __enter__(self) -> _WeaveSpan:
        attributes = {key: self._inputs[key] for key in _ATTRIBUTES if key in self._inputs}
        if self._name == "step" and "number" in self._inputs:
            attributes["step"] = self._inputs["number"]
        if attributes:
            self._about = _about.set({**_about.get(), **attributes})
        self._tracer.records.attempt(self._start)
        return self

    def __exit__(self, *exc: object) -> None:
        self.close(exc[1] if isinstance(exc[1], BaseException) else None)
        if self._about is not None:
            try:
                _about.reset(self._about)
            except ValueError:
                # A generator may be closed in another context than the one that opened it.
                self._about = None

    def output(self, **values: Any) -> None:
        """Add output values; later values win."""
        self._outputs.update(values)

    def record_usage(self, entry: Mapping[str, Any]) -> None:
        """Set the usage of this span's model call from DSPy's history entry; the last one counts."""
        self._own = usage_totals.of_call(entry)

    def close(self, error: BaseException | None) -> None:
        """Close the span. Closing it again changes nothing."""
        if self._tracer._open.pop(self.id, None) is None:
            return
        self._tracer._stack.pop_call(self.id)
        self._tracer.records.attempt(lambda: self._end(error))

    def _start(self) -> None:
        tracer, now = self._tracer, datetime.now(timezone.utc)
        self._parent = parent = tracer._stack.get_current_call()
        user_id = _about.get().get("user_id")
        self._user_id = user_id if isinstance(user_id, str) else None
        self._call = private_api.make_call(
            op_name="",
            project_id=tracer.project,
            id=self.id,
            trace_id=parent.trace_id if parent is not None else self.id,
            parent_id=parent.id if parent is not None else None,
            inputs={},
            started_at=now,
        )
        # On the stack before it is sent, so that a lost record does not break the tree below it.
        tracer._stack.push_call(self._call)
        tracer._open[self.id] = self
        if parent is not None and parent.id not in tracer._open:
            # The parent is a Weave op, whose summary Weave adds up from this list.
            parent._children.append(self._call)
        self._call._op_name = op_name = tracer._op(self._name)
        start = {
            "project_id": tracer.project,
            "id": self.id,
            "op_name": op_name,
            "display_name": self._title(),
            "trace_id": self._call.trace_id,
            "parent_id": self._call.parent_id,
            "thread_id": None,
            "turn_id": None,
            "started_at": now,
            "attributes": tracer._attributes(self._name),
            "inputs": self._stored(self._inputs),
            "otel_dump": None,
            "wb_user_id": None,
            "wb_run_id": None,
            "wb_run_step": None,
        }
        tracer.client.server.call_start({"start": start})
        self._sent = True

    def _end(self, error: BaseException | None) -> None:
        tracer, call = self._tracer, self._call
        with tracer._lock:
            usage_totals.add(self.totals, self._own)
            for child in call._children:
                usage_totals.add(self.totals, child.summary or {})
            self.totals["status_counts"]["error" if error else "success"] += 1
            call.summary = self.totals
            if self._parent is not None and (parent := tracer._open.get(self._parent.id)):
                usage_totals.add(parent.totals, self.totals)
        if not self._sent:
            # An end without a start makes Weave wait for minutes.
            return
        output = self._stored(self._outputs)
        end = {
            "project_id": tracer.project,
            "id": self.id,
            "trace_id": call.trace_id,
            "started_at": call.started_at,
            "ended_at": datetime.now(timezone.utc),
            "exception": None if error is None else tracer.policy.error(error),
            "output": output or None,
            "summary": self.totals,
            "is_eval": False,
            "wb_run_step_end": None,
        }
        tracer.client.server.call_end({"end": end})

    def _stored(self, values: Mapping[str, Any]) -> dict[str, Any]:
        tracer = self._tracer
        plain = tracer.policy.clean(values)
        return tracer.publisher.link(self._name, self._user_id, plain, tracer._objects.attempt)

    def _title(self) -> str | None:
        if self._name == "step" and "number" in self._inputs:
            return f"step {self._inputs['number']}"
        if self._name == "lm":
            return f"lm {self._inputs.get('model')}"
        return None
