"""The local trace store: Weave's wire API over one SQLite file."""

from program.tracing.server.trace_store import TraceStore

__all__ = ["TraceStore"]
