"""Importing histories: layouts, bad records, repeated imports."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from program.errors import DataError, StoreError, UnknownTaskError
from program.store import UserStore
from program.store.importers import import_users
from program.store.importers.fields import parse_time
from program.store.importers.reader import FieldError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UserStore]:
    with UserStore(tmp_path / "store.db") as store:
        yield store


def film(number: int, tag: str = "comedy", **more: Any) -> dict[str, Any]:
    return {"id": f"f{number}", "description": f"film {number}", "tag": tag, **more}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def row(user_id: object, query: str, response: object = "comedy", **more: Any) -> dict[str, Any]:
    return {"user_id": user_id, "query": query, "response": response, **more}


class TestJsonl:
    def test_reads_every_field(self, store: UserStore, tmp_path: Path) -> None:
        line = row(
            "ann", "film 1", id="i1", timestamp="2024-05-01T14:00:00+02:00", metadata={"year": 1999}, app="tv"
        )
        report = import_users(store, write(tmp_path / "a.jsonl", line), task="LaMP-2M")
        assert (report.users, report.interactions, report.new, report.skipped) == (1, 1, 1, ())
        [one] = store.interactions("ann")
        assert (one.id, one.query, one.response) == ("i1", "film 1", "comedy")
        assert one.timestamp == datetime(2024, 5, 1, 12, tzinfo=timezone.utc)
        assert dict(one.metadata) == {"year": "1999", "app": "tv"}
        assert store.user("ann").task == "LaMP-2M"

    def test_reads_interleaved_users_and_numeric_ids(self, store: UserStore, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", "\ufeff" + json.dumps(row(7, "1")), "", row("b", "2"), row(7, "3"))
        assert import_users(store, path, task="LaMP-2M").users == 2
        assert [i.query for i in store.interactions("7")] == ["1", "3"]
        assert [i.query for i in store.interactions("b")] == ["2"]

    def test_without_ids_the_content_is_the_id(self, store: UserStore, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", row("ann", "1"), row("ann", "1"), row("ann", "1", "action"))
        assert import_users(store, path, task="LaMP-2M").new == 2
        assert import_users(store, path, task="LaMP-2M").new == 0

    def test_longer_file_adds_only_new_interactions(self, store: UserStore, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", row("ann", "1"))
        import_users(store, path, task="LaMP-2M")
        report = import_users(store, write(path, row("ann", "1"), row("ann", "2")), task="LaMP-2M")
        assert (report.interactions, report.new) == (2, 1)

    @pytest.mark.parametrize(
        ("line", "field", "problem"),
        [
            ('{"user_id": "ann", "query"', "", "not a JSON object"),
            ("[1, 2]", "", "not a JSON object"),
            ("[" * 100_000, "", "not a JSON object"),
            ({"query": "q", "response": "comedy"}, "user_id", "is missing"),
            (row("", "q"), "user_id", "1 to 256 characters"),
            (row(None, "q"), "user_id", "not null"),
            ({"user_id": "ann", "response": "comedy"}, "query", "is missing"),
            ({"user_id": "ann", "query": "q"}, "response", "is missing"),
            (row("ann", " "), "query", "is empty"),
            (row("ann", "q", "horror"), "response", "'horror' is not one of the 15 labels"),
            (row("ann", "q", ["comedy"]), "response", "not a list"),
            (row("ann", "q", timestamp="yesterday"), "timestamp", "'yesterday' is not a time"),
            (row("ann", "q", metadata="x"), "metadata", "not text"),
            (row("ann", "q", metadata={"deep": {}}), "deep", "not an object"),
            (row("ann", "q\0"), "query", "NUL"),
            (row("ann", "q\ud800"), "query", "surrogate"),
            (row("ann", "other", id="i1"), "id", "'i1' is already line 1"),
        ],
    )
    def test_bad_line_is_reported_and_nothing_is_stored(
        self, store: UserStore, tmp_path: Path, line: object, field: str, problem: str
    ) -> None:
        path = write(tmp_path / "a.jsonl", row("ann", "q", id="i1"), line)
        with pytest.raises(DataError) as caught:
            import_users(store, path, task="LaMP-2M", format="jsonl")
        assert f"a.jsonl` line 2: {f'field `{field}` ' if field else ''}" in str(caught.value)
        assert problem in str(caught.value)
        assert "--skip-bad" in str(caught.value)
        assert list(store.users()) == []
        report = import_users(store, path, task="LaMP-2M", format="jsonl", skip_bad=True)
        assert (report.new, [(bad.where, bad.field) for bad in report.skipped]) == (1, [("line 2", field)])

    def test_line_that_is_not_utf8_is_bad(self, store: UserStore, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"user_id": "ann"}\n{"user_id": "\xff\xfe"}\n')
        with pytest.raises(DataError, match="line 2: is not UTF-8"):
            import_users(store, path, task="LaMP-2M")

    def test_long_free_text_is_stored_in_full(self, store: UserStore, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", row("ann", "q", "x" * 5000))
        import_users(store, path, task="free-text")
        assert len(store.interactions("ann")[0].response) == 5000

    def test_rating_is_stored_in_the_format_of_the_task(self, store: UserStore, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", row("ann", "q", 4), row("ann", "p", " 05 "))
        import_users(store, path, task="LaMP-3")
        assert [i.response for i in store.interactions("ann")] == ["4", "5"]


class TestProfiles:
    def test_imports_oppu_histories_but_not_queries(self, store: UserStore, tmp_path: Path) -> None:
        query = {"id": "q1", "input": "description: new film", "gold": "comedy"}
        users = [
            {
                "user_id": 7,
                "profile": [film(2, date="2011"), film(1, date="2010-05-01", year="1999")],
                "query": [query],
            },
            {"user_id": "b", "profile": [], "query": [query]},
        ]
        report = import_users(store, write(tmp_path / "h.json", users), task="LaMP-2M", format="oppu")
        assert (report.users, report.interactions, report.new) == (2, 2, 2)
        first, second = store.interactions("7")
        assert (first.id, first.query, first.response) == ("f1", "film 1", "comedy")
        assert first.timestamp == datetime(2010, 5, 1, tzinfo=timezone.utc)
        assert dict(first.metadata) == {"year": "1999"}
        assert second.timestamp == datetime(2011, 1, 1, tzinfo=timezone.utc)
        assert store.interactions("b") == []

    def test_question_id_is_the_user_id_if_there_is_no_other(self, store: UserStore, tmp_path: Path) -> None:
        questions = [
            {"id": "110", "input": "x", "profile": [film(2), film(1)]},
            {"id": "111", "input": "x", "profile": [film(1)], "user_id": 9013773},
        ]
        import_users(store, write(tmp_path / "q.json", questions), task="LaMP-2M", format="lamp")
        assert [user.user_id for user in store.users()] == ["110", "9013773"]
        assert [i.id for i in store.interactions("110")] == ["f2", "f1"]

    def test_repeated_import_adds_nothing(self, store: UserStore, tmp_path: Path) -> None:
        path = write(tmp_path / "h.json", [{"user_id": "a", "profile": [film(1), film(1), film(2)]}])
        assert import_users(store, path, task="LaMP-2M").new == 2
        assert import_users(store, path, task="LaMP-2M").new == 0

    def test_two_users_with_the_same_id_are_rejected(self, store: UserStore, tmp_path: Path) -> None:
        users = [{"user_id": name, "profile": [film(1)]} for name in ("a", "b", "a")]
        for skip_bad in (False, True):
            with pytest.raises(DataError, match=r"two users have the id 'a': \[0\] and \[2\]"):
                import_users(store, write(tmp_path / "h.json", users), task="LaMP-2M", skip_bad=skip_bad)
        assert list(store.users()) == []

    @pytest.mark.parametrize(
        ("item", "field", "problem"),
        [
            (film(2, "horror"), "tag", "'horror' is not one of the 15 labels"),
            ({"id": "f2", "tag": "comedy"}, "description", "is missing; is this a file of task LaMP-2M?"),
            (film(2, date="2010/05/01"), "date", "is not a time"),
            (film(1, "action"), "id", "'f1' is already [1].profile[0]"),
            (film(2, description={}), "description", "not an object"),
            ("film", "", "is not a JSON object"),
        ],
    )
    def test_bad_item_is_reported_and_nothing_is_stored(
        self, store: UserStore, tmp_path: Path, item: object, field: str, problem: str
    ) -> None:
        users = [{"user_id": "a", "profile": [film(1)]}, {"user_id": "b", "profile": [film(1), item]}]
        path = write(tmp_path / "h.json", users)
        with pytest.raises(DataError) as caught:
            import_users(store, path, task="LaMP-2M")
        assert f"h.json` [1].profile[1]: {f'field `{field}` ' if field else ''}" in str(caught.value)
        assert problem in str(caught.value)
        assert list(store.users()) == []
        report = import_users(store, path, task="LaMP-2M", skip_bad=True)
        assert (report.users, report.new, len(report.skipped)) == (2, 2, 1)

    @pytest.mark.parametrize(
        ("user", "field"),
        [
            ("ann", ""),
            ({"profile": []}, "user_id"),
            ({"user_id": "a"}, "profile"),
            ({"user_id": "a\n", "profile": []}, "user_id"),
        ],
    )
    def test_bad_user_is_reported(self, store: UserStore, tmp_path: Path, user: object, field: str) -> None:
        with pytest.raises(
            DataError, match=rf"\[0\]: {f'field `{field}`' if field else 'is not a JSON object'}"
        ):
            import_users(store, write(tmp_path / "h.json", [user]), task="LaMP-2M", format="oppu")

    def test_conflict_with_the_store_leaves_the_user_unchanged(
        self, store: UserStore, tmp_path: Path
    ) -> None:
        import_users(
            store, write(tmp_path / "h.json", [{"user_id": "a", "profile": [film(1)]}]), task="LaMP-2M"
        )
        changed = [{"user_id": "a", "profile": [film(2), film(1, "action")]}]
        with pytest.raises(StoreError, match="interaction 'f1' with other content"):
            import_users(store, write(tmp_path / "h.json", changed), task="LaMP-2M")
        assert [i.id for i in store.interactions("a")] == ["f1"]

    def test_truncated_file_stores_nothing_and_the_error_quotes_no_text(
        self, store: UserStore, tmp_path: Path
    ) -> None:
        whole = json.dumps([{"user_id": f"u{n}", "profile": [film(1)]} for n in range(3)])
        path = tmp_path / "h.json"
        path.write_text(whole[:-20])
        with pytest.raises(DataError, match=r"after 2 users: .*is it complete") as caught:
            import_users(store, path, task="LaMP-2M")
        assert "film 1" not in str(caught.value)
        assert list(store.users()) == []

    def test_memory_use_stays_below_a_quarter_of_the_file(self, store: UserStore, tmp_path: Path) -> None:
        profile = [film(k, description="x" * 2000) for k in range(50)]
        users = [{"user_id": str(n), "profile": profile} for n in range(50)]
        path = write(tmp_path / "h.json", users)
        tracemalloc.start()
        import_users(store, path, task="LaMP-2M")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < path.stat().st_size / 4


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b" \n", "is empty"),
            (b"<!DOCTYPE html><html>", "is a web page"),
            (b"\x1f\x8b\x08compressed", "is binary"),
            (b"SQLite format 3\0", "is binary"),
            (b'{"task": "LaMP_2M", "golds": []}', "has answers"),
            (b"user_id,query", "neither JSONL nor a JSON list"),
            (b"[]", "has no users"),
            (b"[1, 2", "is not a JSON object"),
        ],
    )
    def test_error_names_the_kind_of_an_unsupported_file(
        self, store: UserStore, tmp_path: Path, content: bytes, message: str
    ) -> None:
        path = tmp_path / "data"
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            import_users(store, path, task="LaMP-2M")
        assert list(store.users()) == []

    def test_wrong_format_is_rejected(self, store: UserStore, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="not of format 'oppu'"):
            import_users(store, write(tmp_path / "a", row("a", "1")), task="LaMP-2M", format="oppu")
        with pytest.raises(DataError, match="not of format 'jsonl'"):
            import_users(store, write(tmp_path / "b", []), task="LaMP-2M", format="jsonl")

    def test_missing_path_and_folder_are_rejected(self, store: UserStore, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="missing` does not exist"):
            import_users(store, tmp_path / "missing", task="LaMP-2M")
        with pytest.raises(DataError, match="is not a regular file"):
            import_users(store, tmp_path, task="LaMP-2M")

    def test_path_can_be_text_and_the_default_task_is_free_text(
        self, store: UserStore, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "a.jsonl", row("ann", "dinner?", "Lentils."))
        assert import_users(store, str(path)).new == 1
        assert store.user("ann").task == "free-text"

    def test_unknown_task_is_reported_before_the_missing_file(self, store: UserStore, tmp_path: Path) -> None:
        with pytest.raises(UnknownTaskError):
            import_users(store, tmp_path / "missing", task="LaMP-99")

    def test_progress_increases_to_the_total(self, store: UserStore, tmp_path: Path) -> None:
        calls: list[tuple[int, int]] = []
        path = write(tmp_path / "a.jsonl", row("a", "1"), row("b", "2"))
        import_users(
            store, path, task="LaMP-2M", progress=lambda position, total: calls.append((position, total))
        )
        assert calls == sorted(calls)
        assert calls[-1] == (2 * path.stat().st_size, 2 * path.stat().st_size)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("", None),
        ("1980", datetime(1980, 1, 1, tzinfo=timezone.utc)),
        ("2006-01-13", datetime(2006, 1, 13, tzinfo=timezone.utc)),
        ("2006-01-13T10:00:00Z", datetime(2006, 1, 13, 10, tzinfo=timezone.utc)),
        ("2006-01-13 10:00:00.5", datetime(2006, 1, 13, 10, 0, 0, 500_000, tzinfo=timezone.utc)),
    ],
)
def test_reads_years_dates_and_times_as_utc(text: str, time: datetime | None) -> None:
    assert parse_time("date", text) == time


@pytest.mark.parametrize("text", ["0000", "20060113", "1136073600", "2006-13-01", "13.01.2006"])
def test_rejects_other_time_formats(text: str) -> None:
    with pytest.raises(FieldError):
        parse_time("date", text)


@pytest.mark.real_histories
def test_imports_all_lamp_like_histories_in_both_layouts(store: UserStore, lamp_like: Path) -> None:
    folder = lamp_like / "LaMP_2M_like"
    report = import_users(store, folder / "user_top_100_history.json", task="LaMP-2M")
    assert (report.users, report.interactions, report.new, report.skipped) == (64, 877, 877, ())
    again = import_users(store, folder / "dev_questions.json", task="LaMP-2M", format="lamp")
    assert (again.users, again.interactions, again.new) == (64, 877, 0)


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(str.strip)


@given(st.lists(st.tuples(st.sampled_from("abc"), WORDS, WORDS), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_jsonl_of_interleaved_users_round_trips(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    lines = [row(user, query, response, id=str(n)) for n, (user, query, response) in enumerate(rows)]
    with UserStore(folder / "store.db") as store:
        report = import_users(store, write(folder / "a.jsonl", *lines), task="free-text")
        assert (report.users, report.new) == (len({user for user, _, _ in rows}), len(rows))
        for user in {user for user, _, _ in rows}:
            assert [(i.query, i.response) for i in store.interactions(user)] == [
                (query.strip(), response.strip()) for name, query, response in rows if name == user
            ]


def test_import_resumes_after_an_interrupted_one(store: UserStore, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *(row(user, "1", id="i") for user in "abc"))

    def interrupt(position: int, total: int) -> None:
        if position > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_users(store, path, task="LaMP-2M", progress=interrupt)
    assert [user.user_id for user in store.users()] == ["a"]
    assert import_users(store, path, task="LaMP-2M").new == 2
