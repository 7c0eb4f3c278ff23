"""Printer: data as it is, on any stream; strict JSON; commands that can be pasted."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.text import Text
from rich.tree import Tree

from program.printer import Printer, cell, command, make_table, to_json
from program.text_safety import printable

ANY = st.text(st.characters(), max_size=40)
"""Any text, with controls and half surrogates."""


def printed(text: str, **options: Any) -> str:
    file = io.StringIO()
    Printer(file=file, **options).print_text(text)
    return file.getvalue()


@given(ANY)
@example("[red]x[/] [link=a]b[/link] :smile:")
@example("a\tb   c  ")
@example("one\r\ntwo\rthree")
def test_text_is_printed_as_it_is_but_for_escapes(text: str) -> None:
    assert printed(text) == printable(text.replace("\r\n", "\n")) + "\n"


@given(ANY)
def test_terminal_gets_only_the_style_around_a_text(text: str) -> None:
    file = io.StringIO()
    Printer(file=file, force_terminal=True, color_system="standard", width=80).print_text(text, style="red")
    plain = file.getvalue().replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert plain == printable(text.replace("\r\n", "\n")) + "\n"


@given(ANY)
def test_line_is_one_line(text: str) -> None:
    file = io.StringIO()
    Printer(file=file).print_line(text)
    assert file.getvalue().splitlines() in ([file.getvalue()[:-1]], [""])


@given(ANY, ANY)
def test_tables_trees_and_texts_hold_no_control_character(first: str, second: str) -> None:
    file = io.StringIO()
    printer = Printer(file=file, width=60)
    printer.print(make_table(("a", "b"), [(first, second), (second, first)], fold=("b",)))
    tree = Tree(Text(first))
    tree.add(second)
    printer.print(tree)
    printer.print(first, second)
    output = file.getvalue()
    assert printable(output) == output


def test_pipe_has_one_line_for_each_row_with_the_whole_id() -> None:
    file = io.StringIO()
    rows = [("u" * 256, "why " * 100), ("[/b]", "x")]
    Printer(file=file).print(make_table(("user", "why"), rows, fold=("user", "why")))
    lines = file.getvalue().splitlines()
    assert len(lines) == 3
    assert "u" * 256 in lines[1]
    assert "[/b]" in lines[2]


def test_narrow_terminal_folds_long_cells_and_keeps_numbers_whole() -> None:
    file = io.StringIO()
    table = make_table(("user", "count"), [("u" * 256, "123456")], fold=("user",))
    Printer(file=file, force_terminal=True, width=30, color_system=None).print(table)
    lines = file.getvalue().splitlines()
    assert sum(line.count("u") for line in lines[1:]) == 256
    assert sum("123456" in line for line in lines) == 1
    assert all(len(line.rstrip()) <= 30 for line in lines)


def test_very_narrow_terminal_does_not_fold_to_single_characters() -> None:
    table = make_table(("user", "task", "count"), [("u" * 50, "free-text", "1")], fold=("user", "task"))
    file = io.StringIO()
    Printer(file=file, force_terminal=True, width=10, color_system=None).print(table)
    assert "u" * 12 in file.getvalue()
    assert "free-text" in file.getvalue()


def test_table_is_as_wide_as_asked_on_a_narrow_terminal() -> None:
    file = io.StringIO()
    printer = Printer(file=file, force_terminal=True, width=20, color_system=None)
    printer.print_wide(make_table(("a",), [("x" * 50,)], fold=("a",)), 60)
    assert "x" * 50 in file.getvalue()


def test_cell_is_one_line_and_keeps_double_spaces() -> None:
    assert cell("a  b\nc\td\u2028e").plain == "a  b c d e"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY,
    lambda items: st.lists(items, max_size=3) | st.dictionaries(ANY, items, max_size=3),
    max_leaves=8,
)


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


@given(VALUES, st.booleans())
@example("\ud83d\x00\x1b\x7f\x9b\u202e\u2028", True)
@example([math.nan, math.inf, -math.inf], False)
def test_json_is_strict_keeps_values_and_holds_no_control_character(value: Any, ascii_only: bool) -> None:
    text = to_json(value, ascii_only=ascii_only)
    assert printable(text) == text
    assert text.isascii() or not ascii_only
    text.encode()
    again = json.loads(text, parse_constant=refuse)
    assert to_json(again) == to_json(value)


def test_json_writes_dates_paths_and_tuples() -> None:
    value = {"at": datetime(2024, 5, 1, tzinfo=timezone.utc), "path": Path("a") / "b", "pair": (1, 2.5)}
    assert json.loads(to_json(value)) == {"at": "2024-05-01 00:00:00+00:00", "path": "a/b", "pair": [1, 2.5]}


@pytest.mark.parametrize(
    "word",
    ["ana", "team[/eu]", "it's", "a b", "$(id)", "`id`", "a\\b", "x\u202ey", "\u2028", "é", "!x", "~", "*"],
)
def test_shell_reads_a_quoted_word_back(word: str) -> None:
    line = command("align", word).removeprefix("personaagent align ")
    assert printable(line) == line
    shell = ["bash", "-c", f"printf %s {line}"]
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    assert subprocess.run(shell, capture_output=True, check=True, env=environment).stdout.decode() == word


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1), max_size=3))
def test_command_keeps_its_arguments(words: list[str]) -> None:
    options = ["--store", "a b.db"]
    dashed = any(word.startswith("-") for word in words)
    expected = [*options, "--", *words] if dashed else [*words, *options]
    assert shlex.split(command("ask", *words, store="a b.db")) == ["personaagent", "ask", *expected]


def personaagent(
    *words: str, stdout: Any = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", "from personaagent import main; main()", *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    from program.store import UserStore

    path = tmp_path / "users.db"
    with UserStore(path) as users:
        users.add_user("zoë [/b] 漢", task="free-text")
    return path


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1"])
def test_stream_that_is_not_utf_8_gets_escapes(store: Path, encoding: str) -> None:
    completed = personaagent("users", "list", "--store", str(store), PYTHONIOENCODING=encoding)
    assert (completed.returncode, completed.stderr) == (0, b"1 user\n")
    assert b"[/b] \\u6f22" in completed.stdout
    completed = personaagent("users", "list", "--json", "--store", str(store), PYTHONIOENCODING=encoding)
    assert json.loads(completed.stdout.decode("ascii"))[0]["user_id"] == "zoë [/b] 漢"


def test_closed_pipe_ends_quietly_with_the_command_s_own_exit_code(store: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    completed = personaagent("users", "list", "--store", str(store), stdout=write)
    os.close(write)
    assert (completed.returncode, completed.stderr) == (0, b"1 user\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_under_stdout_is_one_line(store: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        completed = personaagent("users", "list", "--store", str(store), stdout=full)
    assert completed.returncode == 1
    assert re.fullmatch(rb"error: [^\n]+\n", completed.stderr)
