"""Importing histories: layouts, bad records, repeated imports."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import personaagent
from program import files, json_text
from program.errors import DataError, StoreError, UnknownTaskError
from program.store import UserStore
from program.store.importers import ImportReport, import_users


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UserStore]:
    with UserStore(tmp_path / "store.db") as store:
        yield store


def film(number: int, tag: str = "comedy", **more: Any) -> dict[str, Any]:
    return {"id": f"f{number}", "description": f"film {number}", "tag": tag, **more}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def row(user_id: object, query: object, response: object = "comedy", **more: Any) -> dict[str, Any]:
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
            ('{"user_id": "ann", "query"', "", "is not JSON"),
            ("{", "", "a record must be on one line, or the file a JSON list"),
            ("[1, 2]", "", "not a JSON object"),
            ("[" * 100_000, "", "is nested more than 100 levels deep"),
            ({"query": "q", "response": "comedy"}, "user_id", "is missing"),
            (row("", "q"), "user_id", "1 to 256 characters"),
            (row(None, "q"), "user_id", "not null"),
            ({"user_id": "ann", "response": "comedy"}, "query", "is missing"),
            ({"user_id": "ann", "query": "q"}, "response", "is missing"),
            (row("ann", " "), "query", "is empty"),
            (row("ann", "q", "horror"), "response", "'horror' is not one of the 15 labels"),
            (row("ann", "q", ["comedy"]), "response", "not a list"),
            (row("ann", "q", timestamp="yesterday"), "timestamp", "'yesterday' is not a time"),
            (row("ann", None), "query", "is missing: it must be text or a number, not null"),
            (row("ann", "q", float("nan")), "response", "is missing: it must be text or a number, not NaN"),
            (row("ann", "q", float("-inf")), "response", "must be text or a number, not Infinity"),
            (row("ann", "q", True), "response", "must be text or a number, not a boolean"),
            ('{"user_id": "ann", "query": "q", "response": 1e999}', "response", "not Infinity"),
            (row(float("nan"), "q"), "user_id", "is missing: it must be text or a whole number, not NaN"),
            (row(7.5, "q"), "user_id", "must be text or a whole number, not 7.5"),
            (row(2.0**60, "q"), "user_id", "has lost digits; write ids as text"),
            (row(True, "q"), "user_id", "not a boolean"),
            (row("\ufeffann", "q"), "user_id", "byte-order mark"),
            (row("ann", "q", id=[1]), "id", "must be text or a whole number, not a list"),
            (row("ann", "q", timestamp={}), "timestamp", "not an object"),
            (row("ann", "q", metadata={"a\ud800": "1", "b": "2"}), "metadata (a key)", "surrogate"),
            (row("ann", "q", tags=["\ud800"]), "metadata.'tags'", "surrogate"),
            ({"user_id": "ann", "prompt": "q", "answer": "a"}, "query", "has `user_id`, `prompt`, `answer`"),
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

    def test_every_extra_field_is_kept_as_metadata(self, store: UserStore, tmp_path: Path) -> None:
        more = {
            "tags": ["tea", 2],
            "starred": False,
            "score": 0.5,
            "gap": None,
            "nan": float("nan"),
            "metadata": {"model": {"name": "m1"}, "tokens": 12, "used": True, "deep": [float("nan")]},
        }
        import_users(store, write(tmp_path / "a.jsonl", row("ann", "q", **more)))
        [one] = store.interactions("ann")
        assert dict(one.metadata) == {
            "tags": '["tea", 2]',
            "starred": "false",
            "score": "0.5",
            "model": '{"name": "m1"}',
            "tokens": "12",
            "used": "true",
            "deep": "[null]",
        }

    @pytest.mark.parametrize(("metadata", "text"), [("x", "x"), (["x"], '["x"]'), (3, "3")])
    def test_metadata_that_is_no_object_is_kept_as_text(
        self, store: UserStore, tmp_path: Path, metadata: object, text: str
    ) -> None:
        import_users(store, write(tmp_path / "a.jsonl", row("ann", "q", metadata=metadata)))
        assert dict(store.interactions("ann")[0].metadata) == {"metadata": text}

    def test_whole_floats_numbers_and_texts_are_one_id(self, store: UserStore, tmp_path: Path) -> None:
        rows = [row(7, "a", id=1), row(7.0, "b", id=2.0), row("7", "c", id="3"), row(7, "a", id="1")]
        assert import_users(store, write(tmp_path / "a.jsonl", *rows)).users == 1
        assert [i.id for i in store.interactions("7")] == ["1", "2", "3"]

    @pytest.mark.parametrize(
        "time",
        [1714564800, 1714564800000, "1714564800", "2024-05-01 12:00:00 UTC", "2024-05-01T21:00:00+0900"],
    )
    def test_time_is_read_in_any_form(self, store: UserStore, tmp_path: Path, time: object) -> None:
        import_users(store, write(tmp_path / "a.jsonl", row("ann", "q", timestamp=time)))
        assert store.interactions("ann")[0].timestamp == datetime(2024, 5, 1, 12, tzinfo=timezone.utc)

    def test_times_in_the_future_are_counted_in_a_warning(self, store: UserStore, tmp_path: Path) -> None:
        ahead = datetime.now(timezone.utc) + timedelta(hours=9)
        local = ahead.replace(tzinfo=None).isoformat(timespec="seconds")
        rows = [row("ann", "1", timestamp=local), row("bo", "2", timestamp=local), row("ann", "3")]
        [warning] = import_users(store, write(tmp_path / "a.jsonl", *rows)).warnings
        assert warning.startswith("`timestamp` is in the future for 2 interactions (")
        assert f"{ahead:%Y-%m-%d %H:%M}" in warning
        assert "+09:00" in warning

    def test_user_with_bad_records_only_is_not_created(self, store: UserStore, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", row("ann", "q"), row("bo", "q", None), row("bo", None))
        report = import_users(store, path, skip_bad=True)
        assert (report.users, len(report.skipped)) == (1, 2)
        assert [user.user_id for user in store.users()] == ["ann"]

    def test_line_longer_than_the_limit_is_one_bad_record(
        self, store: UserStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "MAX_RECORD_BYTES", 200)
        path = write(tmp_path / "a.jsonl", row("ann", "q"), row("ann", "x" * 5000), row("ann", "r"))
        report = import_users(store, path, skip_bad=True)
        assert [bad.where for bad in report.skipped] == ["line 2"]
        assert "is longer than" in report.skipped[0].problem
        assert [i.query for i in store.interactions("ann")] == ["q", "r"]


class TestJsonList:
    def test_users_may_be_interleaved(self, store: UserStore, tmp_path: Path) -> None:
        rows = [row("ann", "1", id="1"), row("bo", "2"), row("ann", "3", id="2", tags=["x"])]
        report = import_users(store, write(tmp_path / "a.json", rows))
        assert (report.users, report.interactions) == (2, 3)
        assert [i.query for i in store.interactions("ann")] == ["1", "3"]
        assert store.interactions("ann")[1].metadata == {"tags": '["x"]'}

    def test_indented_list_is_read(self, store: UserStore, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(json.dumps([row("ann", "1"), row("bo", "2")], indent=2))
        assert import_users(store, tmp_path / "a.json").users == 2

    def test_bad_record_is_named_by_its_index(self, store: UserStore, tmp_path: Path) -> None:
        path = write(tmp_path / "a.json", [row("ann", "1"), row("ann", "2", None), "x"])
        with pytest.raises(DataError, match=r"a\.json` \[2\]: is not a JSON object; fix it"):
            import_users(store, path)
        report = import_users(store, path, skip_bad=True)
        assert [(bad.where, bad.field) for bad in report.skipped] == [("[2]", ""), ("[1]", "response")]

    def test_cut_off_list_stores_nothing(self, store: UserStore, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_text(json.dumps([row("ann", "1"), row("bo", "2")])[:-1])
        with pytest.raises(
            DataError, match="after 1 record: it ends before the list is closed; is it complete"
        ):
            import_users(store, path)
        assert list(store.users()) == []

    def test_value_longer_than_the_limit_is_refused(
        self, store: UserStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(json_text, "MAX_RECORD_BYTES", 1 << 17)
        path = write(tmp_path / "a.json", [row("ann", "1"), row("ann", "x" * 500_000)])
        with pytest.raises(DataError, match="after 1 record: it is longer than"):
            import_users(store, path)


class TestCsv:
    def import_text(self, store: UserStore, tmp_path: Path, text: str, **options: Any) -> ImportReport:
        (tmp_path / "a.csv").write_bytes(text.encode())
        return import_users(store, tmp_path / "a.csv", **options)

    @pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_reads_every_delimiter(self, store: UserStore, tmp_path: Path, mark: str, end: str) -> None:
        header = ["user_id", "query", "response", "id", "timestamp", "app"]
        cells = ["ann", "tea?", '"mint, green"' if mark == "," else "mint, green", "i1", "2024-05-01", "tv"]
        text = end.join([mark.join(header), mark.join(cells), ""])
        assert self.import_text(store, tmp_path, text).new == 1
        [one] = store.interactions("ann")
        assert (one.id, one.query, one.response, dict(one.metadata)) == (
            "i1",
            "tea?",
            "mint, green",
            {"app": "tv"},
        )
        assert one.timestamp == datetime(2024, 5, 1, tzinfo=timezone.utc)

    def test_text_in_quotes_keeps_lines_quotes_and_separators(self, store: UserStore, tmp_path: Path) -> None:
        query = 'first, "quoted"\n\nsecond\u2028third'
        quoted = query.replace('"', '""')
        text = f'user_id,query,response\nann,"{quoted}",x\u2028y\nbo,plain,z\n'
        assert self.import_text(store, tmp_path, text).users == 2
        assert [(i.query, i.response) for i in store.interactions("ann")] == [(query, "x\u2028y")]

    def test_gaps_of_data_frames_are_refused_in_texts_and_dropped_elsewhere(
        self, store: UserStore, tmp_path: Path
    ) -> None:
        text = "user_id,query,response,id,timestamp,land,mood\n7.0,a,x,1.0,NaT,NA,\n7,b,y,,nan,None,nan\n"
        assert self.import_text(store, tmp_path, text).users == 1
        first, second = store.interactions("7")
        assert (first.id, dict(first.metadata), dict(second.metadata)) == (
            "1",
            {"land": "NA"},
            {"land": "None"},
        )
        for cell, shown in (
            ("", "is empty"),
            ("nan", "'nan', as data frames write a gap"),
            ("NULL", "'NULL'"),
        ):
            for field in ("user_id", "query", "response"):
                cells = {"user_id": "ann", "query": "q", "response": "r", field: cell}
                line = ",".join(cells.values())
                with pytest.raises(
                    DataError, match=rf"line 2: field `{field}` is missing: the cell is "
                ) as bad:
                    self.import_text(store, tmp_path, f"user_id,query,response\n{line}\n")
                assert shown in str(bad.value)

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("ann,a,b,c", "has 4 cells, but the header has 3"),
            ("ann,a", "has 2 cells, but the header has 3"),
            ('ann,"a"b,c', "cannot be read as CSV"),
            ("ann,\0,c", "NUL"),
        ],
    )
    def test_bad_row_is_named_by_its_line_and_can_be_skipped(
        self, store: UserStore, tmp_path: Path, line: str, problem: str
    ) -> None:
        text = f'user_id,query,response\nann,"two\nlines",x\n{line}\nbo,q,y\n'
        report = self.import_text(store, tmp_path, text, format="csv", skip_bad=True)
        assert [(bad.where, report.users) for bad in report.skipped] == [("line 4", 2)]
        assert problem in report.skipped[0].problem

    def test_line_that_tells_excel_the_delimiter_is_no_header(self, store: UserStore, tmp_path: Path) -> None:
        text = "\ufeffsep=;\r\nuser_id;query;response\r\nann;tea, or coffee?;tea\r\nann;b\r\n"
        report = self.import_text(store, tmp_path, text, skip_bad=True)
        assert [bad.where for bad in report.skipped] == ["line 4"]
        assert store.interactions("ann")[0].query == "tea, or coffee?"

    def test_quote_that_is_never_closed_is_named(self, store: UserStore, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="line 3: opens a quote that is never closed"):
            self.import_text(store, tmp_path, 'user_id,query,response\na,b,c\na,"b,c\na,b,c\n')

    def test_table_in_another_encoding_is_named(self, store: UserStore, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes("user_id,query,response\nann,caf\u00e9?,x\n".encode("latin-1"))
        with pytest.raises(DataError, match=r"line 2: is not UTF-8 text \(byte 7\)"):
            import_users(store, tmp_path / "a.csv")

    def test_data_frame_round_trips(self, store: UserStore, tmp_path: Path) -> None:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame([row(7, "a", year=1999), row(8, "b", year=None), row(7, 'c, "d"\ne')])
        frame.to_csv(tmp_path / "a.csv", index=False)
        assert import_users(store, tmp_path / "a.csv").users == 2
        assert [(i.query, dict(i.metadata)) for i in store.interactions("7")] == [
            ("a", {"year": "1999.0"}),
            ('c, "d"\ne', {}),
        ]


TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Dinner?"},
    {"role": "assistant", "content": "Pasta?"},
    {"role": "user", "content": [{"type": "text", "text": "And for"}, {"type": "text", "text": "lunch?"}]},
    {"role": "assistant", "content": "Rice."},
]


class TestChat:
    def test_assistant_turn_is_never_the_response(self, store: UserStore, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", {"user_id": "ann", "messages": TURNS})
        with pytest.raises(DataError) as caught:
            import_users(store, path)
        message = str(caught.value)
        assert "line 1: field `response` is missing" in message
        assert "the last `user` turn of `messages` would become the query" in message
        assert "an `assistant` turn is the model's text and not the user's response" in message
        assert "add `response`" in message
        assert list(store.users()) == []

    def test_last_user_turn_is_the_query_beside_a_response(self, store: UserStore, tmp_path: Path) -> None:
        line = {"user_id": "ann", "messages": TURNS, "response": "Soup."}
        report = import_users(store, write(tmp_path / "a.jsonl", line))
        [one] = store.interactions("ann")
        assert (one.query, one.response) == ("And for\nlunch?", "Soup.")
        assert json.loads(one.metadata["messages"]) == TURNS
        assert report.warnings == (
            "the last `user` turn of `messages` is the query of 1 interaction; "
            "the other turns are kept as metadata",
        )

    def test_shared_conversations_have_other_names(self, store: UserStore, tmp_path: Path) -> None:
        turns = [{"from": "human", "value": "Dinner?"}, {"from": "gpt", "value": "Pasta?"}]
        line = {"user_id": "ann", "conversations": turns, "response": "Soup."}
        import_users(store, write(tmp_path / "a.json", [line]))
        assert store.interactions("ann")[0].query == "Dinner?"

    @pytest.mark.parametrize("turns", [[], ["x", {"role": "assistant", "content": "a"}], [{"role": "user"}]])
    def test_log_without_a_user_turn_is_refused(
        self, store: UserStore, tmp_path: Path, turns: list[object]
    ) -> None:
        line = {"user_id": "ann", "messages": turns, "response": "Soup."}
        with pytest.raises(DataError, match="field `messages` has no `user` turn with text"):
            import_users(store, write(tmp_path / "a.jsonl", line))

    def test_query_beside_a_log_is_the_query(self, store: UserStore, tmp_path: Path) -> None:
        line = row("ann", "q", messages=TURNS)
        assert import_users(store, write(tmp_path / "a.jsonl", line)).warnings == ()
        assert store.interactions("ann")[0].query == "q"


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
            (film(2, description={}), "description", "must be text or a number, not an object"),
            (film(2, description=None), "description", "is missing: it must be text or a number, not null"),
            (film(2, float("nan")), "tag", "is missing: it must be text or a number, not NaN"),  # type: ignore[arg-type]
            (film(2, float("inf")), "tag", "not Infinity"),  # type: ignore[arg-type]
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

    def test_nested_fields_of_a_profile_item_are_metadata(self, store: UserStore, tmp_path: Path) -> None:
        users = [{"user_id": 7.0, "profile": [film(1, cast=["A", "B"], seen=True, gap=None)]}]
        import_users(store, write(tmp_path / "h.json", users), task="LaMP-2M")
        assert dict(store.interactions("7")[0].metadata) == {"cast": '["A", "B"]', "seen": "true"}

    def test_user_with_bad_items_only_is_not_created(self, store: UserStore, tmp_path: Path) -> None:
        users = [{"user_id": "a", "profile": [film(1, "horror")]}, {"user_id": "b", "profile": []}]
        report = import_users(store, write(tmp_path / "h.json", users), task="LaMP-2M", skip_bad=True)
        assert report.users == 1
        assert [user.user_id for user in store.users()] == ["b"]

    def test_deep_nesting_costs_nothing(self, store: UserStore, tmp_path: Path) -> None:
        path = tmp_path / "h.json"
        path.write_text("[" * 60_000)
        tracemalloc.start()
        with pytest.raises(DataError, match="is nested more than 100 levels deep"):
            import_users(store, path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5_000_000

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
            (b"\x1f\x8b\x08compressed", "is a damaged gzip file"),
            (b"PK\x03\x04", "is binary: a zip archive or an Excel file"),
            (b"SQLite format 3\0", "is binary"),
            (b'{"task": "LaMP_2M", "golds": []}', "has answers"),
            (b"user_id,query", "a table whose header lacks `response`; it has `user_id`, `query`"),
            (b"user,query,response", "neither JSONL nor a JSON list, nor a table whose header has `user_id`"),
            (b"user_id,query,response,query\na,b,c,d", "has two columns `query`"),
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

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize(
        "text",
        [
            json.dumps(row("ann", "caf\u00e9?", id="1"), ensure_ascii=False) + "\n",
            json.dumps([row("ann", "caf\u00e9?", id="1")], ensure_ascii=False),
            "user_id,query,response,id\nann,caf\u00e9?,comedy,1\n",
            json.dumps(
                [{"user_id": "ann", "profile": [{"id": "1", "query": "caf\u00e9?", "response": "comedy"}]}]
            ),
        ],
        ids=["jsonl", "json", "csv", "oppu"],
    )
    def test_every_encoding_and_gzip_give_the_same_user(
        self, store: UserStore, tmp_path: Path, text: str, encoding: str, packed: bool
    ) -> None:
        data = text.encode(encoding)
        (tmp_path / "a").write_bytes(gzip.compress(data) if packed else data)
        import_users(store, tmp_path / "a")
        assert [(i.id, i.query, i.response) for i in store.interactions("ann")] == [
            ("1", "caf\u00e9?", "comedy")
        ]

    def test_dash_reads_standard_input(
        self, store: UserStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        lines = "".join(json.dumps(row(user, "q")) + "\n" for user in ("ann", "bo"))
        reading, writing = os.pipe()
        os.write(writing, gzip.compress(lines.encode()))
        os.close(writing)
        with os.fdopen(reading) as pipe:
            monkeypatch.setattr(sys, "stdin", pipe)
            assert import_users(store, "-").users == 2

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


@pytest.mark.real_histories
def test_imports_all_lamp_like_histories_in_both_layouts(store: UserStore, lamp_like: Path) -> None:
    folder = lamp_like / "LaMP_2M_like"
    report = import_users(store, folder / "user_top_100_history.json", task="LaMP-2M")
    assert (report.users, report.interactions, report.new, report.skipped) == (64, 877, 877, ())
    again = import_users(store, folder / "dev_questions.json", task="LaMP-2M", format="lamp")
    assert (again.users, again.interactions, again.new) == (64, 877, 0)


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(str.strip)


@given(st.lists(st.tuples(st.sampled_from("abc"), WORDS, WORDS), min_size=1, max_size=12))
@settings(max_examples=20)
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


def test_import_resumes_after_an_interrupted_one(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in ("_BATCH_BYTES", "_SERVER_BATCH_BYTES"):
        monkeypatch.setattr(f"program.store.importers.run.{size}", 1)
    path = write(tmp_path / "a.jsonl", *(row(user, "1", id="i") for user in "abc"))

    def interrupt(position: int, total: int) -> None:
        if position > total / 2:
            raise KeyboardInterrupt

    with UserStore(location) as store:
        with pytest.raises(KeyboardInterrupt):
            import_users(store, path, task="LaMP-2M", progress=interrupt)
        assert [user.user_id for user in store.users()] == ["a"]
        assert import_users(store, path, task="LaMP-2M").new == 2


@pytest.mark.parametrize("batch_bytes", [1, 200_000])
def test_users_before_one_that_is_refused_are_stored_although_all_come_together(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_bytes: int
) -> None:
    for size in ("_BATCH_BYTES", "_SERVER_BATCH_BYTES"):
        monkeypatch.setattr(f"program.store.importers.run.{size}", batch_bytes)
    rows = [row("a", "1", id="i"), row("b", "other", id="i"), row("c", "1", id="i")]
    with UserStore(location) as store:
        stored = import_users(store, write(tmp_path / "a.jsonl", row("b", "1", id="i")), task="LaMP-2M")
        assert stored.new == 1
        with pytest.raises(StoreError, match="user 'b' already has an interaction 'i' with other content"):
            import_users(store, write(tmp_path / "b.jsonl", *rows), task="LaMP-2M")
        assert [(user.user_id, user.interactions) for user in store.users()] == [("a", 1), ("b", 1)]


def test_users_of_one_transaction_keep_their_order_and_their_rows(location: str, tmp_path: Path) -> None:
    rows = [
        row(f"user {number % 7}", f"{number}", id=f"i{number}", metadata={"n": f"é\t\\N {number}"})
        for number in range(210)
    ]
    with UserStore(location) as store:
        report = import_users(store, write(tmp_path / "a.jsonl", *rows), task="LaMP-2M")
        assert (report.users, report.new) == (7, 210)
        for user in range(7):
            found = store.interactions(f"user {user}")
            assert [item.query for item in found] == [f"{number}" for number in range(user, 210, 7)]
            assert found[1].metadata == {"n": f"é\t\\N {user + 7}"}
            assert (store.user(f"user {user}").interactions, store.user(f"user {user}").stale) == (30, True)
        assert import_users(store, tmp_path / "a.jsonl", task="LaMP-2M").new == 0
        assert store.append_many({"user 1": found[:0]}, task="LaMP-2M") == 0


def test_command_warns_on_stderr_and_reads_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = json.dumps({"user_id": "ann", "messages": TURNS, "response": "Soup.", "timestamp": 4102444800})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line.encode())))
    monkeypatch.setattr(sys, "argv", ["personaagent", "users", "import", "-", "--json"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        personaagent.main()
    out, err = capsys.readouterr()
    assert not caught.value.code
    assert json.loads(out) == {"users": 1, "interactions": 1, "new": 1, "skipped": 0, "forgotten": 0}
    assert "warning: `timestamp` is in the future for 1 interaction (" in err
    assert "warning: the last `user` turn of `messages` is the query of 1 interaction" in err
