"""Shared options of the commands, and the store and model that they select."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal
from uuid import uuid4

import typer

from program.console import (
    FAILED,
    INTERRUPTED,
    LogLines,
    err,
    exit_code,
    explain,
    log_lines,
    print_error,
    print_unexpected,
)
from program.home import home
from program.printer import discard
from program.spans import about
from program.store import UserStore

MAX_INTEGER = 2**31 - 1
"""The largest number that a database takes as a version or a limit."""

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Any model DSPy knows (openai/gpt-4o-mini, ollama_chat/llama3.2, ...), gguf:PATH, "
        "python:MODULE:NAME for an LM object of your own, or embedded."
    ),
]
Store = Annotated[
    str | None,
    typer.Option(help="Database: a file or a SQLAlchemy URL. Default: users.db in the data directory."),
]
MaxCalls = Annotated[int | None, typer.Option(min=0, help="Stop before more model calls than this.")]
MaxUsd = Annotated[float | None, typer.Option(min=0, help="Stop when this many US dollars are spent.")]
MaxCallsPerUser = Annotated[
    int | None, typer.Option(min=0, help="End a user's alignment before more model calls than this.")
]
MaxUsdPerUser = Annotated[
    float | None, typer.Option(min=0, help="End a user's alignment when this many US dollars are spent.")
]
PriceIn = Annotated[
    float | None,
    typer.Option(min=0, help="US dollars for a million input tokens, for a model without a known price."),
]
PriceOut = Annotated[
    float | None, typer.Option(min=0, help="US dollars for a million output tokens of such a model.")
]
User = Annotated[str, typer.Argument(help="User id; see `personaagent users list`.", show_default=False)]
Wikipedia = Annotated[
    bool, typer.Option(help="Let the agent search Wikipedia; its search words leave this machine.")
]
MaxInputChars = Annotated[
    int, typer.Option(help="Cut responses and texts in prompts that are longer than this, with a note.")
]
Trace = Annotated[
    str, typer.Option(help="Destination of traces: local (this machine), off, or wandb:ENTITY/PROJECT.")
]
Adapter = Annotated[
    Literal["schema", "json", "text"] | None,
    typer.Option(help="How replies are asked for: schema, json or text; default: what the model takes."),
]
TraceContent = Annotated[Literal["full", "hash", "none"], typer.Option(help="How traces store users' texts.")]


@contextmanager
def open_store(location: str | None) -> Iterator[UserStore]:
    """Open the store at ``location``, by default ``users.db`` in the data directory."""
    with UserStore(location or home() / "users.db") as store:
        yield store


@contextmanager
def model_in_use(
    spec: str | None,
    trace: str = "off",
    trace_content: Literal["full", "hash", "none"] = "full",
    adapter: str | None = None,
) -> Iterator[Any]:
    """Use a language model inside the block and trace its calls; ``None`` is the embedded model."""
    import dspy

    from program.models.adapter import use_adapter
    from program.models.cache import use_cache
    from program.models.resolve import resolve_lm
    from program.tracing.setup import open_tracer

    lm = resolve_lm(spec)
    use_cache(home())
    with (
        dspy.context(lm=lm, disable_history=True, trace=None),
        use_adapter(adapter),
        open_tracer(trace, home=home(), content=trace_content),
        about(run_id=uuid4().hex[:12]),
    ):
        yield lm


def guarded(main: Any) -> int:
    """Run a command line and return its exit code; an error prints one line."""
    # DSPy warns about every truncated answer; the results report those that matter.
    logging.getLogger("dspy").setLevel(logging.ERROR)
    # A stream that is not UTF-8 shows the characters that it does not have as escapes.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # Libraries without a handler of their own print through this one.
    logging.lastResort = LogLines(logging.WARNING)
    with log_lines("personaagent"), log_lines("dspy"):
        code = _run(main)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            discard(stream)
            code = code or FAILED
    return code


def _run(main: Any) -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        err.print_text("Interrupted. Finished work is stored.")
        return INTERRUPTED
    except BaseException as error:  # noqa: BLE001 - a panic of an extension is no `Exception`
        line = explain(error)
        if line is None:
            print_unexpected(error)
        else:
            print_error(line)
        return exit_code(error)
    return 0
