"""Traces DSPy through its callbacks: model calls, optimizers and evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any

from dspy.utils.callback import BaseCallback
from dspy.utils.callback_context import ACTIVE_CALL_ID

from program.spans import _about, _on_call, _tracer
from program.tracing.weave.tracer import WeaveTracer, _WeaveSpan

_UNSET: Any = object()

# The settings of a model call that are stored. All others are dropped: any may hold a key, such as
# `extra_headers`, `aws_secret_access_key`, `vertex_credentials` or `default_headers`.
_STORED_SETTINGS = frozenset(
    "cache frequency_penalty logprobs max_completion_tokens max_output_tokens max_retries max_tokens model "
    "model_type n num_retries parallel_tool_calls presence_penalty reasoning_effort rollout_id seed stop "
    "stream temperature timeout top_k top_logprobs top_p truncation verbosity".split()
)


class TraceCallback(BaseCallback):  # type: ignore[misc]
    """Opens a span for every model call, for `dspy.Evaluate`, and for DSPy's own optimizers.

    DSPy's thread pools pass only DSPy's settings to their workers. The callback is one of those
    settings, so it passes the tracer, the open spans and the attributes along.
    """

    def __init__(self, tracer: WeaveTracer) -> None:
        self._trace = tracer
        self._calls: dict[str, tuple[_WeaveSpan, Token[Any] | None]] = {}
        self._variables: tuple[ContextVar[Any], ...] = (_tracer, _about, tracer._stack._call_stack)
        self._root_context = self._capture(tracer)
        self._contexts: dict[str, list[tuple[ContextVar[Any], Any]]] = {}
        self._tokens: dict[str, list[tuple[ContextVar[Any], Token[Any]]]] = {}

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Open a span with the messages; `report_call` adds the usage."""
        if _tracer.get(_UNSET) is not self._trace:
            return
        settings = _settings({**getattr(instance, "kwargs", {}), **(inputs.get("kwargs") or {})})
        model = getattr(instance, "model", "")
        span = self._trace.span("lm", {"model": model, "messages": _messages(inputs), "settings": settings})
        span.__enter__()
        self._calls[call_id] = (span, _on_call.set(span.record_usage))

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Close the span with the completion."""
        self._close(call_id, {"said": _completion(outputs)}, exception)

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Open a span for an optimizer, unless it is one of ours, which open their own."""
        if not type(instance).__module__.startswith("optimizers."):
            self._open(call_id, "compile", {"optimizer": type(instance).__name__})
        self._contexts[call_id] = self._capture()

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Close the optimizer's span."""
        self._contexts.pop(call_id, None)
        self._close(call_id, {}, exception)

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Open a span for one evaluation of a program."""
        devset = inputs.get("devset") or getattr(instance, "devset", None) or ()
        self._open(call_id, "evaluate", {"examples": len(devset)})
        self._contexts[call_id] = self._capture()

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Close the evaluation's span with the score."""
        self._contexts.pop(call_id, None)
        self._close(call_id, {"score": getattr(outputs, "score", None)}, exception)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """In one of DSPy's worker threads, restore the context of the thread that started it."""
        if _tracer.get(_UNSET) is _UNSET:
            context = self._contexts.get(ACTIVE_CALL_ID.get() or "", self._root_context)
            self._tokens[call_id] = [(variable, variable.set(value)) for variable, value in context]
        elif _tracer.get(_UNSET) is self._trace:
            self._contexts[call_id] = self._capture()

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Reset the worker thread's context."""
        self._contexts.pop(call_id, None)
        for variable, token in reversed(self._tokens.pop(call_id, [])):
            variable.reset(token)

    def _capture(self, tracer: WeaveTracer | None = None) -> list[tuple[ContextVar[Any], Any]]:
        values = {_tracer: tracer or _tracer.get(None)}
        return [(variable, values.get(variable, variable.get(None))) for variable in self._variables]

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


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    stored = {name: value for name, value in settings.items() if name in _STORED_SETTINGS}
    if (response_format := settings.get("response_format")) is not None:
        stored["response_format"] = _kind_of_format(response_format)
    return stored


def _kind_of_format(response_format: Any) -> str:
    """Return ``json_object``, ``json_schema`` or ``text``; the name of a class."""
    if isinstance(response_format, Mapping):
        return str(response_format.get("type", "json_schema"))
    return getattr(response_format, "__name__", type(response_format).__name__)


def _messages(inputs: Mapping[str, Any]) -> Any:
    request = inputs.get("request")
    # Nothing else of a request: it may hold headers.
    return inputs.get("messages") or getattr(request, "messages", None) or inputs.get("prompt")


def _completion(outputs: Any) -> Any:
    """Return the text of DSPy's typed response; other outputs, such as lists, as they are."""
    text = getattr(outputs, "text", None)
    return text if isinstance(text, str) else outputs
