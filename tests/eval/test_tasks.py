import importlib
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.tasks.base import LampTask, after, appended
from eval.tasks.lamp_1 import options, question_text
from eval.tasks.titles import PUBLIC_TITLES
from program.answers import Labels, Rating, Text
from program.errors import DataError, UnparsableAnswerError
from program.memory.interaction import Interaction
from program.task import FREE_TEXT, get_task

FIXTURES = Path(__file__).parent / "fixtures"
MODULES = {name: f"eval.tasks.lamp_{name[5:].lower()}:TASK" for name in (
    "LaMP-1", "LaMP-2M", "LaMP-2N", "LaMP-3", "LaMP-4", "LaMP-5", "LaMP-6", "LaMP-7"
)}  # fmt: skip


def task_of(name: str) -> LampTask:
    task = get_task(MODULES[name])
    assert isinstance(task, LampTask)
    return task


def questions(name: str) -> list[dict[str, object]]:
    return json.loads((FIXTURES / name / "dev_questions.json").read_text())


def past(name: str, number: int = 0, item: int = 0) -> Interaction:
    raw = questions(name)[number]["profile"][item]
    read = task_of(name).read_item(raw)
    rest = {key: value for key, value in raw.items() if key != "id" and value not in read}
    return Interaction(id=raw["id"], user_id="u", query=read.query, response=read.response, metadata=rest)


@pytest.mark.parametrize("name", MODULES)
def test_task_has_its_public_name(name):
    assert task_of(name).name == name


@pytest.mark.parametrize("name", MODULES)
def test_full_input_equals_lamps(name):
    task = task_of(name)
    for question in questions(name):
        assert task.full_input(task.read_query(question["input"])) == question["input"]


@pytest.mark.parametrize("name", MODULES)
def test_question_does_not_contain_the_item(name):
    task = task_of(name)
    for question in questions(name):
        assert task.read_query(question["input"]) not in task.question


@pytest.mark.parametrize("name", MODULES)
def test_missing_profile_field_raises_key_error(name):
    for field in task_of(name).item_fields:
        item = dict(questions(name)[0]["profile"][0])
        del item[field]
        with pytest.raises(KeyError, match=field):
            task_of(name).read_item(item)


@pytest.mark.parametrize("name", MODULES)
def test_rejects_input_of_no_task(name):
    with pytest.raises(DataError, match="another task"):
        task_of(name).read_query("Sing a song.")


@pytest.mark.parametrize(
    ("name", "query", "response"),
    [
        ("LaMP-1", "Ants and Grammar We let ants parse.", ""),
        ("LaMP-2M", "Two mayors share one hat.", "comedy"),
        ("LaMP-2N", "Rowers Rejoice The lake was calm.", "sports"),
        ("LaMP-3", "A fine spoon.", "5"),
        ("LaMP-4", "A sheep was not elected.", "Sheep Loses"),
        ("LaMP-5", "We detect rain by nose.", "Smelling Rain"),
        ("LaMP-6", "Lunch is at one.", "Midday meal"),
        ("LaMP-7", "rain AGAIN :(", "rain AGAIN :("),
    ],
)
def test_profile_item_is_read(name, query, response):
    assert task_of(name).read_item(questions(name)[0]["profile"][0]) == (query, response)


@pytest.mark.parametrize("name", ["LaMP-4", "LaMP-5", "LaMP-6"])
def test_query_of_a_generation_item_does_not_contain_its_answer(name):
    interaction = past(name)
    assert interaction.response not in interaction.query


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LaMP-1", "Ants and Grammar We let ants parse."),
        ("LaMP-2M", "Two mayors share one hat."),
        ("LaMP-2N", "Rowers Rejoice The lake was calm."),
        ("LaMP-3", "A fine spoon."),
        ("LaMP-4", "Sheep Loses A sheep was not elected."),
        ("LaMP-5", "Smelling Rain We detect rain by nose."),
        ("LaMP-6", "Lunch is at one."),
        ("LaMP-7", "rain AGAIN :("),
    ],
)
def test_retrieval_text_equals_lamps(name, text):
    assert task_of(name).retrieval_text(past(name)) == text


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("LaMP-1", '"Ants and Grammar"'),
        ("LaMP-2M", 'the tag for the movie: "Two mayors share one hat." is "comedy" '),
        ("LaMP-2N", 'the category for the article: "The lake was calm." is "sports" '),
        ("LaMP-3", '5 is the score for "A fine spoon." '),
        ("LaMP-4", '"Sheep Loses" is the title for "A sheep was not elected." '),
        ("LaMP-5", '"Smelling Rain" is a title for "We detect rain by nose." '),
        ("LaMP-6", '"Midday meal" is the title for "Lunch is at one." '),
        ("LaMP-7", '"rain AGAIN :(" '),
    ],
)
def test_profile_line_equals_lamps(name, line):
    task, interaction = task_of(name), past(name)
    text = task.profile_text(interaction)
    assert task.profile_line.format(text=text, response=interaction.response) == line


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("LaMP-3", "a , and b . <INPUT>"),
        ("LaMP-5", "a , and b . Following the given patterns <INPUT>"),
        ("LaMP-7", "a , and b  are written by a person. Following the given patterns <INPUT>"),
    ],
)
def test_profile_prompt_equals_lamps(name, prompt):
    assert task_of(name).profile_prompt(["a ", "b "], "<INPUT>") == prompt


def test_citation_profile_follows_the_first_word_title():
    prompt = task_of("LaMP-1").profile_prompt(['"A"', '"B"'], 'the paper with the title "T", which')
    assert prompt == 'the paper with the title, and "A", and "B" "T", which'


def test_citation_titles_may_contain_quotes():
    task = task_of("LaMP-1")
    query = task.read_query(questions("LaMP-1")[0]["input"])
    assert query.startswith('paper: "Parsing the "Unparsable" with Ants" [1]: ')
    assert task.retrieval_query(query) == "Ant Colonies for Syntax Bread Rising Models"


def test_rating_query_follows_the_first_cue():
    read = task_of("LaMP-3").read_query
    assert read("... explanation. review: Dull. movie: too") == "Dull. movie: too"
    assert read("... explanation. movie: A heist.") == "A heist."
    assert read("... explanation. movie: A bad review: a good film.") == "A bad review: a good film."


def test_movie_query_begins_at_the_first_cue():
    assert task_of("LaMP-2M").read_query("tags: [x] description: A description: B") == "A description: B"


def test_news_labels_differ_between_scorer_and_prompt_only_in_order():
    task = task_of("LaMP-2N")
    assert isinstance(task.answer, Labels)
    assert task.answer.values[:2] == ("travel", "education")
    assert task.labels()[:2] == ("food & drink", "sports")
    assert set(task.answer.values) == set(task.labels())


@pytest.mark.parametrize(("name", "count"), [("LaMP-1", 2), ("LaMP-2M", 15), ("LaMP-2N", 15), ("LaMP-3", 0)])
def test_label_counts(name, count):
    assert len(task_of(name).labels()) == count


def test_answers_are_typed():
    assert task_of("LaMP-3").answer == Rating(1, 5)
    assert task_of("LaMP-4").answer == Text()


def test_citation_history_may_have_no_response():
    assert task_of("LaMP-1").response_type.parse("") == ""
    with pytest.raises(UnparsableAnswerError):
        task_of("LaMP-4").response_type.parse("")


def cited(number: int, citation: str) -> Interaction:
    return Interaction(
        id=f"p{number}",
        user_id="u",
        query=f"T{number} abstract",
        response=citation,
        metadata={"title": f"T{number}"},
    )


def test_citation_pairs_ask_for_the_cited_title():
    history = [cited(1, "Own A"), cited(2, ""), cited(3, "Own B")]
    pairs = task_of("LaMP-1").pairs(history, ["Own B", "Other"], random.Random(0))
    assert [pair.interaction.id for pair in pairs] == ["p1", "p3"]
    for pair, own in zip(pairs, ["Own A", "Own B"], strict=True):
        options = {"[1]": f'[1]: "{own}" [2]: "Other"', "[2]": f'[1]: "Other" [2]: "{own}"'}
        assert pair.query.endswith(options[pair.response])
        assert "abstract" not in pair.query


def test_citation_pairs_never_offer_a_second_cited_title():
    assert task_of("LaMP-1").pairs([cited(1, "Own")], ["Own"], random.Random(0)) == []


def test_citation_pairs_use_public_titles_by_default():
    history = [cited(number, f"Own {number}") for number in range(40)]
    first = task_of("LaMP-1").pairs(history, [], random.Random(3))
    assert first == task_of("LaMP-1").pairs(history, [], random.Random(3))
    assert {pair.response for pair in first} == {"[1]", "[2]"}


def test_tweets_have_no_alignment_questions():
    assert task_of("LaMP-7").pairs([past("LaMP-7")], [], random.Random(0)) == []


def test_old_and_new_lamp_2_share_a_file_name():
    for name in ("LaMP-2M", "LaMP-2N"):
        task_of(name).check_file(Path("f"), "LaMP_2")
    with pytest.raises(
        DataError, match=r"field `task` is 'LaMP_2M', but `LaMP-2N` needs 'LaMP_2N' or 'LaMP_2'"
    ):
        task_of("LaMP-2N").check_file(Path("f"), "LaMP_2M")


def test_plain_task_becomes_a_lamp_task_with_defaults():
    lamp = LampTask.of(FREE_TEXT)
    assert lamp.full_input("hi") == f"{FREE_TEXT.question} hi"
    assert lamp.file_names == ("free-text",)
    assert LampTask.of(lamp) is lamp


@pytest.mark.real_histories
@pytest.mark.parametrize("folder", ["LaMP_1_like", "LaMP_2M_like", "LaMP_2N_like", "LaMP_4_like"])
def test_lamp_like_inputs_match_lamps_templates(lamp_like, folder):
    path = lamp_like / folder / "user_top_100_history.json"
    task = task_of(folder.removesuffix("_like").replace("_", "-"))
    for user in json.loads(path.read_text()):
        for query in user["query"]:
            assert task.full_input(task.read_query(query["input"])) == query["input"].strip()


def test_every_task_module_is_covered():
    files = Path(importlib.import_module("eval.tasks.base").__file__).parent.glob("lamp_*.py")
    assert {file.stem for file in files} == {
        path.split(":")[0].rsplit(".", 1)[1] for path in MODULES.values()
    }


TITLE = st.text("ab \"'[]12:,", max_size=12).filter(lambda title: '" [' not in title)
"""Titles with the characters of the template, but without its separators."""


@given(TITLE, TITLE, TITLE)
@settings(max_examples=50)
def test_citation_query_round_trips_through_lamps_input(title, first, second):
    task, query = task_of("LaMP-1"), question_text(title, first, second)
    assert task.read_query(task.full_input(query)) == query


@given(TITLE, TITLE, TITLE)
@settings(max_examples=50)
def test_citation_options_are_the_two_titles(title, first, second):
    assert options(question_text(title, first, second)) == (first, second)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "LaMP-1"])
@given(text=st.text(min_size=1, max_size=20).map(str.strip).filter(bool))
@settings(max_examples=20)
def test_query_round_trips_through_lamps_input(name, text):
    task = task_of(name)
    assert task.read_query(task.full_input(text)) == text


@pytest.mark.parametrize(
    ("text", "query"),
    [("a: x b: y", "x b: y"), ("b: y a: x", "y a: x"), ("b:  y \n", "y"), ("a:a: x", "a: x")],
)
def test_text_follows_the_first_of_several_cues(text, query):
    assert after("a:", "b:")(text) == query


@pytest.mark.parametrize("text", ["", "a:", "b: \n", "c: x"])
def test_input_without_text_after_a_cue_is_rejected(text):
    with pytest.raises(DataError, match="`input` has no text after `a:` or `b:`"):
        after("a:", "b:")(text)


def test_profile_prompt_without_items_starts_with_the_tail():
    assert appended(" | ")([], "input") == " | input"


def test_citation_prompt_without_the_word_title_is_the_input():
    assert task_of("LaMP-1").profile_prompt(['"A"'], "which reference?") == "which reference?"


@pytest.mark.parametrize("query", ["", 'paper: "T"', 'paper: "T" [2]: "B" [1]: "A"'])
def test_rejects_text_that_is_not_a_citation_query(query):
    with pytest.raises(DataError, match="must have the form `paper:"):
        options(query)
    assert task_of("LaMP-1").query_keys(query, "[1]") == set()


def test_papers_are_compared_by_title_ignoring_case():
    task = task_of("LaMP-1")
    assert task.item_keys(cited(1, "x")) == task.query_keys(question_text("t1", "A", "B"), None) == {"t1"}


def test_label_tasks_compare_only_the_query_text():
    assert task_of("LaMP-2M").query_keys("A  Film", "comedy") == {"query a film"}
    assert task_of("LaMP-4").query_keys("A  Film", "Two WORDS") == {"query a film", "response two words"}


def test_citation_pairs_prefer_the_given_negatives():
    pairs = task_of("LaMP-1").pairs([cited(1, "Own")], ["Given"], random.Random(0))
    assert set(options(pairs[0].query)) == {"Own", "Given"}


def test_citation_pairs_of_an_empty_history_are_empty():
    assert task_of("LaMP-1").pairs([], [], random.Random(0)) == []


def test_public_titles_are_distinct():
    assert len({title.lower() for title in PUBLIC_TITLES}) == len(PUBLIC_TITLES) >= 40


@pytest.mark.parametrize(
    ("score", "response"), [(5, "5"), (5.0, "5"), ("4.0", "4"), (" 3 ", "3"), ("4.5", "4.5")]
)
def test_scores_may_be_numbers(score, response):
    assert task_of("LaMP-3").read_item({"text": "A fine spoon.", "score": score}).response == response


@pytest.mark.parametrize("name", MODULES)
def test_installed_task_is_the_declared_one(name):
    assert get_task(name) is task_of(name)


@pytest.mark.parametrize("name", MODULES)
def test_every_gold_of_the_fixtures_fits_the_answer_type(name):
    golds = json.loads((FIXTURES / name / "dev_outputs.json").read_text())["golds"]
    for gold in golds:
        assert str(task_of(name).answer.parse(gold["output"])) == gold["output"]
