"""Output, exit codes and progress bars of the command line.

Results go to stdout, everything else to stderr, so that output can be piped. Both streams are a `Printer`:
users' and models' texts are printed as they are, never as markup or control characters.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.highlighter import JSONHighlighter
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from program.errors import (
    AlignmentFailedError,
    BudgetExceededError,
    PersonaAgentError,
    UnparsableAnswerError,
)
from program.printer import Printer, cell, to_json
from program.text import one_line
from program.text_safety import printable
from program.usage import UsageTracker

OK, FAILED, USAGE, MODEL, PARTIAL, BUG = 0, 1, 2, 3, 4, 5
"""Exit codes: success; data or store error; invalid usage or settings; model error; some failed; a bug."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, as of every program of a shell; Typer reports it so, too."""

DEBUG = "PERSONAAGENT_DEBUG"
"""The environment variable that shows the traceback of an unexpected error."""

_MAX_REASON = 200
_MAX_LABEL = 40
"""Characters of a progress bar's description."""

out = Printer()
err = Printer(stderr=True)


def print_json(value: Any) -> None:
    """Print ``value`` to stdout as JSON; dates become text."""
    text = to_json(value, ascii_only=not out.encoding.startswith("utf"))
    if out.is_terminal:
        out.print(JSONHighlighter()(text))
    else:
        out.print_text(text)


def print_error(line: str) -> None:
    """Print what is wrong and what to do, as one line on stderr."""
    err.print_line(f"error: {line}", style="red")


class LogLines(logging.Handler):
    """Prints each log record as one line on stderr, without a traceback, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of a record."""
        err.print_line(f"{record.levelname.lower()}: {record.getMessage()}", style="yellow")


@contextmanager
def log_lines(name: str) -> Iterator[None]:
    """Print the warnings of a logger on stderr inside the block, and nowhere else."""
    logger = logging.getLogger(name)
    propagate, logger.propagate = logger.propagate, False
    handlers, logger.handlers = logger.handlers, [LogLines(logging.WARNING)]
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.propagate = propagate


def confirm(question: str) -> bool:
    """Ask a question on stderr; without standard input the answer is no."""
    import typer

    return sys.stdin is not None and typer.confirm(printable(question), err=True)


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error."""
    import dspy

    from program.errors import ConfigError

    if isinstance(error, dspy.LMError | UnparsableAnswerError | AlignmentFailedError | BudgetExceededError):
        return MODEL
    if isinstance(error, ConfigError):
        return USAGE
    return BUG if explain(error) is None else FAILED


def print_unexpected(error: BaseException) -> None:
    """Print an error that nothing explains as one line; it may hold a user's text and is escaped."""
    if print_traceback(error):
        step = "report it with the traceback above"
    else:
        step = f"run the command again with `{DEBUG}=1` set, and report the traceback"
    # Unlike `str`, this cannot fail on an exception whose own text fails.
    reason = one_line("".join(traceback.format_exception_only(error)), _MAX_REASON)
    print_error(f"unexpected {reason} - this is a bug: {step}")


def print_traceback(error: BaseException) -> bool:
    """Print an error's traceback, escaped, if ``PERSONAAGENT_DEBUG`` asks for it; return whether it does."""
    if os.environ.get(DEBUG, "0") in ("", "0"):
        return False
    err.print_text("".join(traceback.format_exception(error)), end="")
    return True


def explain(error: BaseException) -> str | None:
    """Return one line: what failed and what to do; ``None`` for an unexpected error."""
    from program.models.resolve import explain as explain_model

    if isinstance(error, PersonaAgentError):
        return str(error)
    return explain_model(error) or (_explain_system(error) if isinstance(error, OSError) else None)


def _explain_system(error: OSError) -> str:
    """Return the line for a file, folder or stream that the system refuses."""
    reason = error.strerror or one_line(error, _MAX_REASON) or type(error).__name__
    names = " and ".join(f"`{name}`" for name in (error.filename, error.filename2) if name is not None)
    return f"cannot use {names}: {reason}; check the path and its permissions" if names else reason


class ProgressBar:
    """A progress bar on stderr, with the calls, tokens and cost of a tracker."""

    def __init__(self, bar: Progress, tracker: UsageTracker, total: int) -> None:
        self._bar = bar
        self._tracker = tracker
        self._task = bar.add_task("", total=total, usage="")

    def advance(self, description: str) -> None:
        """Advance by one and show a short description of the current item."""
        self._bar.update(self._task, advance=1, description=cell(description[:_MAX_LABEL]).plain)
        self.refresh()

    def resize(self, total: int, *, completed: int = 0) -> None:
        """Set the total and the completed count, and show the bar."""
        self._bar.update(self._task, total=total, completed=completed)
        self._bar.start()

    def refresh(self) -> None:
        """Show the tracker's current totals."""
        self._bar.update(self._task, usage=str(self._tracker.total()))


@contextmanager
def progress(tracker: UsageTracker, total: int, unit: str) -> Iterator[ProgressBar]:
    """Show progress on stderr, with calls, tokens, cost and the time left.

    Args:
        tracker: Its totals are shown beside the bar.
        total: How often the bar advances. With 0 the bar is hidden until `ProgressBar.resize`.
        unit: The counted things, such as "users".
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn(f"{{task.completed}}/{{task.total}} {unit}", markup=False),
        TextColumn("{task.fields[usage]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    stopped = threading.Event()
    display = Progress(*columns, console=err, transient=not err.is_terminal)
    bar = ProgressBar(display, tracker, total)
    if total:
        display.start()

    def refresh_until_stopped() -> None:
        while not stopped.wait(0.5):
            bar.refresh()

    watcher = threading.Thread(target=refresh_until_stopped, daemon=True)
    watcher.start()
    try:
        yield bar
    finally:
        stopped.set()
        watcher.join()
        bar.refresh()
        if display.live.is_started:
            display.stop()


@contextmanager
def reading(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show on stderr how much of a file is read, until the block ends.

    Yields:
        A function of the position and the size, ``None`` if it is unknown.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(cell(name[:_MAX_LABEL]).plain, total=None)
        yield lambda position, total: bar.update(task, completed=position, total=total)
