"""Console: JSON output, exit codes, one-line errors and progress bars."""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone

import dspy
import pytest
from rich.console import Console

from program import console, errors
from program.console import FAILED, MODEL, USAGE, exit_code, explain, print_json, progress
from program.usage import UsageTracker


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), USAGE),
        (errors.UnknownTaskError("x"), USAGE),
        (errors.ModelSetupError("x"), USAGE),
        (errors.DataError("x"), FAILED),
        (errors.UnknownUserError("x"), FAILED),
        (errors.EmptyHistoryError("x"), FAILED),
        (errors.UnparsableAnswerError("x", raw="y"), MODEL),
        (errors.BudgetExceededError("x"), MODEL),
        (errors.AlignmentFailedError("x"), MODEL),
        (dspy.LMServerError("x"), MODEL),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_own_error_is_explained_by_its_message_and_a_bug_is_not() -> None:
    assert explain(errors.DataError("`a.jsonl` line 2: is missing")) == "`a.jsonl` line 2: is missing"
    assert explain(ZeroDivisionError("division by zero")) is None


def test_json_output_keeps_unicode_and_writes_dates_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "Zoë [bold]", "at": datetime(2024, 5, 1, tzinfo=timezone.utc)})
    text = capsys.readouterr().out
    assert "Zoë" in text
    assert json.loads(text) == {"name": "Zoë [bold]", "at": "2024-05-01 00:00:00+00:00"}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, force_terminal=True, width=120))
    return stream


def test_progress_bar_shows_count_description_and_usage(terminal: io.StringIO) -> None:
    tracker = UsageTracker()
    with progress(tracker, 2, "users") as bar:
        tracker.record({"usage": {"prompt_tokens": 1000, "completion_tokens": 5}, "cost": 0.25})
        bar.advance("ana")
    screen = terminal.getvalue()
    assert "1/2 users" in screen
    assert "ana" in screen
    assert "1 calls, 1,005 tokens, $0.2500" in screen


def test_progress_bar_without_a_total_is_hidden_until_resized(terminal: io.StringIO) -> None:
    with progress(UsageTracker(), 0, "jobs") as bar:
        bar.refresh()
        assert terminal.getvalue() == ""
        bar.resize(5, completed=3)
        bar.advance("job 4")
    assert "4/5 jobs" in terminal.getvalue()


def test_progress_bar_stops_if_the_block_raises(terminal: io.StringIO) -> None:
    with pytest.raises(ZeroDivisionError), progress(UsageTracker(), 1, "users") as bar:
        raise ZeroDivisionError
    assert not bar._bar.live.is_started
