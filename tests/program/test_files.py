"""Files as people have them: encodings, gzip, limits, JSON with a limit of depth."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import random
import stat
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program import files, json_text
from program.errors import DataError
from program.files import open_utf8, read_lines
from program.json_text import MAX_DEPTH, JsonError, parse, read, split_list

TEXT = "caf\u00e9 \u2615\nsecond line\n"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab"\\[]{},:\u00e9\n', max_size=9),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text("a]\\", max_size=3), values),
    max_leaves=9,
)


def content(path: Path) -> bytes:
    with open_utf8(path) as text:
        return text.file.read()


class TestOpen:
    @pytest.mark.parametrize(
        "encoding",
        ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
    )
    @pytest.mark.parametrize("packed", [0, 1])
    def test_every_encoding_is_read_as_utf8(self, tmp_path: Path, encoding: str, packed: int) -> None:
        data = ("plain ascii first, then " + TEXT).encode(encoding)
        path = tmp_path / "a.txt"
        path.write_bytes(gzip.compress(data) if packed else data)
        assert content(path).decode() == "plain ascii first, then " + TEXT

    @pytest.mark.parametrize(("encoding", "mark"), [("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")])
    def test_mark_shows_the_encoding_of_text_without_ascii(
        self, tmp_path: Path, encoding: str, mark: bytes
    ) -> None:
        (tmp_path / "a.txt").write_bytes(mark + "\u65e5\u672c\u8a9e".encode(encoding))
        assert content(tmp_path / "a.txt").decode() == "\u65e5\u672c\u8a9e"

    def test_plain_file_is_not_copied(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text(TEXT)
        with open_utf8(tmp_path / "a.txt") as text:
            assert Path(text.file.name) == tmp_path / "a.txt"

    def test_parts_of_gzip_are_joined(self, tmp_path: Path) -> None:
        (tmp_path / "a.gz").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
        assert content(tmp_path / "a.gz") == b"one\ntwo\n"

    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            (gzip.compress(b"x" * 5000, mtime=0)[:-9], "is a damaged gzip file"),
            (b"\x1f\x8b\x08\x00broken", "is a damaged gzip file"),
            (gzip.compress(gzip.compress(b"twice", mtime=0), mtime=0), "is binary, not text|begins as"),
            (b"\xff\xfea\x00\x00\xd8b\x00", "begins as UTF-16 but is damaged"),
            (b"\xff\xfea", "begins as UTF-16 but is damaged"),
            (b"\xff\xfe\x00\x00\xff\xff\xff\xff", "begins as UTF-32 but is damaged"),
            (b"\x00\x01\x02\x03", "is binary, not text"),
            (b"PK\x03\x04", "a zip archive or an Excel file; unpack it, or save the table as CSV"),
            (b"SQLite format 3\x00", "a SQLite database"),
            (b"PAR1", "a parquet file"),
            (b"%PDF-1.4", "a PDF"),
        ],
    )
    def test_what_is_not_text_is_named(self, tmp_path: Path, data: bytes, problem: str) -> None:
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(DataError, match=problem) as caught:
            content(tmp_path / "a")
        assert str(tmp_path / "a") in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            ("absent", "does not exist"),
            (".", "is not a regular file"),
            ("x" * 300, "File name too long; check the path"),
            ("nul\0", "null"),
        ],
    )
    def test_path_that_cannot_be_read_is_named(self, tmp_path: Path, name: str, problem: str) -> None:
        with pytest.raises(DataError, match=problem):
            content(tmp_path / name)

    @pytest.mark.skipif(os.name != "posix", reason="devices are files on POSIX only")
    def test_device_is_refused_and_pipe_is_read(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is not a regular file"):
            content(Path("/dev/zero"))
        reading, writing = os.pipe()
        os.write(writing, TEXT.encode("utf-16"))
        os.close(writing)
        assert content(Path(f"/dev/fd/{reading}")).decode() == TEXT
        os.close(reading)

    def test_dash_is_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(b"x"))))
        assert content(Path("-")) == b"x"
        monkeypatch.setattr(sys, "stdin", None)
        with pytest.raises(DataError, match="there is no standard input"):
            content(Path("-"))

    def test_archive_that_grows_without_end_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "_RATIO_MATTERS", 1 << 20)
        (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(20 << 20)))
        with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
            content(tmp_path / "a.gz")

    def test_unpacked_copy_is_for_the_owner_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "_IN_MEMORY", 1)
        (tmp_path / "a.gz").write_bytes(gzip.compress(TEXT.encode()))
        with open_utf8(tmp_path / "a.gz") as text:
            assert stat.S_IMODE(os.fstat(text.file.fileno()).st_mode) & 0o077 == 0

    def test_full_disk_is_a_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Full(io.BytesIO):
            def write(self, data: Any) -> int:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr("tempfile.SpooledTemporaryFile", lambda **_: Full())
        (tmp_path / "a.gz").write_bytes(gzip.compress(b"x"))
        with pytest.raises(DataError, match=r"cannot unpack .*No space left"):
            content(tmp_path / "a.gz")


class TestLines:
    def test_lines_lose_their_ends_and_the_mark_only(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\n\n  two\xe2\x80\xa8\nlast")
        assert list(read_lines(tmp_path / "a")) == ["one", "", "  two\u2028", "last"]

    def test_bad_line_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"one\nt\xffo\n")
        with pytest.raises(
            DataError, match=r"a` line 2: is not UTF-8 text \(byte 1\); save the file as UTF-8"
        ):
            list(read_lines(tmp_path / "a"))

    def test_line_over_the_limit_is_passed_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "MAX_RECORD_BYTES", 4)
        monkeypatch.setattr(files, "_CHUNK", 3)
        (tmp_path / "a").write_bytes(b"one\n12345678901\ntwo\n1234")
        with open_utf8(tmp_path / "a") as text:
            assert list(text.lines()) == [
                (1, 0, b"one\n"),
                (2, 4, None),
                (3, 16, b"two\n"),
                (4, 20, b"1234"),
            ]
        with pytest.raises(DataError, match="line 2: is longer than"):
            list(read_lines(tmp_path / "a"))


class TestParse:
    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            (b"", "is not JSON: Expecting value at character 1"),
            (b'{"a": 1,\n "b"}', "is not JSON: Expecting ':' delimiter at line 2 column 5"),
            (b"[" * 60_000, "is nested more than 100 levels deep"),
            (b'{"a":' * 60_000, "is nested more than 100 levels deep"),
            (b'["\xff"]', "is not UTF-8 text"),
            (b"1" * 5000, "has a number with too many digits"),
        ],
    )
    def test_reason_is_given_without_the_text(self, data: bytes, problem: str) -> None:
        with pytest.raises(JsonError, match=problem):
            parse(data)

    def test_depth_counts_brackets_outside_of_strings(self) -> None:
        deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
        assert parse(deep.encode()) == json.loads(deep)
        with pytest.raises(JsonError, match="levels deep"):
            parse(f"[{deep}]".encode())
        wide = json.dumps({"text": "[" * 500, '\\"': ["\\", "{" * 500], "many": [[]] * 500})
        assert parse(wide.encode()) == json.loads(wide)

    def test_numbers_that_json_has_not_become_floats(self) -> None:
        first, second, third = parse(b"[NaN, -Infinity, 1e999]")
        assert (math.isnan(first), second, third) == (True, -math.inf, math.inf)

    def test_file_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(gzip.compress(json.dumps({"a": 1}).encode("utf-16")))
        assert read(path) == {"a": 1}
        path.write_text("{")
        with pytest.raises(DataError, match=r"a\.json` is not JSON: .* at character 2; download or write it"):
            read(path)
        monkeypatch.setattr(json_text, "MAX_RECORD_BYTES", 0)
        with pytest.raises(DataError, match=r"a\.json` has more than 0 MB"):
            read(path)


class TestSplitList:
    @given(st.lists(VALUES, max_size=5), st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
    def test_items_are_those_of_the_list(
        self, values: list[Any], chunk: int, indent: int | None, ascii_only: bool
    ) -> None:
        text = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode()
        file = io.BytesIO(b"abc \n" + text + b"\n ")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_text, "_CHUNK", chunk)
            items = []
            for item in split_list(file, 3):
                file.seek(item.position)
                assert file.read(len(item.data)) == item.data
                items.append(item.parse())
            assert items == values
            with pytest.raises(JsonError):
                list(split_list(io.BytesIO(text[:-1])))

    @given(st.binary(max_size=40))
    def test_other_bytes_give_items_or_a_reason(self, data: bytes) -> None:
        with contextlib.suppress(JsonError):
            for item in split_list(io.BytesIO(b"[" + data)):
                item.parse()

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b"", "is not a JSON list"),
            (b"{}", "is not a JSON list"),
            (b"[", "ends before the list is closed"),
            (b'["a', "ends before the list is closed"),
            (b"[1,]", "has a comma without a value"),
            (b"[,1]", "has a comma without a value"),
            (b"[1}", "has a `}` without a `{`"),
            (b"[1] [", "goes on after the end of the list"),
            (b"[" * 60_000, "is nested more than 100 levels deep"),
        ],
    )
    def test_broken_list_has_a_reason(self, text: bytes, reason: str) -> None:
        with pytest.raises(JsonError, match=reason):
            list(split_list(io.BytesIO(text)))

    def test_items_before_the_damage_are_given(self) -> None:
        items = split_list(io.BytesIO(b'[1, {"a": 2}, [3'))
        assert [next(items).parse(), next(items).parse()] == [1, {"a": 2}]
        with pytest.raises(JsonError):
            next(items)

    def test_long_value_is_refused_before_it_fills_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Endless(io.RawIOBase):
            """A list with one string that never ends."""

            position = 0

            def seek(self, position: int, whence: int = 0) -> int:
                self.position = position
                return position

            def read(self, size: int = -1) -> bytes:
                data = (b'["' if self.position == 0 else b"") + b"x" * size
                self.position += size
                return data[:size]

        monkeypatch.setattr(json_text, "MAX_RECORD_BYTES", 1 << 20)
        tracemalloc.start()
        with pytest.raises(JsonError, match="is longer than"):
            list(split_list(Endless()))  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10 << 20

    def test_long_list_is_read_with_one_item_in_memory(self) -> None:
        rng = random.Random(1)
        row = json.dumps({"text": "".join(rng.choices('ab "\\\n', k=2000))})
        file = io.BytesIO(f"[{','.join([row] * 300)}]".encode())
        tracemalloc.start()
        assert sum(1 for _ in split_list(file)) == 300
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 300_000
