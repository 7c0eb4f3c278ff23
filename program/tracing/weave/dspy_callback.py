"""What DSPy tells the tracer: model calls, and optimizers and evaluations that are not ours."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any

from dspy.utils.callback import BaseCallback
from dspy.utils.callback_context import ACTIVE_CALL_ID

from program.spans import _about, _on_call, _tracer
from program.tracing.weave.tracer import WeaveTracer, _WeaveSpan

_UNSET: Any = object()


class TraceCallback(BaseCallback):  # type: ignore[misc]
    """Opens a span for every model call, and for compile and evaluate of DSPy's own optimizers.

    DSPy's thread pools carry DSPy's settings to their workers and nothing else. The callback is
    one of those settings, so it brings the tracer, the open spans and the facts along.
    """

    def __init__(self, tracer: WeaveTracer) -> None:
        self._trace = tracer
        self._calls: dict[str, tuple[_WeaveSpan, Token[Any] | None]] = {}
        self._carried: tuple[ContextVar[Any], ...] = (_tracer, _about, tracer._stack._call_stack)
        self._home = self._captured(installed=tracer)
        self._scopes: dict[str, list[tuple[ContextVar[Any], Any]]] = {}
        self._brought: dict[str, list[tuple[ContextVar[Any], Token[Any]]]] = {}

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Open a leaf with the messages; `report_call` tells it the usage."""
        if _tracer.get(_UNSET) is not self._trace:
            return
        settings = {
            name: value
            for name, value in {**getattr(instance, "kwargs", {}), **(inputs.get("kwargs") or {})}.items()
            if not name.startswith("api_")
        }
        asked = {"model": getattr(instance, "model", ""), "messages": _messages(inputs), "settings": settings}
        leaf = self._trace.span("lm", asked)
        leaf.__enter__()
        self._calls[call_id] = (leaf, _on_call.set(leaf.used))

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Close the leaf with what the model said."""
        self._close(call_id, {"said": _said(outputs)}, exception)

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Open a span for an optimizer; ours have their own."""
        if not type(instance).__module__.startswith("optimizers."):
            self._open(call_id, "compile", {"optimizer": type(instance).__name__})
        self._scopes[call_id] = self._captured()

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Close it."""
        self._scopes.pop(call_id, None)
        self._close(call_id, {}, exception)

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Open a span for one evaluation of a candidate."""
        devset = inputs.get("devset") or getattr(instance, "devset", None) or ()
        self._open(call_id, "evaluate", {"examples": len(devset)})
        self._scopes[call_id] = self._captured()

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Close it with the score."""
        self._scopes.pop(call_id, None)
        self._close(call_id, {"score": getattr(outputs, "score", None)}, exception)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """In a worker thread of DSPy, take up the trace of whoever started it."""
        if _tracer.get(_UNSET) is _UNSET:
            scope = self._scopes.get(ACTIVE_CALL_ID.get() or "", self._home)
            self._brought[call_id] = [(variable, variable.set(value)) for variable, value in scope]
        elif _tracer.get(_UNSET) is self._trace:
            self._scopes[call_id] = self._captured()

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Put the worker thread back as it was."""
        self._scopes.pop(call_id, None)
        for variable, token in reversed(self._brought.pop(call_id, [])):
            variable.reset(token)

    def _captured(self, installed: WeaveTracer | None = None) -> list[tuple[ContextVar[Any], Any]]:
        values = {_tracer: installed or _tracer.get(None)}
        return [(variable, values.get(variable, variable.get(None))) for variable in self._carried]

    def _open(self, call_id: str, name: str, inputs: Mapping[str, Any]) -> None:
        if _tracer.get(_UNSET) is self._trace:
            span = self._trace.span(name, inputs)
            span.__enter__()
            self._calls[call_id] = (span, None)

    def _close(self, call_id: str, output: dict[str, Any], exception: BaseException | None) -> None:
        span, token = self._calls.pop(call_id, (None, None))
        if token is not None:
            _on_call.reset(token)
        if span is not None:
            span.output(**({} if exception else output))
            span.__exit__(None, exception, None)


def _messages(inputs: Mapping[str, Any]) -> Any:
    return inputs.get("messages") or inputs.get("request") or inputs.get("prompt")


def _said(outputs: Any) -> Any:
    """Return what a model said, as text where it is text: DSPy gives a list or a typed response."""
    text = getattr(outputs, "text", None)
    return text if isinstance(text, str) else outputs
