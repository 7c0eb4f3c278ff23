"""What is asked twice is computed once; the model itself is asked in `test_embedded.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from program.models.cache import empty_cache, keep_answers_in, remember_answers, use_cache

Ask = Callable[[str, str], str]


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    keep_answers_in(None)
    yield
    keep_answers_in(None)


def counted(asked: list[str]) -> Ask:
    def ask(kind: str, question: str) -> str:
        asked.append(f"{kind} {question}")
        return f"answer {len(asked)}"

    return ask


def test_a_question_asked_twice_is_computed_once() -> None:
    asked: list[str] = []
    ask = remember_answers(counted(asked), "model")
    assert [ask("chat", "a"), ask("chat", "a"), ask("chat", "b"), ask("labels", "a")] == [
        "answer 1",
        "answer 1",
        "answer 2",
        "answer 3",
    ]


def test_the_folder_serves_the_next_process_and_only_the_same_model(tmp_path: Path) -> None:
    asked: list[str] = []
    keep_answers_in(tmp_path)
    remember_answers(counted(asked), "one")("chat", "a")
    assert remember_answers(counted(asked), "one")("chat", "a") == "answer 1"
    assert remember_answers(counted(asked), "other")("chat", "a") == "answer 2"


def test_an_error_is_not_kept(tmp_path: Path) -> None:
    tries: list[int] = []

    def ask(kind: str, question: str) -> str:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("the model failed")
        return "yes"

    keep_answers_in(tmp_path)
    remembered = remember_answers(ask, "model")
    with pytest.raises(RuntimeError):
        remembered("chat", "a")
    assert remembered("chat", "a") == "yes"


def test_forgetting_a_user_empties_it(tmp_path: Path) -> None:
    asked: list[str] = []
    use_cache(tmp_path)
    remember_answers(counted(asked), "model")("chat", "what a user said")
    empty_cache(tmp_path)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    use_cache(tmp_path)
    assert remember_answers(counted(asked), "model")("chat", "what a user said") == "answer 2"
