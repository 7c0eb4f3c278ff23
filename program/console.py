"""What the command line shares: where it prints, how it fails, how it shows progress.

Results go to stdout, everything else to stderr, so that output can be piped.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
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
from program.ledger import Ledger

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


@contextmanager
def progress(ledger: Ledger, total: int, what: str) -> Iterator[Callable[[str], None]]:
    """Show progress on stderr with calls, tokens, cost and the time left.

    Args:
        ledger: Its sums are shown beside the bar.
        total: How many times the returned function will be called.
        what: The unit, such as "users".

    Yields:
        A function that moves the bar by one and shows a word about what is next.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn(f"{{task.completed}}/{{task.total}} {what}"),
        TextColumn("{task.fields[usage]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    stopped = threading.Event()
    with Progress(*columns, console=err, transient=not err.is_terminal) as bar:
        task = bar.add_task("", total=total, usage="")

        def refresh() -> None:
            used = ledger.total()
            cost = f"${used.usd:.4f}{' or more' if used.unpriced else ''}"
            tokens = used.input_tokens + used.output_tokens
            bar.update(task, usage=f"{used.calls} calls, {tokens:,} tokens, {cost}")

        def watch() -> None:
            while not stopped.wait(0.5):
                refresh()

        def advance(word: str) -> None:
            bar.update(task, advance=1, description=word)
            refresh()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield advance
        finally:
            stopped.set()
            watcher.join()
            refresh()
