"""Tracing: `weave` writes spans, `server` stores them, `view` shows them. Start with `setup.open_tracer`."""

from typing import Any

from program.renamed import find_renamed


def __getattr__(name: str) -> Any:
    return find_renamed(__name__, name)
