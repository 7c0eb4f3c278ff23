"""Output, exit codes and progress bars of the command line.

Results go to stdout, everything else to stderr, so that output can be piped.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from program.errors import (
    AlignmentFailedError,
    BudgetExceededError,
    PersonaAgentError,
    UnparsableAnswerError,
)
from program.usage import UsageTracker

OK, FAILED, USAGE, MODEL, PARTIAL = 0, 1, 2, 3, 4
"""Exit codes: success; data or store error; invalid usage or settings; model error; some users failed."""

out = Console(soft_wrap=True, highlight=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """Print ``value`` to stdout as JSON; dates become text."""
    out.print_json(json.dumps(value, default=str, ensure_ascii=False), indent=2)


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error."""
    import dspy

    from program.errors import ConfigError

    if isinstance(error, dspy.LMError | UnparsableAnswerError | AlignmentFailedError | BudgetExceededError):
        return MODEL
    return USAGE if isinstance(error, ConfigError) else FAILED


def explain(error: BaseException) -> str | None:
    """Return one line: what failed and what to do; ``None`` for an unexpected error."""
    from program.models.resolve import explain as explain_model

    if isinstance(error, PersonaAgentError):
        return str(error)
    return explain_model(error)


class ProgressBar:
    """A progress bar on stderr, with the calls, tokens and cost of a tracker."""

    def __init__(self, bar: Progress, tracker: UsageTracker, total: int) -> None:
        self._bar = bar
        self._tracker = tracker
        self._task = bar.add_task("", total=total, usage="")

    def advance(self, description: str) -> None:
        """Advance by one and show a short description of the current item."""
        self._bar.update(self._task, advance=1, description=description)
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
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn(f"{{task.completed}}/{{task.total}} {unit}"),
        TextColumn("{task.fields[usage]}"),
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
