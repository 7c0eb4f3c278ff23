"""Named spans around the steps of the program, for a tracer to record.

Without a tracer a span does nothing. The tracer is a context variable: asyncio tasks, and threads
that run in a copied context, keep it and their parent span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol


class Span(Protocol):
    """An open span."""

    def output(self, **values: Any) -> None:
        """Add output values; later values win."""
        ...


class Tracer(Protocol):
    """Receives spans. A tracer must never raise, block or change the traced program."""

    def span(self, name: str, inputs: Mapping[str, Any]) -> _SpanContext:
        """Open a span under the current one. An exception that leaves it marks it as failed."""
        ...


class _SpanContext(Protocol):
    def __enter__(self) -> Span: ...

    def __exit__(self, *exc: object) -> bool | None: ...


class _NoSpan:
    def __enter__(self) -> _NoSpan:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def output(self, **values: Any) -> None:
        return None


_NO_SPAN = _NoSpan()
# No default: "never set in this context" differs from "switched off".
_tracer: ContextVar[Tracer | None] = ContextVar("personaagent_tracer")
_about: ContextVar[Mapping[str, Any]] = ContextVar("personaagent_about", default={})  # noqa: B039
_on_call: ContextVar[Callable[[Mapping[str, Any]], None] | None] = ContextVar(
    "personaagent_on_call", default=None
)


def span(name: str, **inputs: Any) -> _SpanContext:
    """Open a span called ``name``. Does nothing without a tracer.

    Names in use: ``align``, ``step``, ``simulate``, ``agent``, ``predict``, ``tool``,
    ``textual_loss``, ``update``, ``gate``, ``persona``, ``profile``, ``ask``, ``evaluate``. The tracer
    adds ``lm`` for model calls and ``compile`` for DSPy's own optimizers.

    Example:
        >>> with span("ask", query="Which tea?") as trace:
        ...     trace.output(answer="Mint.")
    """
    tracer = _tracer.get(None)
    return _NO_SPAN if tracer is None else tracer.span(name, inputs)


@contextmanager
def about(**attributes: Any) -> Iterator[None]:
    """Add attributes to every span inside: ``user_id``, ``run_id``, ``persona_version``.

    Traces are searched, grouped and deleted by these attributes. Inner values win over outer ones;
    copied contexts keep them.

    Example:
        >>> with about(user_id="ana"), span("ask"):
        ...     pass
    """
    token = _about.set({**_about.get(), **attributes})
    try:
        yield
    finally:
        _about.reset(token)


@contextmanager
def tracing(tracer: Tracer | None) -> Iterator[None]:
    """Send the spans of this context to ``tracer``; ``None`` switches tracing off."""
    token = _tracer.set(tracer)
    try:
        yield
    finally:
        _tracer.reset(token)


def report_call(entry: Mapping[str, Any]) -> None:
    """Report the usage of the model call in progress to the tracer.

    Args:
        entry: DSPy's history entry of the call. A repeated report replaces the first.
    """
    listener = _on_call.get()
    if listener is not None:
        listener(entry)
