"""What the command line shares: where it prints, how it fails, how it shows progress.

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
"""Exit codes: success; data or store; wrong command line or settings; model; some users failed."""

out = Console(soft_wrap=True, highlight=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """Print plain data to stdout as JSON; dates become ISO text."""
    out.print_json(json.dumps(value, default=str, ensure_ascii=False), indent=2)


def exit_code(error: BaseException) -> int:
    """Return the exit code that tells this failure apart."""
    import dspy

    from program.errors import ConfigError

    if isinstance(error, dspy.LMError | UnparsableAnswerError | AlignmentFailedError | BudgetExceededError):
        return MODEL
    return USAGE if isinstance(error, ConfigError) else FAILED


def explain(error: BaseException) -> str | None:
    """Return one line that says what failed and what to do; ``None`` for what nobody foresaw."""
    from program.models.resolve import explain as explain_model

    if isinstance(error, PersonaAgentError):
        return str(error)
    return explain_model(error)


class ProgressBar:
    """A progress bar on stderr, beside it the calls, tokens and cost of a tracker."""

    def __init__(self, bar: Progress, tracker: UsageTracker, total: int) -> None:
        self._bar = bar
        self._tracker = tracker
        self._task = bar.add_task("", total=total, usage="")

    def advance(self, word: str) -> None:
        """Move on by one and show a word about what is next."""
        self._bar.update(self._task, advance=1, description=word)
        self.refresh()

    def resize(self, total: int, *, done: int = 0) -> None:
        """Set how many there are in all, and how many are done already."""
        self._bar.update(self._task, total=total, completed=done)
        self._bar.start()

    def refresh(self) -> None:
        """Show the tracker's current sums."""
        self._bar.update(self._task, usage=str(self._tracker.total()))


@contextmanager
def progress(tracker: UsageTracker, total: int, unit: str) -> Iterator[ProgressBar]:
    """Show progress on stderr, with calls, tokens, cost and the time left.

    Args:
        tracker: Its sums are shown beside the bar.
        total: How often the bar will advance; 0 if it is not known yet: `ProgressBar.resize` then shows it.
        unit: What is counted, such as "users".
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
    shown = Progress(*columns, console=err, transient=not err.is_terminal)
    bar = ProgressBar(shown, tracker, total)
    if total:
        shown.start()

    def watch() -> None:
        while not stopped.wait(0.5):
            bar.refresh()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield bar
    finally:
        stopped.set()
        watcher.join()
        bar.refresh()
        if shown.live.is_started:
            shown.stop()
