"""The parts of the data loaders: JSON lists, raw fields, dates, merging, defects, Arrow."""

import contextlib
import gzip
import json
import math
from datetime import date, datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.contracts import EvalUser, Query
from eval.data import open_data, to_datasets
from eval.data.arrow import ArrowFile, write_arrow
from eval.data.defects import MEANING, Defect, summarise
from eval.data.jsonlist import elements, first_element
from eval.data.layout import detect
from eval.data.merge import merge_users
from eval.data.raw import RawQuery, RawUser, read_id, read_optional, read_text, require, require_list
from eval.data.read import find_repeats, parse_date, read_user
from eval.tasks.lamp_3 import TASK as RATING
from eval.tasks.lamp_4 import TASK as HEADLINE
from program.errors import ConfigError, DataError
from program.memory.interaction import Interaction
from program.task import FREE_TEXT

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def write(folder, text):
    path = folder / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@given(st.lists(JSON, max_size=5))
@settings(max_examples=50)
def test_elements_equal_json_loads(tmp_path_factory, values):
    path = write(tmp_path_factory.mktemp("json"), json.dumps(values))
    assert list(elements(path)) == values


def test_byte_order_mark_and_white_space_are_skipped(tmp_path):
    assert list(elements(write(tmp_path, b"\xef\xbb\xbf \n\t[1, 2]"))) == [1, 2]


def test_first_element_of_an_empty_list_is_none(tmp_path):
    assert first_element(write(tmp_path, "[]")) is None


def test_first_element_ignores_damage_after_it(tmp_path):
    assert first_element(write(tmp_path, '[{"a": 1}, {"a": ')) == {"a": 1}


def test_elements_before_the_damage_are_yielded(tmp_path):
    reader = elements(write(tmp_path, '[{"id": "1"}, {"id": "2"}, {"id'))
    assert [next(reader), next(reader)] == [{"id": "1"}, {"id": "2"}]
    with pytest.raises(
        DataError, match="damaged or cut off after record 1: it ends before the list is closed; download"
    ):
        next(reader)


def test_text_that_is_not_utf_8_is_damaged(tmp_path):
    with pytest.raises(DataError, match="damaged or cut off"):
        list(elements(write(tmp_path, b'["\xff\xfe"]')))


def test_damage_in_the_first_record_names_no_record(tmp_path):
    with pytest.raises(DataError, match=r"is damaged or cut off: it ends .*; download or write it again$"):
        list(elements(write(tmp_path, '[{"id')))


def test_folder_in_place_of_a_file_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"`.*` is not a regular file; give the path of a data file"):
        list(elements(tmp_path))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, r"^file, record 0: expected an object, got NoneType$"),
        ([], r"^file, record 0: expected an object, got list$"),
        ({}, r"^file, record 0: field `profile` is missing; check `--layout` and the path$"),
        ({"profile": None}, r"^file, record 0: field `profile` must be a list, got NoneType$"),
    ],
)
def test_bad_field_error_names_place_and_field(record, message):
    with pytest.raises(DataError, match=message):
        require_list(record, "profile", "file, record 0")


def test_null_is_a_value_of_a_required_field():
    assert require({"id": None}, "id", "file") is None


@pytest.mark.parametrize(
    ("value", "text"), [(None, None), (math.nan, None), (5, "5"), (4.5, "4.5"), ("", ""), (0, "0")]
)
def test_optional_scalars_become_text_and_gaps_none(value, text):
    assert read_optional({"gold": value}, "gold", "file") == text


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (7.0, "7"), ("7", "7"), ("7.0", "7.0")])
def test_whole_floats_are_ids(value, text):
    assert read_id({"id": value}, "id", "file") == text


@pytest.mark.parametrize("read", [read_id, read_text])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "is missing: it must be .*, not null"),
        (math.nan, "is missing: it must be .*, not NaN"),
        (math.inf, "must be .*, not Infinity"),
        (True, "must be .*, not a boolean"),
        ([], "must be .*, not a list"),
        ("a\ud800", "holds half of a surrogate pair at character 1; correct it in the file"),
        ("a\0", "holds a NUL character at character 1"),
    ],
)
def test_bad_value_is_refused_by_place_and_name(read, value, problem):
    with pytest.raises(DataError, match=f"^file, record 0: field `x` {problem}"):
        read({"x": value}, "x", "file, record 0")


@given(st.dates(min_value=date(1, 1, 1)))
@settings(max_examples=50)
def test_iso_dates_are_midnight_utc(day):
    assert parse_date(day.isoformat()) == datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
    assert parse_date(f"{day.year:04}-{day.month}") == datetime(day.year, day.month, 1, tzinfo=timezone.utc)
    assert parse_date(f" {day.year:04} ") == datetime(day.year, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("text", ["2023-02-29", "2024-00-01", "0", "-2016", "2016-", "2016-1.5"])
def test_impossible_dates_are_rejected(text):
    with pytest.raises(ValueError, match=r".*"):
        parse_date(text)


def record(user_id, *item_ids, query="q"):
    return RawUser(
        user_id=user_id,
        profile=[{"id": item_id, "text": "t", "score": "3"} for item_id in item_ids],
        queries=[RawQuery(id=query, input="x", gold=None, date=None)],
        file=Path("f.json"),
        position="record 0",
    )


def test_merged_history_is_the_intersection_of_the_profiles():
    records = [record("u", "a", "b", "c", query="1"), record("v", "z"), record("u", "c", "a", query="2")]
    v, u = merge_users(iter(records), {"u": 2, "v": 1})
    assert (v.user_id, u.user_id) == ("v", "u")
    assert [item["id"] for item in u.profile] == ["a", "c"]
    assert [query.id for query in u.queries] == ["1", "2"]


def test_user_without_count_has_one_record():
    assert [user.user_id for user in merge_users(iter([record("u"), record("v")]), {})] == ["u", "v"]


@given(st.lists(st.tuples(st.sampled_from("uvw"), st.frozensets(st.sampled_from("abcd"))), max_size=9))
@settings(max_examples=50)
def test_merging_keeps_every_query_and_only_common_items(rows):
    records = [record(user, *sorted(items), query=str(number)) for number, (user, items) in enumerate(rows)]
    counts = {user: sum(name == user for name, _ in rows) for user, _ in rows}
    merged = {user.user_id: user for user in merge_users(iter(records), counts)}
    assert merged.keys() == counts.keys()
    for name, user in merged.items():
        own = [(str(number), items) for number, (other, items) in enumerate(rows) if other == name]
        assert [query.id for query in user.queries] == [number for number, _ in own]
        common = frozenset.intersection(*(items for _, items in own))
        assert [item["id"] for item in user.profile] == sorted(common)


def test_defects_are_summarised_by_kind():
    defects = [Defect("repeats", f"record {n}") for n in range(7)] + [Defect("gold-type", "record 2")]
    assert summarise(defects) == [
        {"kind": "gold-type", "meaning": MEANING["gold-type"], "count": 1, "first": ["record 2"]},
        {
            "kind": "repeats",
            "meaning": MEANING["repeats"],
            "count": 7,
            "first": [f"record {n}" for n in range(5)],
        },
    ]
    assert summarise([]) == []


def test_headline_with_the_gold_of_a_query_is_a_repeat():
    user = EvalUser(
        user_id="u",
        history=(
            Interaction(id="same", user_id="u", query="other text", response="Rain  WINS"),
            Interaction(id="other", user_id="u", query="text", response="Sun wins"),
        ),
        queries=(Query(id="q", user_id="u", text="a text", gold="rain wins"),),
    )
    assert find_repeats(user, HEADLINE) == {"same"}


def test_equal_ratings_are_not_repeats():
    user = EvalUser(
        user_id="u",
        history=(Interaction(id="h", user_id="u", query="a rope", response="5"),),
        queries=(Query(id="q", user_id="u", text="a spoon", gold="5"),),
    )
    assert find_repeats(user, RATING) == frozenset()


def test_unique_ids_avoid_ids_that_the_file_uses():
    raw = record("u", "a", "a#2", "a", "a")
    reading = read_user(raw, RATING)
    assert [item.id for item in reading.user.history] == ["a", "a#2", "a#3", "a#4"]
    assert [defect.kind for defect in reading.defects if defect.kind == "duplicate-item"] == [
        "duplicate-item",
        "duplicate-item",
    ]


def test_metadata_holds_fields_that_query_and_response_lack():
    raw = record("u", "a")
    raw.profile[0].update(date="2020", asin=17, note=" t ")
    (item,) = read_user(raw, RATING).user.history
    assert item.metadata == {"asin": "17"}
    assert item.timestamp == datetime(2020, 1, 1, tzinfo=timezone.utc)


def test_profile_item_without_id_is_reported():
    raw = record("u", "a")
    del raw.profile[0]["id"]
    with pytest.raises(DataError, match=r"^`f.json`, record 0, profile item 0: field `id` is missing"):
        read_user(raw, RATING)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TIMES = st.none() | st.datetimes(timezones=st.just(timezone.utc), allow_imaginary=False)
METADATA = st.dictionaries(TEXT, TEXT, max_size=2)


@st.composite
def eval_users(draw):
    user_id = draw(TEXT)
    interactions = st.builds(
        Interaction,
        id=TEXT,
        user_id=st.just(user_id),
        query=TEXT,
        response=TEXT,
        timestamp=TIMES,
        metadata=METADATA,
    )
    queries = st.builds(
        Query,
        id=TEXT,
        user_id=st.just(user_id),
        text=TEXT,
        gold=st.none() | TEXT,
        timestamp=TIMES,
        metadata=METADATA,
    )
    return EvalUser(
        user_id=user_id,
        history=tuple(draw(st.lists(interactions, max_size=2))),
        queries=tuple(draw(st.lists(queries, max_size=2))),
    )


@pytest.fixture(scope="module")
def arrow_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arrow")


def test_arrow_file_round_trips_any_user(arrow_folder):
    count = 0

    @given(st.lists(eval_users(), max_size=3))
    def round_trip(users):
        nonlocal count
        count += 1
        file = write_arrow(users, {"task": FREE_TEXT.name}, arrow_folder / str(count))
        assert [reading.user for reading in ArrowFile(file, FREE_TEXT).readings()] == users

    settings(max_examples=15)(round_trip)()


def test_failed_arrow_write_keeps_the_old_file(tmp_path):
    ana = EvalUser(user_id="ana", history=(), queries=())
    file = write_arrow([ana], {"task": FREE_TEXT.name}, tmp_path)
    content = file.read_bytes()

    def broken():
        yield ana
        raise DataError("record 1 is damaged")

    with pytest.raises(DataError, match="record 1 is damaged"):
        write_arrow(broken(), {"task": FREE_TEXT.name}, tmp_path)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["manifest.json", "dev_questions.json"])
def test_folder_name_that_is_a_file_cannot_be_written(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match="cannot write `"):
        write_arrow([], {}, tmp_path / name)


def test_arrow_manifest_that_is_not_json_is_reported(tmp_path):
    file = write_arrow([], {"task": FREE_TEXT.name}, tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest of `users.arrow`; write the data set again"):
        ArrowFile(file, FREE_TEXT).manifest()


def plain(folder, name, **fields):
    profile = [{"id": "1", "query": "Tea?", "response": "Mint."}]
    (folder / name).write_text(json.dumps([{"profile": profile, **fields}]))


def test_folder_with_several_layouts_asks_which(tmp_path):
    plain(tmp_path, "dev_questions.json", id="q", input="Cake?")
    assert detect(tmp_path, "auto", "dev")[0] == "lamp"
    plain(tmp_path, "user_top_100_history.json", user_id="u", query=[{"id": "q", "input": "Cake?"}])
    names = r"lamp \(dev_questions.json\) and oppu \(user_top_100_history.json\)"
    with pytest.raises(ConfigError, match=rf"holds data in 2 layouts: {names}; choose one with `--layout`"):
        detect(tmp_path, "auto", "dev")
    for layout in ("lamp", "oppu"):
        assert detect(tmp_path, layout, "dev")[0] == layout
    to_datasets(open_data(tmp_path, FREE_TEXT, layout="oppu"), tmp_path)
    with pytest.raises(ConfigError, match="in 3 layouts"):
        detect(tmp_path, "auto", "dev")


@pytest.mark.parametrize("name", ["dev_questions.json.gz", "user_top_100_history.json.gz"])
def test_packed_files_of_a_folder_are_read(tmp_path, name):
    profile = [{"id": "1", "query": "Tea?", "response": "Mint."}]
    record = (
        {"id": "q", "input": "Cake?", "profile": profile}
        if name.startswith("dev")
        else {"user_id": "q", "profile": profile, "query": [{"id": "q", "input": "Cake?"}]}
    )
    (tmp_path / name).write_bytes(gzip.compress(json.dumps([record]).encode()))
    golds = {"task": "free-text", "golds": [{"id": "q", "output": "Yes."}]}
    beside = "dev_outputs.json.gz" if name.startswith("dev") else "user_top_100_history_label.json.gz"
    (tmp_path / beside).write_bytes(gzip.compress(json.dumps(golds).encode()))
    data = open_data(tmp_path, FREE_TEXT)
    assert [query.gold for user in data for query in user.queries] == ["Yes."]
    assert [file["name"] for file in data.manifest["files"]] == [name, beside]


GOLD_NAMES = [
    ("dev_questions", "dev_outputs"),
    ("dev_questions", "dev_golds"),
    ("dev_questions", "dev_questions_golds"),
    ("my_questions", "my_labels"),
    ("all_user", "all_user_golds"),
    ("all_user", "all_user_outputs"),
    ("all_user", "all_user_label"),
    ("all_user", "golds"),
    ("user_top_100_history", "user_top_100_history_label"),
]


@pytest.mark.parametrize(("name", "golds"), GOLD_NAMES)
def test_golds_are_found_under_every_name(tmp_path, name, golds):
    content = {"task": "free-text", "golds": [{"id": 1.0, "output": "Yes."}, {"id": 2, "output": "No."}]}
    (tmp_path / f"{golds}.json").write_text(json.dumps(content))
    profile = [{"id": "p", "query": "Tea?", "response": "Mint."}]
    queries = [{"id": "1", "input": "Cake?"}, {"id": 2, "input": "Pie?"}, {"id": "3", "input": "Jam?"}]
    (tmp_path / f"{name}.json").write_text(
        json.dumps([{"user_id": "u", "profile": profile, "query": queries}])
    )
    data = open_data(tmp_path / f"{name}.json", FREE_TEXT)
    assert [query.gold for user in data for query in user.queries] == ["Yes.", "No.", None]
    [defect] = data.manifest["defects_in_files"]
    assert (defect["kind"], defect["count"], defect["first"]) == ("no-gold", 1, ["record 0, query 2"])
    assert "NAME_golds.json" in defect["meaning"]


def test_gold_in_the_query_comes_first_and_null_is_none(tmp_path):
    queries = [
        {"id": "1", "input": "a", "gold": "in"},
        {"id": "2", "input": "b", "gold": None, "output": "out"},
        {"id": "3", "input": "c", "gold": math.nan},
    ]
    (tmp_path / "x.json").write_text(json.dumps([{"user_id": "u", "profile": [], "query": queries}]))
    data = open_data(tmp_path / "x.json", FREE_TEXT)
    assert [query.gold for user in data for query in user.queries] == ["in", "out", None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"user_id": None},
            "record 0: field `user_id` is missing: it must be text or a whole number, not null",
        ),
        ({"user_id": 7.5}, "record 0: field `user_id` must be text or a whole number, not 7.5"),
        ({"query": [{"id": math.nan, "input": "x"}]}, "record 0, query 0: field `id` is missing"),
        ({"query": [{"id": "1", "input": None}]}, "record 0, query 0: field `input` is missing"),
        ({"query": [{"id": "1", "input": "x", "gold": ["a"]}]}, "field `gold` must be text .* not a list"),
        ({"query": ["x"]}, "record 0, query 0: expected an object, got str"),
        ({"profile": ["x"]}, "record 0, profile item 0: expected an object, got str"),
        (
            {"profile": [{"id": "1", "query": "a", "response": None}]},
            "profile item 0: field `response` is missing",
        ),
        (
            {"profile": [{"id": "1", "query": math.nan, "response": "a"}]},
            "field `query` is missing: .* not NaN",
        ),
        (
            {"profile": [{"id": "1", "query": "a\ud800", "response": "b"}]},
            "`query` holds half of a surrogate",
        ),
        ({"profile": [{"id": "1", "query": "a", "response": "b", "x": ["\ud800"]}]}, "`x` holds half"),
    ],
)
def test_bad_field_is_refused_with_record_and_name(tmp_path, changes, message):
    record = {"user_id": "u", "profile": [], "query": [{"id": "1", "input": "x"}]} | changes
    (tmp_path / "x.json").write_text(json.dumps([record]))
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / "x.json", FREE_TEXT, layout="oppu")


def test_null_rating_is_dropped_and_null_review_refused(tmp_path):
    query = {"id": "q", "input": f"{RATING.lead}x", "gold": "4"}
    profile = [{"id": "1", "text": "a", "score": None}, {"id": "2", "text": "b", "score": math.nan}]
    (tmp_path / "x.json").write_text(json.dumps([{"user_id": "u", "profile": profile, "query": [query]}]))
    data = open_data(tmp_path / "x.json", RATING)
    assert [(d["kind"], d["count"]) for d in data.manifest["defects_in_files"]] == [("no-rating", 2)]
    profile[0] = {"id": "1", "text": None, "score": "3"}
    (tmp_path / "x.json").write_text(json.dumps([{"user_id": "u", "profile": profile, "query": [query]}]))
    with pytest.raises(DataError, match=r"profile item 0: field `text` is missing: .* not null"):
        open_data(tmp_path / "x.json", RATING)


def test_deep_file_is_refused_at_once(tmp_path):
    with pytest.raises(DataError, match="is nested more than 100 levels deep"):
        list(elements(write(tmp_path, "[" * 60_000)))


def test_every_damage_of_an_arrow_file_is_an_error_or_the_same_users(tmp_path):
    ana = EvalUser(
        user_id="ana",
        history=(Interaction(id="1", user_id="ana", query="Tea?", response="Mint.", metadata={"a": "b"}),),
        queries=(Query(id="2", user_id="ana", text="Cake?", gold="Yes."),),
    )
    file = write_arrow([ana], {"task": FREE_TEXT.name}, tmp_path)
    whole = file.read_bytes()
    for number in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[number] ^= 0xFF
        file.write_bytes(damaged)
        with contextlib.suppress(DataError):
            for reading in ArrowFile(file, FREE_TEXT).readings():
                assert isinstance(reading.user, EvalUser)


@pytest.mark.parametrize("content", ["[]", '"x"', '{"task": "free-text", "defects_in_files": [{"kind": 1}]}'])
def test_damaged_arrow_manifest_is_named(tmp_path, content):
    file = write_arrow([], {"task": FREE_TEXT.name}, tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json`"):
        ArrowFile(file, FREE_TEXT).manifest()


def test_split_folder_below_the_path_is_read(tmp_path):
    (tmp_path / "train").mkdir()
    plain(tmp_path / "train", "train_questions.json", id="q", input="Cake?")
    assert detect(tmp_path, "lamp", "train") == ("lamp", tmp_path / "train" / "train_questions.json")
    with pytest.raises(DataError, match="expected dev_questions"):
        detect(tmp_path, "lamp", "dev")


def test_file_layout_is_detected_by_its_first_record(tmp_path):
    plain(tmp_path, "any.json", id="q", input="Cake?")
    assert detect(tmp_path / "any.json", "auto", "dev")[0] == "lamp"
    plain(tmp_path, "any.json", user_id="u", query=[])
    assert detect(tmp_path / "any.json", "auto", "dev")[0] == "oppu"
