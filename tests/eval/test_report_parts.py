"""The parts of a report that can be checked alone."""

import subprocess
import sys

import numpy as np
import pytest

from eval.metrics import get_metric
from eval.records import Cost
from eval.report.cases import changes
from eval.report.compare import compare, invalid_share, score_method
from eval.report.data import Answered, MethodRun
from eval.report.jaccard import jaccard
from eval.report.persona_map import project
from eval.report.section import Change
from eval.report.table import DASH, MINUS, Table, plain, show, signed, to_csv, to_latex, to_markdown
from program.task import get_task
from program.usage import Usage

NOTHING = Cost(usage=Usage(), seconds=0.0, attempts=0)
TABLE = Table(
    name="t",
    title="A_title",
    rows=[{"method": "a|b_c & 50 %", "value": 1234.5678, "n": 12000, "none": None}],
    columns=[
        plain("method", "Method", number=False),
        plain("value", "Value"),
        plain("n", "n"),
        plain("none", DASH),
    ],
    notes=["One note."],
)


def test_csv_keeps_six_digits_and_leaves_missing_values_empty():
    assert to_csv(TABLE) == "method,value,n,none\na|b_c & 50 %,1234.57,12000,\n"


def test_markdown_escapes_what_would_break_a_row():
    assert to_markdown(TABLE) == (
        f"**A_title**\n\n| Method | Value | n | {DASH} |\n| --- | ---: | ---: | ---: |\n"
        f"| a\\|b_c & 50 % | 1,234.568 | 12,000 | {DASH} |\n\n- One note.\n"
    )


def test_latex_escapes_what_latex_would_read():
    text = to_latex(TABLE)
    assert r"a|b\_c \& 50 \% & 1,234.568 & 12,000 & -- \\" in text
    assert r"\begin{tabular}{lrrr}" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, DASH), (-0.0001, "0.000"), (-0.25, f"{MINUS}0.250"), (7, "7"), (1234567, "1,234,567")],
)
def test_a_cell_never_shows_a_negative_zero_or_an_empty_space(value, text):
    assert show(value) == text


def test_differences_carry_their_sign():
    assert [signed(value) for value in (0.1, 0.0, -0.1)] == ["+0.100", "0.000", f"{MINUS}0.100"]


@pytest.mark.parametrize(
    ("a", "b", "share"),
    [("a b c", "b c d", 0.5), ("Noir, noir!", "noir", 1.0), ("a", "b", 0.0), ("", "", 1.0)],
)
def test_jaccard_counts_different_words_once(a, b, share):
    assert jaccard(a, b) == share


def test_changes_are_word_by_word():
    assert changes("likes old films", "likes new films a lot") == [
        Change("same", "likes "),
        Change("gone", "old"),
        Change("new", "new"),
        Change("same", " films"),
        Change("new", " a lot"),
    ]


def test_a_text_that_was_replaced_is_shown_whole():
    assert changes("one two three", "4 5 6 7 8 9") == [
        Change("gone", "one two three"),
        Change("same", "\n\n"),
        Change("new", "4 5 6 7 8 9"),
    ]


def test_a_text_that_stayed_is_shown_once():
    assert changes("same", "same") == [Change("same", "same")]


def test_like_personas_lie_together_on_the_map():
    texts = ["noir crime rain", "noir crime night", "alien space ship", "alien space robot"]
    points, explained, telling = project(texts)
    near = [abs(points[0][0] - points[1][0]), abs(points[2][0] - points[3][0])]
    assert max(near) < abs(points[0][0] - points[2][0])
    assert 0 < explained <= 1
    assert telling[0][0] == "rain"
    assert project(texts) == (points, explained, telling)


def test_a_sentence_encoder_may_place_the_personas():
    places = {"near": [0.0, 0.0, 1.0], "by": [0.0, 0.1, 1.0], "far": [9.0, 0.0, 1.0]}
    points, _, telling = project(list(places), lambda texts: np.array([places[text] for text in texts]))
    near, by, far = (x for x, _ in points)
    assert abs(near - by) < 0.1 < 8 < abs(near - far)
    assert telling == [["near", "by", "far"], ["by", "far", "near"], ["far", "by", "near"]]


def test_importing_the_report_loads_no_plotting_and_no_learning_library():
    code = (
        "import sys, eval.report; "
        "print([m for m in ('matplotlib', 'sklearn', 'scipy', 'jinja2', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def method(answers):
    return MethodRun(
        name="m",
        family="m",
        trivial=False,
        settings={},
        answers=answers,
        personas=[],
        prepared=1,
        answered=1,
        agent_runs=0,
        prepare=NOTHING,
        answer=NOTHING,
    )


def answers(*predictions, valid=True):
    return [
        Answered(user="u", key=("u", str(n)), gold="rain", prediction=text, valid=valid)
        for n, text in enumerate(predictions)
    ]


def test_what_the_method_could_not_read_counts_as_invalid_though_it_is_text():
    headline = get_task("LaMP-4")
    assert invalid_share(method(answers("sun", "wind")), headline) == 0.0
    assert invalid_share(method([*answers("sun"), *answers("{{{ no", valid=False)]), headline) == 0.5
    assert invalid_share(method(answers(None)), headline) is None


@pytest.mark.parametrize(
    ("missing", "asked", "refused"),
    # The share of each method's own queries: two runs of a sweep may have different ones.
    [((0, 10), (1000, 20), True), ((0, 10), (20, 1000), False), ((1, 0), (20, 20), True)],
)
def test_shares_of_missing_answers_are_of_a_methods_own_queries(missing, asked, refused):
    metric, task = get_metric("rouge-1"), get_task("LaMP-4")
    a, b = (
        score_method(method(answers(*[None] * gone, *["sun"] * (total - gone))), metric, task)
        for gone, total in zip(missing, asked, strict=True)
    )
    assert bool(compare(a, b).refused) is refused
