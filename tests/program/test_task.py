"""Tasks are found by name or by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from program.answers import Labels, Rating, Text
from program.errors import ConfigError, UnknownTaskError
from program.task import FREE_TEXT, Item, Task, get_task, task_names

OWN_TASK = """
from program import Item, Labels, Task

TASK = Task(name="own", question="Which?", answer=Labels(("a", "b")),
            read_item=lambda item: Item(item["q"], item["r"]), read_query=str.strip)
NUMBER = 7
"""


@pytest.fixture
def own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with a task; each test has its own, because `get_task` caches."""
    name = f"own_tasks_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN_TASK)
    (tmp_path / f"{name}_broken.py").write_text("raise RuntimeError('broken module')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize("name", ["LaMP-3", "lamp-3", "LAMP_3", "lamp_3"])
def test_task_names_ignore_case_and_underscores(name: str) -> None:
    assert get_task(name).name == "LaMP-3"


@pytest.mark.parametrize("name", ["free-text", "FREE_TEXT"])
def test_free_text_is_always_installed(name: str) -> None:
    assert get_task(name) is FREE_TEXT
    assert FREE_TEXT.name in task_names()


def test_task_names_are_sorted_and_unique() -> None:
    names = task_names()
    assert names == sorted(set(names))
    assert {get_task(name).name for name in names} == set(names)


def test_path_loads_a_task(own_tasks: str) -> None:
    task = get_task(f"{own_tasks}:TASK")
    assert task.name == "own"
    assert task.read_item({"q": "query", "r": "a"}) == Item("query", "a")
    assert get_task(f"{own_tasks}:TASK") is task


def test_unknown_name_raises_with_the_installed_names() -> None:
    with pytest.raises(UnknownTaskError, match=r"unknown task 'LaMP-99'; use one of .*LaMP-3.*, or module:"):
        get_task("LaMP-99")


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        (":MISSING", "cannot load task '.*:MISSING': .*has no attribute 'MISSING'"),
        ("_missing:TASK", "cannot load task .*: No module named"),
        ("_broken:TASK", "cannot load task .*: broken module"),
        (":NUMBER", "NUMBER' is not a `Task` but a int"),
    ],
)
def test_path_that_cannot_be_loaded_raises_unknown_task(own_tasks: str, suffix: str, message: str) -> None:
    with pytest.raises(UnknownTaskError, match=message) as raised:
        get_task(own_tasks + suffix)
    assert isinstance(raised.value, ConfigError)


def test_module_that_was_missing_is_loaded_once_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnknownTaskError):
        get_task("late_task_module:TASK")
    (tmp_path / "late_task_module.py").write_text(OWN_TASK)
    monkeypatch.setattr("sys.path_importer_cache", {})
    assert get_task("late_task_module:TASK").name == "own"


def test_response_type_is_the_answer_type_unless_the_history_differs() -> None:
    def task(history_answer: Text | None) -> Task:
        return Task(
            name="t",
            question="Which?",
            answer=Labels(("[1]", "[2]")),
            history_answer=history_answer,
            read_item=lambda item: Item("", ""),
            read_query=str.strip,
        )

    assert task(None).response_type == Labels(("[1]", "[2]"))
    assert task(Text(max_chars=9)).response_type == Text(max_chars=9)


def test_free_text_reads_plain_items_and_names_a_missing_field() -> None:
    assert FREE_TEXT.read_item({"query": "q", "response": "r", "date": "2020"}) == Item("q", "r")
    with pytest.raises(KeyError, match="response"):
        FREE_TEXT.read_item({"query": "q"})


def test_rating_task_has_integer_annotations() -> None:
    answer = get_task("LaMP-3").answer
    assert isinstance(answer, Rating)
    assert answer.annotation.__args__ == (1, 2, 3, 4, 5)
