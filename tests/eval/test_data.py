import hashlib
import json
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from datasets import Dataset

from eval.data import Selection, open_data, to_datasets, users
from eval.data.read import parse_date
from eval.tasks.lamp_1 import TASK as CITATION
from eval.tasks.lamp_2m import TASK as MOVIES
from eval.tasks.lamp_2n import TASK as NEWS
from eval.tasks.lamp_3 import TASK as RATING
from eval.tasks.lamp_4 import TASK as HEADLINE
from eval.tasks.lamp_5 import TASK as PAPER
from eval.tasks.lamp_6 import TASK as EMAIL
from eval.tasks.lamp_7 import TASK as TWEET
from program.errors import ConfigError, DataError
from program.task import FREE_TEXT

FIXTURES = Path(__file__).parent / "fixtures"
TASKS = [CITATION, MOVIES, NEWS, RATING, HEADLINE, PAPER, EMAIL, TWEET]
INSTRUCTION = RATING.lead


def utc(*parts):
    return datetime(*parts, tzinfo=timezone.utc)


def item(number, date=None, text=None, score="3"):
    fields = {"id": f"i{number}", "text": text or f"review {number}", "score": score}
    return fields | ({"date": date} if date else {})


def query(number, date=None, gold="3", text=None):
    fields = {"id": f"q{number}", "input": f"{INSTRUCTION}{text or f'asked {number}'}", "gold": gold}
    return fields | ({"date": date} if date else {})


def oppu(folder, *records):
    path = folder / "user_top_100_history.json"
    path.write_text(json.dumps([{"user_id": u, "profile": p, "query": q} for u, p, q in records]))
    return path


def defects(data):
    return {entry["kind"]: entry["count"] for entry in data.manifest["defects_in_files"]}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_official_files_of_every_task_are_read(task):
    golds = json.loads((FIXTURES / task.name / "dev_outputs.json").read_text())["golds"]
    read = list(users(FIXTURES / task.name, task))
    assert {q.id: q.gold for user in read for q in user.queries} == {g["id"]: g["output"] for g in golds}
    for user in read:
        assert user.history
        assert {interaction.user_id for interaction in user.history} == {user.user_id}
        assert {q.user_id for q in user.queries} == {user.user_id}


def test_each_user_split_question_is_a_separate_user():
    first = next(users(FIXTURES / "LaMP-2N", NEWS))
    assert first.user_id == "200"
    assert first.queries[0].text == "The harbour team won again."
    assert first.history[0].query == "Rowers Rejoice The lake was calm."
    assert first.history[0].metadata == {"title": "Rowers Rejoice", "text": "The lake was calm."}
    assert first.history[0].timestamp is None


def test_questions_without_outputs_have_no_gold(tmp_path):
    shutil.copy(FIXTURES / "LaMP-3" / "dev_questions.json", tmp_path / "test_questions.json")
    read = list(users(tmp_path, RATING, split="test"))
    assert [q.gold for user in read for q in user.queries] == [None, None]


def test_time_split_merges_questions_of_one_user():
    read = {user.user_id: user for user in users(FIXTURES / "LaMP-3-time", RATING)}
    assert list(read) == ["17", "9013773"]
    twice = read["9013773"]
    assert [q.id for q in twice.queries] == ["310", "312"]
    assert [(i.id, i.timestamp) for i in twice.history] == [("b", utc(2016, 1, 1)), ("a", utc(2017, 5, 2))]


def test_oppu_files_keep_the_citation_and_all_queries():
    data = open_data(FIXTURES / "oppu-citation", CITATION)
    seven, eight = data
    assert data.manifest["layout"] == "oppu"
    assert [i.response for i in seven.history] == ["Ant Colonies for Syntax", "Bees That Spell"]
    assert [(q.id, q.gold, q.timestamp) for q in seven.queries] == [
        ("q1", "[1]", utc(2008, 1, 1)),
        ("q2", "[2]", utc(2009, 1, 1)),
    ]
    assert eight.user_id == "8"


def test_label_file_fills_in_missing_golds(tmp_path):
    bare = query(1)
    del bare["gold"]
    oppu(tmp_path, ("u", [item(1)], [bare, query(2, gold="5")]))
    golds = [{"id": "q1", "output": "4"}, {"id": "q2", "output": "1"}]
    label = {"task": "LaMP_3", "golds": golds}
    (tmp_path / "user_top_100_history_label.json").write_text(json.dumps(label))
    (user,) = users(tmp_path, RATING)
    assert [q.gold for q in user.queries] == ["4", "5"]


def parquet(path, task="lamp3", **changes):
    import pyarrow as pa
    from pyarrow import parquet as pq

    row = {
        "task": task,
        "qid": "310",
        "stratum": "long",
        "profile_len": 1,
        "input": f"{INSTRUCTION}Good rope.",
        "gold": "5",
        "profile_json": json.dumps([item(1)]),
        "source_split": "dev",
        "seed": 1,
    } | changes
    pq.write_table(pa.Table.from_pylist([row, row | {"qid": "311"}]), path)
    return path


def test_parquet_subset_is_read(tmp_path):
    read = list(users(parquet(tmp_path / "lamp_eval_subset_lamp3.parquet"), RATING))
    assert [user.user_id for user in read] == ["310", "311"]
    assert read[0].queries[0].text == "Good rope."
    assert read[0].history[0].response == "3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "lamp5"}, "field `task` is 'lamp5'"),
        ({"profile_json": "["}, "row 0: column `profile_json` is not JSON"),
        ({"profile_json": "[" * 60_000}, "`profile_json` is nested more than 100 levels deep"),
        ({"profile_json": None}, "row 0: field `profile_json` is missing"),
        ({"input": None}, "row 0: field `input` is missing"),
        ({"qid": None}, "row 0: field `qid` is missing"),
        ({"profile_json": "{}"}, "`profile_json` must be a list"),
    ],
)
def test_rejects_bad_parquet(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        open_data(parquet(tmp_path / "x.parquet", **changes), RATING)


def test_rejects_file_that_is_not_parquet(tmp_path):
    (tmp_path / "x.parquet").write_text("[]")
    with pytest.raises(DataError, match="as parquet"):
        open_data(tmp_path / "x.parquet", RATING)


def test_history_is_in_time_order_with_undated_items_first(tmp_path):
    profile = [item(1, "2017-01-02"), item(2), item(3, "2016"), item(4, "2017-01-02"), item(5, "2016-12")]
    path = oppu(tmp_path, ("u", profile, [query(1)]))
    (user,) = users(path, RATING)
    assert [i.id for i in user.history] == ["i2", "i3", "i5", "i1", "i4"]


def test_drops_history_newer_than_the_first_query(tmp_path):
    profile = [item(1, "2016-01-01"), item(2, "2016-05-01"), item(3, "2016-05-02")]
    path = oppu(tmp_path, ("u", profile, [query(1, "2016-06-01"), query(2, "2016-05-01")]))
    data = open_data(path, RATING)
    assert [i.id for i in next(iter(data)).history] == ["i1", "i2"]
    assert defects(data) == {"not-older": 1}
    assert data.manifest["defects_in_files"][0]["first"] == ["record 0, item 2"]


def test_drops_history_item_that_is_a_query(tmp_path):
    path = oppu(tmp_path, ("u", [item(1), {"id": "q1", "text": "asked 1", "score": "3"}], [query(1)]))
    data = open_data(path, RATING)
    assert [i.id for i in next(iter(data)).history] == ["i1"]
    assert defects(data) == {"query-item": 1}


def test_repeated_text_is_reported_and_dropped_on_request(tmp_path):
    path = oppu(tmp_path, ("u", [item(1), item(2, text="Asked  1")], [query(1)]))
    data = open_data(path, RATING)
    assert defects(data) == {"repeats": 1}
    assert len(next(iter(data)).history) == 2
    clean = open_data(path, RATING, selection=Selection(drop_repeats=True))
    assert [i.id for i in next(iter(clean)).history] == ["i1"]
    to_datasets(data, tmp_path / "arrow")
    stored = open_data(tmp_path / "arrow", RATING, selection=Selection(drop_repeats=True))
    assert list(stored) == list(clean)


def test_gold_that_leaks_through_the_profile_is_reported():
    assert defects(open_data(FIXTURES / "LaMP-5", PAPER)) == {"repeats": 1}


def test_own_paper_in_a_citation_history_is_reported(tmp_path):
    question = json.loads((FIXTURES / "LaMP-1" / "dev_questions.json").read_text())[1]
    question["profile"].append({"id": "x", "title": "Tides of the Inner Sea", "abstract": "Found."})
    (tmp_path / "dev_questions.json").write_text(json.dumps([question]))
    assert defects(open_data(tmp_path, CITATION)) == {"no-gold": 1, "repeats": 1}


def test_input_without_instruction_is_used_whole_and_reported(tmp_path):
    questions = json.loads((FIXTURES / "LaMP-2M" / "dev_questions.json").read_text())
    questions += [{"id": n, "input": questions[0]["input"], "profile": []} for n in ("8", "9")]
    questions.append({"id": "110", "input": "x A film of fog.", "profile": []})
    (tmp_path / "dev_questions.json").write_text(json.dumps(questions))
    data = open_data(tmp_path, MOVIES)
    assert list(data)[-1].queries[0].text == "x A film of fog."
    assert defects(data) == {"no-gold": len(questions), "query-opening": 1, "query-unreadable": 1}


@pytest.mark.parametrize(
    ("profile", "queries", "kind"),
    [
        ([item(1), item(1)], [query(1)], "duplicate-item"),
        ([item(1)], [query(1), query(1)], "duplicate-query"),
        ([item(1, "yesterday")], [query(1)], "date-unreadable"),
        ([item(1, score="great")], [query(1)], "no-rating"),
        ([item(1)], [query(1, gold="11")], "gold-type"),
    ],
)
def test_defect_is_counted(tmp_path, profile, queries, kind):
    assert defects(open_data(oppu(tmp_path, ("u", profile, queries)), RATING)) == {kind: 1}


def test_duplicate_items_get_unique_ids(tmp_path):
    path = oppu(tmp_path, ("u", [item(1), item(1, text="other"), item(1)], [query(1)]))
    (user,) = users(path, RATING)
    assert [i.id for i in user.history] == ["i1", "i1#2", "i1#3"]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (None, None),
        ("", None),
        ("2016", (2016, 1, 1)),
        ("2016-7", (2016, 7, 1)),
        ("2016-07-09", (2016, 7, 9)),
    ],
)
def test_dates_are_days_months_or_years(text, time):
    assert parse_date(text) == (time and utc(*time))


@pytest.mark.parametrize("text", ["2016-13", "07/09/2016", "2016-07-09-1", "2016-07-09T00:00", "-"])
def test_rejects_other_date_formats(text):
    with pytest.raises(ValueError, match=r".*"):
        parse_date(text)


def sized(folder, *lengths):
    records = [
        (f"u{n}", [item(i, f"20{i:02}") for i in range(length)], [query(f"{n}a"), query(f"{n}b")])
        for n, length in enumerate(lengths)
    ]
    return oppu(folder, *records)


def chosen(path, **selection):
    return [user.user_id for user in users(path, RATING, selection=Selection(**selection))]


def test_most_active_users_have_the_longest_history(tmp_path):
    path = sized(tmp_path, 2, 5, 3, 5, 1)
    assert chosen(path, users=2, order="most-active") == ["u1", "u3"]
    assert chosen(path, users=3, order="most-active") == ["u1", "u2", "u3"]
    assert chosen(path, users=2) == ["u0", "u1"]
    assert chosen(path, users=9) == ["u0", "u1", "u2", "u3", "u4"]


def test_random_users_depend_only_on_the_seed(tmp_path):
    path = sized(tmp_path, *[1] * 12)
    first = chosen(path, users=4, order="random", seed=1)
    assert first == chosen(path, users=4, order="random", seed=1)
    assert first != chosen(path, users=4, order="random", seed=2)


def test_history_limit_keeps_the_latest_or_earliest_items(tmp_path):
    path = sized(tmp_path, 4)
    (last,) = users(path, RATING, selection=Selection(history=2))
    (first,) = users(path, RATING, selection=Selection(history=2, history_from="first"))
    (none,) = users(path, RATING, selection=Selection(history=0))
    assert [i.id for i in last.history] == ["i2", "i3"]
    assert [i.id for i in first.history] == ["i0", "i1"]
    assert none.history == ()


def test_query_limit_keeps_the_first_queries(tmp_path):
    (user,) = users(sized(tmp_path, 1), RATING, selection=Selection(queries=1))
    assert [q.id for q in user.queries] == ["q0a"]


@pytest.mark.parametrize(
    "wrong",
    [{"users": 0}, {"history": -1}, {"queries": 0}, {"order": "best"}, {"history_from": "middle"}],
)
def test_rejects_invalid_selection(wrong):
    with pytest.raises(ConfigError, match=f"`{next(iter(wrong))}` must be"):
        Selection(**wrong)


def test_manifest_identifies_the_data(tmp_path):
    path = sized(tmp_path, 2, 5, 3)
    data = open_data(path, RATING, selection=Selection(users=2, order="most-active", history=4))
    assert len(data) == 2
    assert data.manifest == {
        "task": "LaMP-3",
        "layout": "oppu",
        "split": None,
        "files": [
            {
                "name": "user_top_100_history.json",
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        ],
        "source": None,
        "users_in_files": 3,
        "defects_in_files": [],
        "selection": {
            "users": 2,
            "order": "most-active",
            "history": 4,
            "history_from": "last",
            "queries": None,
            "drop_repeats": False,
            "seed": 0,
        },
        "users": 2,
        "user_ids_sha256": hashlib.sha256(b"u1\nu2").hexdigest(),
        "queries": 4,
        "interactions": 7,
        "interactions_without_date": 0,
    }


def test_manifest_holds_no_user_id_and_no_text(tmp_path):
    path = oppu(
        tmp_path, ("Ada", [item(1, text="asked 1"), item(1, "never")], [query(1, gold="x"), query(1)])
    )
    manifest = json.dumps(open_data(path, RATING).manifest)
    assert "Ada" not in manifest
    assert "asked" not in manifest
    assert "i1" not in manifest


def test_arrow_round_trips_users(tmp_path):
    data = open_data(FIXTURES / "oppu-citation", CITATION)
    file = to_datasets(data, tmp_path)
    back = open_data(tmp_path, CITATION)
    assert list(back) == list(data)
    assert back.manifest["layout"] == "arrow"
    assert back.manifest["source"] == data.manifest
    assert Dataset.from_file(str(file))[0]["user_id"] == "7"
    assert not list(tmp_path.glob("*.part"))


def test_arrow_users_can_be_selected_again(tmp_path):
    to_datasets(open_data(sized(tmp_path, 2, 5, 3), RATING), tmp_path / "a")
    (user,) = users(tmp_path / "a", RATING, selection=Selection(users=1, order="most-active", history=1))
    assert [i.id for i in user.history] == ["i4"]


def test_rejects_arrow_of_another_task(tmp_path):
    to_datasets(open_data(FIXTURES / "LaMP-3", RATING), tmp_path)
    with pytest.raises(DataError, match="field `task` is 'LaMP-3', not 'LaMP-4'"):
        open_data(tmp_path, HEADLINE)


def test_rejects_arrow_without_manifest(tmp_path):
    to_datasets(open_data(FIXTURES / "LaMP-3", RATING), tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"cannot read .*manifest\.json"):
        open_data(tmp_path, RATING)


def test_rejects_damaged_arrow(tmp_path):
    to_datasets(open_data(FIXTURES / "LaMP-3", RATING), tmp_path)
    (tmp_path / "users.arrow").write_text("no arrow")
    with pytest.raises(DataError, match="is damaged"):
        open_data(tmp_path, RATING)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("<!DOCTYPE html><html></html>", "is an HTML page"),
        ('{"task": "LaMP_3", "golds": []}', "is not a JSON list; is it the outputs file"),
        ("[]", "holds no queries"),
        ('[{"id": "1", "input": "x', "damaged or cut off"),
        ('[{"id": "1", "profile": []}]', "record 0: field `input` is missing"),
        ('[{"id": "1", "input": "x"}]', "record 0: field `profile` is missing"),
        ('[{"id": "1", "input": "x", "profile": {}}]', "field `profile` must be a list, got dict"),
        ('[{"id": "1", "input": "x", "profile": ["x"]}]', "profile item 0"),
        ('["x"]', "expected an object, got str"),
    ],
)
def test_rejects_bad_questions_file(tmp_path, content, message):
    path = tmp_path / "dev_questions.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        open_data(path, RATING, layout="lamp")
    assert str(path) in str(caught.value)


def test_rejects_file_truncated_between_records(tmp_path):
    whole = (FIXTURES / "LaMP-3" / "dev_questions.json").read_text()
    (tmp_path / "dev_questions.json").write_text(whole.rstrip().removesuffix("]"))
    with pytest.raises(DataError, match="cut off after record 0: it ends before the list is closed"):
        open_data(tmp_path, RATING)


@pytest.mark.parametrize(
    ("folder", "task", "message"),
    [
        ("LaMP-3", MOVIES, "field `task` is 'LaMP_3', but `LaMP-2M` needs"),
        ("LaMP-2M", NEWS, "field 'title' is missing; is this a file of `LaMP-2N`"),
        ("LaMP-2N", MOVIES, "is missing; is this a file of `LaMP-2M`"),
        ("oppu-citation", RATING, "field `task` is .LaMP_1., but `LaMP-3` needs"),
    ],
)
def test_rejects_file_of_another_task(folder, task, message):
    with pytest.raises(DataError, match=message):
        open_data(FIXTURES / folder, task)


def test_rejects_questions_of_another_task_without_outputs(tmp_path):
    shutil.copy(FIXTURES / "LaMP-2N" / "dev_questions.json", tmp_path)
    with pytest.raises(DataError, match="does not look like `LaMP-4` in 2 of 2 queries"):
        open_data(tmp_path, HEADLINE)


def test_rejects_missing_path(tmp_path):
    with pytest.raises(DataError, match=r"nowhere` does not exist; check the path"):
        open_data(tmp_path / "nowhere", RATING)


def test_folder_without_data_lists_expected_files(tmp_path):
    with pytest.raises(DataError, match=r"holds no data; expected dev_questions\.json"):
        open_data(tmp_path, RATING)


def test_rejects_file_of_unknown_layout(tmp_path):
    (tmp_path / "x.json").write_text('[{"a": 1}]')
    with pytest.raises(DataError, match="neither `query`"):
        open_data(tmp_path / "x.json", RATING)


def test_rejects_unknown_layout_name():
    with pytest.raises(ConfigError, match="unknown layout 'csv'"):
        open_data(FIXTURES / "LaMP-3", RATING, layout="csv")


def test_layout_argument_selects_among_several(tmp_path):
    shutil.copy(FIXTURES / "LaMP-3" / "dev_questions.json", tmp_path)
    sized(tmp_path, 1, 1, 1)
    with pytest.raises(ConfigError, match="holds data in 2 layouts"):
        open_data(tmp_path, RATING)
    assert len(open_data(tmp_path, RATING, layout="oppu")) == 3
    assert len(open_data(tmp_path, RATING, layout="lamp")) == 2


PEAK = """
import resource, sys
from eval.data import open_data
from eval.tasks.lamp_3 import TASK
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
data = open_data(sys.argv[1], TASK)
print(peak() - before, sum(len(user.history) for user in data))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_memory_does_not_grow_with_the_file(tmp_path):
    # 20 MB in LaMP-3's shape: 250 questions of 80 items of 1 kB. Parsed at once it takes about as much.
    review = "word " * 200
    profile = [item(n, text=f"{n} {review}") for n in range(80)]
    with (tmp_path / "dev_questions.json").open("w") as file:
        for n in range(250):
            row = {"id": f"{n}", "input": f"{INSTRUCTION}asked {n}", "profile": profile}
            file.write(("[" if n == 0 else ",") + json.dumps(row))
        file.write("]")
    run = [sys.executable, "-c", PEAK, str(tmp_path)]
    process = subprocess.run(run, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    megabytes, items = process.stdout.split()
    assert int(items) == 20_000
    assert float(megabytes) < 10


@pytest.mark.real_histories
@pytest.mark.parametrize(
    ("folder", "task", "counts"),
    [
        ("LaMP_1_like", CITATION, (55, 499)),
        ("LaMP_2M_like", MOVIES, (64, 187)),
        ("LaMP_2N_like", NEWS, (35, 221)),
        ("LaMP_3_like", RATING, (59, 1180)),
        ("LaMP_4_like", HEADLINE, (38, 287)),
    ],
)
def test_lamp_like_data_is_read_completely(lamp_like, folder, task, counts):
    data = open_data(lamp_like / folder, task, layout="oppu")
    assert (data.manifest["users"], data.manifest["queries"]) == counts
    assert defects(data).keys() <= {"repeats"}
    for user in data:
        newest = max(i.timestamp for i in user.history)
        assert newest <= min(q.timestamp for q in user.queries)


def test_plain_task_reads_the_same_layouts(tmp_path):
    profile = [{"id": "i1", "query": "Lunch?", "response": "Soup.", "date": "2020", "mood": "calm"}]
    queries = [{"id": "q1", "input": " Dinner? ", "gold": "Bread."}]
    (user,) = users(oppu(tmp_path, ("u", profile, queries)), FREE_TEXT)
    assert (user.history[0].query, user.history[0].response) == ("Lunch?", "Soup.")
    assert user.history[0].metadata == {"mood": "calm"}
    assert (user.queries[0].text, user.queries[0].gold) == ("Dinner?", "Bread.")


def test_invalid_ratings_are_dropped_and_floats_are_read(tmp_path):
    path = oppu(tmp_path, ("u", [item(1, score="great"), item(2, score=5.0), item(3, score="7")], [query(1)]))
    (user,) = users(path, RATING)
    assert [(i.id, i.response) for i in user.history] == [("i2", "5")]


def test_last_of_duplicate_queries_counts(tmp_path):
    path = oppu(tmp_path, ("u", [item(1)], [query(1, gold="1"), query(2), query(1, gold="5")]))
    data = open_data(path, RATING)
    (user,) = data
    assert [(q.id, q.gold) for q in user.queries] == [("q2", "3"), ("q1", "5")]
    assert data.manifest["queries"] == 2
    assert defects(data) == {"duplicate-query": 1}


def test_two_users_may_have_equal_query_ids(tmp_path):
    path = oppu(tmp_path, ("u", [item(1)], [query(1)]), ("v", [item(1)], [query(1)]))
    assert defects(open_data(path, RATING)) == {}


def test_arrow_keeps_the_defects_of_its_source(tmp_path):
    data = open_data(oppu(tmp_path, ("u", [item(1), item(1)], [query(1)])), RATING)
    to_datasets(data, tmp_path / "a")
    assert defects(open_data(tmp_path / "a", RATING)) == defects(data) == {"duplicate-item": 1}


def test_gold_that_is_not_a_number_is_reported_and_removed(tmp_path):
    path = oppu(tmp_path, ("u", [item(1)], [query(1, gold="five"), query(2, gold="4")]))
    data = open_data(path, RATING)
    assert defects(data) == {"gold-type": 1}
    assert [q.gold for user in data for q in user.queries] == [None, "4"]


def test_date_in_milliseconds_is_reported(tmp_path):
    data = open_data(oppu(tmp_path, ("u", [item(1, "1356998400000")], [query(1)])), RATING)
    assert defects(data) == {"date-unreadable": 1}


def test_gold_too_large_for_lamps_scorer_is_removed(tmp_path):
    data = open_data(oppu(tmp_path, ("u", [item(1)], [query(1, gold="1" + "0" * 60)])), RATING)
    assert [q.gold for user in data for q in user.queries] == [None]


def test_interrupted_arrow_write_is_overwritten(tmp_path):
    data = open_data(oppu(tmp_path, ("u", [item(1)], [query(1)])), RATING)
    (tmp_path / "a").mkdir()
    for name in ("manifest.json", "users.arrow.part"):
        (tmp_path / "a" / name).write_text("{")
    to_datasets(data, tmp_path / "a")
    assert [user.user_id for user in open_data(tmp_path / "a", RATING)] == ["u"]
