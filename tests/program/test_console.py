"""Console: JSON output, exit codes, one-line errors and progress bars."""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone

import dspy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from program import console, errors
from program.console import FAILED, MODEL, USAGE, exit_code, explain, print_json, progress
from program.printer import Printer, make_table, to_json
from program.text_safety import printable
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf"), (1, float("nan"))]}])
def test_json_output_has_null_for_numbers_that_json_lacks(
    value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    print_json(value)
    text = capsys.readouterr().out
    assert "NaN" not in text
    assert "Infinity" not in text
    assert "null" in text
    json.loads(text)


@given(st.recursive(st.text() | st.none() | st.integers(), lambda items: st.dictionaries(st.text(), items)))
@example("\ud83d\ude00 half \ud83d \x9b \u202e \u2028 \x1b")
def test_json_text_reads_back_and_has_no_control_characters(value: object) -> None:
    text = to_json(value)
    assert printable(text) == text
    text.encode("utf-8", "strict")
    # Two halves of a pair that stand beside each other are one character for every parser.
    assert json.loads(text) == json.loads(json.dumps(value))
    assert to_json(value, ascii_only=True).isascii()


@given(st.text())
def test_printed_line_is_one_line_without_control_characters(text: str) -> None:
    stream = io.StringIO()
    Printer(file=stream).print_line(text)
    printed = stream.getvalue()
    assert printed.endswith("\n")
    line = printed[:-1]
    assert "\n" not in line
    assert "\t" not in line
    assert printable(line) == line


@given(st.text("abc[]/\\ \t:_", max_size=40))
def test_printed_text_keeps_brackets_and_spaces(text: str) -> None:
    stream = io.StringIO()
    Printer(file=stream).print_text(text)
    assert stream.getvalue() == text + "\n"


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20))
def test_table_cell_shows_a_whole_text_in_a_pipe(text: str) -> None:
    stream = io.StringIO()
    Printer(file=stream).print(make_table(("user", ""), [(text, "[end]")], fold=("user",)))
    assert stream.getvalue().splitlines()[1].split() == [text, "[end]"]


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
    assert "1 call, 1,005 tokens, $0.2500" in screen


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
