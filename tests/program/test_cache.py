"""The answer cache with a fake model; `test_embedded.py` tests it with the real one."""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from program.models.cache import cache_answers, empty_cache, set_answer_folder, use_cache

Ask = Callable[[str, str], str]


@pytest.fixture(autouse=True)
def memory_only() -> Iterator[None]:
    set_answer_folder(None)
    yield
    set_answer_folder(None)


def counting_ask(requests: list[str]) -> Ask:
    def ask(kind: str, question: str) -> str:
        requests.append(f"{kind} {question}")
        return f"answer {len(requests)}"

    return ask


def test_repeated_request_is_computed_once() -> None:
    requests: list[str] = []
    ask = cache_answers(counting_ask(requests), "model")
    assert [ask("chat", "a"), ask("chat", "a"), ask("chat", "b"), ask("labels", "a")] == [
        "answer 1",
        "answer 1",
        "answer 2",
        "answer 3",
    ]


def test_disk_cache_is_shared_by_processes_with_the_same_model(tmp_path: Path) -> None:
    requests: list[str] = []
    set_answer_folder(tmp_path)
    cache_answers(counting_ask(requests), "one")("chat", "a")
    assert cache_answers(counting_ask(requests), "one")("chat", "a") == "answer 1"
    assert cache_answers(counting_ask(requests), "other")("chat", "a") == "answer 2"


def test_errors_are_not_cached(tmp_path: Path) -> None:
    attempts: list[int] = []

    def ask(kind: str, question: str) -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("the model failed")
        return "yes"

    set_answer_folder(tmp_path)
    cached_ask = cache_answers(ask, "model")
    with pytest.raises(RuntimeError):
        cached_ask("chat", "a")
    assert cached_ask("chat", "a") == "yes"


def test_empty_cache_deletes_all_answers(tmp_path: Path) -> None:
    requests: list[str] = []
    use_cache(tmp_path)
    cache_answers(counting_ask(requests), "model")("chat", "what a user said")
    empty_cache(tmp_path)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    use_cache(tmp_path)
    assert cache_answers(counting_ask(requests), "model")("chat", "what a user said") == "answer 2"


def test_cache_folder_is_private(tmp_path: Path) -> None:
    use_cache(tmp_path)
    assert stat.S_IMODE((tmp_path / "cache" / "answers").stat().st_mode) == 0o700


def test_emptying_a_cache_that_does_not_exist_does_nothing(tmp_path: Path) -> None:
    empty_cache(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_disk_cache_does_not_contain_the_request(tmp_path: Path) -> None:
    set_answer_folder(tmp_path)
    cache_answers(lambda kind, question: "yes", "model")("chat", "zebraword")
    set_answer_folder(None)
    stored = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert stored
    assert not any(b"zebraword" in path.read_bytes() for path in stored)


def test_answers_are_cached_in_memory_without_a_folder() -> None:
    requests: list[str] = []
    ask = cache_answers(counting_ask(requests), "model")
    assert ask("chat", "a") == ask("chat", "a") == "answer 1"
    assert cache_answers(counting_ask(requests), "model")("chat", "a") == "answer 2"


def test_key_parts_are_separate(tmp_path: Path) -> None:
    requests: list[str] = []
    set_answer_folder(tmp_path)
    assert cache_answers(counting_ask(requests), "m")("chat", "a") == "answer 1"
    assert cache_answers(counting_ask(requests), "m chat")("", "a") == "answer 2"


def test_folder_can_change_between_requests(tmp_path: Path) -> None:
    requests: list[str] = []
    for folder in ("one", "two", "one"):
        set_answer_folder(tmp_path / folder)
        cache_answers(counting_ask(requests), "model")("chat", "a")
    assert len(requests) == 2


def cached_once(home: Path) -> None:
    requests: list[str] = []
    ask = cache_answers(counting_ask(requests), "model")
    assert ask("chat", "a") == ask("chat", "a") == "answer 1"


@pytest.mark.parametrize("part", ["000/cache.db", "015/cache.db", "embedded/cache.db"])
@pytest.mark.parametrize("content", [b"not a database" * 1000, b"SQLite format 3\x00" + b"\xff" * 9000])
def test_damaged_cache_is_set_aside_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, part: str, content: bytes
) -> None:
    use_cache(tmp_path)
    set_answer_folder(None)
    database = tmp_path / "cache" / "answers" / part
    for name in ("-wal", "-shm"):
        database.with_name(database.name + name).unlink(missing_ok=True)
    database.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="personaagent"):
        use_cache(tmp_path)
    assert len(caplog.records) == 1
    assert "the answer cache was damaged and is now 'answers.damaged-" in caplog.text
    cached_once(tmp_path)
    empty_cache(tmp_path)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_file_in_place_of_the_cache_folder_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "answers").write_text("a file")
    use_cache(tmp_path)
    cached_once(tmp_path)


def test_unusable_cache_folder_means_memory_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file in place of the parent")
    with caplog.at_level(logging.WARNING, logger="personaagent"):
        use_cache(tmp_path)
    assert "answers are cached in memory only" in caplog.text
    cached_once(tmp_path)


def test_cache_that_breaks_during_the_run_costs_a_call(tmp_path: Path) -> None:
    class Broken:
        def get(self, key: str) -> None:
            raise OSError("disk full")

        def set(self, key: str, value: str) -> None:
            raise OSError("disk full")

        def close(self) -> None:
            pass

    set_answer_folder(tmp_path)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("program.models.cache._disk", Broken())
        assert cache_answers(lambda kind, question: "yes", "model")("chat", "a") == "yes"


def test_cache_files_are_private(tmp_path: Path) -> None:
    use_cache(tmp_path)
    cached_once(tmp_path)
    files = [path for path in (tmp_path / "cache").rglob("cache.db*")]
    assert len(files) >= 17
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
