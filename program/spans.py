"""Where the program says what it is doing: named spans, and nothing about where they go.

Without a tracer a span costs two attribute reads. A tracer is installed per context, so threads
that run in a copied context and asyncio tasks keep their parent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol


class Span(Protocol):
    """An open span."""

    def output(self, **values: Any) -> None:
        """Add to what the span produced; later values win."""
        ...


class Tracer(Protocol):
    """Receives spans. It must never raise into, slow down or change the traced program."""

    def span(self, name: str, inputs: Mapping[str, Any]) -> _SpanContext:
        """Open a span under the current one; leaving it by an exception marks it as failed."""
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
# Without a default, so that "never set here" and "switched off" can be told apart.
_tracer: ContextVar[Tracer | None] = ContextVar("personaagent_tracer")
_about: ContextVar[Mapping[str, Any]] = ContextVar("personaagent_about", default={})  # noqa: B039
_on_call: ContextVar[Callable[[Mapping[str, Any]], None] | None] = ContextVar(
    "personaagent_on_call", default=None
)


def span(name: str, **inputs: Any) -> _SpanContext:
    """Open a span called ``name``; without a tracer this does nothing.

    Names in use: ``align``, ``step``, ``simulate``, ``agent``, ``predict``, ``tool``,
    ``textual_loss``, ``update``, ``gate``, ``persona``, ``profile``, ``ask``, ``evaluate``; the tracer itself
    adds ``lm`` and, for optimizers of others, ``compile``.
    """
    tracer = _tracer.get(None)
    return _NO_SPAN if tracer is None else tracer.span(name, inputs)


@contextmanager
def about(**facts: Any) -> Iterator[None]:
    """Say whom and what the spans inside are about: ``user_id``, ``run_id``, ``persona_version``.

    They become attributes of every span inside, also of spans in copied contexts, and are what
    traces are found, grouped and forgotten by. Inner facts win over outer ones.
    """
    token = _about.set({**_about.get(), **facts})
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
    """Tell the tracer what the model call in progress used, given DSPy's history entry of it.

    Telling it twice counts once.
    """
    listener = _on_call.get()
    if listener is not None:
        listener(entry)
