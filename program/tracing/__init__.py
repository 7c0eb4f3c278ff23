"""Spans of the program, and where they go. Only this package may import weave."""

from program.tracing.span import Span, Tracer, about, report_call, span, tracing

__all__ = ["Span", "Tracer", "about", "report_call", "span", "tracing"]
