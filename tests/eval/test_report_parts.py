"""Report parts in isolation: tables, comparisons, diffs, persona map."""

import csv
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import LOG_LIKELIHOOD, get_metric
from eval.records import Cost
from eval.report.agreement import SignCounts, count_signs, sign_table
from eval.report.agreement import section as agreement_section
from eval.report.analysis import analyse
from eval.report.case_studies import diff_words, select_users
from eval.report.compare import compare, correct, invalid_share, score_likelihood, score_method
from eval.report.costs import cost_cells, usd_column
from eval.report.data import AnswerRow, MethodRun, Persona, ReportRun
from eval.report.differences import section as differences_section
from eval.report.escape import escape_csv
from eval.report.persona_figures import jaccard, map_figure, project
from eval.report.persona_figures import section as personas_section
from eval.report.results import findings, main_table
from eval.report.section import Change
from eval.report.table import (
    DASH,
    MINUS,
    Table,
    interval_cells,
    interval_column,
    key_column,
    p_value,
    percent,
    show,
    signed,
    to_csv,
    to_latex,
    to_markdown,
)
from eval.statistics import Interval
from program.errors import ConfigError
from program.task import get_task
from program.usage import Usage

NO_COST = Cost(usage=Usage(), seconds=0.0, attempts=0)
MOVIES = get_task("LaMP-2M")
TABLE = Table(
    name="t",
    title="A_title",
    rows=[{"method": "a|b_c & 50 %", "value": 1234.5678, "n": 12000, "none": None}],
    columns=[
        key_column("method", "Method", number=False),
        key_column("value", "Value"),
        key_column("n", "n"),
        key_column("none", DASH),
    ],
    notes=["One note."],
)


def test_csv_has_six_digits_and_empty_cells_for_none():
    assert to_csv(TABLE) == "method,value,n,none\na|b_c & 50 %,1234.57,12000,\n"


def test_markdown_escapes_pipes():
    assert to_markdown(TABLE) == (
        f"**A_title**\n\n| Method | Value | n | {DASH} |\n| --- | ---: | ---: | ---: |\n"
        f"| a\\|b_c & 50 % | 1,234.568 | 12,000 | {DASH} |\n\n- One note.\n"
    )


def test_latex_escapes_special_characters():
    text = to_latex(TABLE)
    assert r"a$|$b\_c \& 50 \% & 1,234.568 & 12,000 & -- \\" in text
    assert r"\begin{tabular}{lrrr}" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, DASH), (-0.0001, "0.000"), (-0.25, f"{MINUS}0.250"), (7, "7"), (1234567, "1,234,567")],
)
def test_cell_text_has_no_negative_zero_and_no_empty_string(value, text):
    assert show(value) == text


def test_differences_have_a_sign():
    assert [signed(value) for value in (0.1, 0.0, -0.1)] == ["+0.100", "0.000", f"{MINUS}0.100"]


@pytest.mark.parametrize(
    ("a", "b", "share"),
    [("a b c", "b c d", 0.5), ("Noir, noir!", "noir", 1.0), ("a", "b", 0.0), ("", "", 1.0)],
)
def test_jaccard_counts_each_word_once(a, b, share):
    assert jaccard(a, b) == share


def test_diff_is_word_by_word():
    assert diff_words("likes old films", "likes new films a lot") == [
        Change("same", "likes "),
        Change("removed", "old"),
        Change("added", "new"),
        Change("same", " films"),
        Change("added", " a lot"),
    ]


def test_dissimilar_texts_are_not_diffed():
    assert diff_words("one two three", "4 5 6 7 8 9") == [
        Change("removed", "one two three"),
        Change("same", "\n\n"),
        Change("added", "4 5 6 7 8 9"),
    ]


def test_diff_of_equal_texts_is_the_text():
    assert diff_words("same", "same") == [Change("same", "same")]


def test_similar_personas_are_close_on_the_map():
    texts = ["noir crime rain", "noir crime night", "alien space ship", "alien space robot"]
    points, explained, top_words = project(texts)
    near = [abs(points[0][0] - points[1][0]), abs(points[2][0] - points[3][0])]
    assert max(near) < abs(points[0][0] - points[2][0])
    assert 0 < explained <= 1
    assert top_words[0][0] == "rain"
    assert project(texts) == (points, explained, top_words)


def test_map_uses_the_sentence_encoder_if_given():
    vectors = {"near": [0.0, 0.0, 1.0], "by": [0.0, 0.1, 1.0], "far": [9.0, 0.0, 1.0]}
    points, _, top_words = project(list(vectors), lambda texts: np.array([vectors[text] for text in texts]))
    near, by, far = (x for x, _ in points)
    assert abs(near - by) < 0.1 < 8 < abs(near - far)
    assert top_words == [["near", "by", "far"], ["by", "far", "near"], ["far", "by", "near"]]


def test_import_loads_no_heavy_library():
    code = (
        "import sys, eval.report; "
        "print([m for m in ('matplotlib', 'sklearn', 'scipy', 'jinja2', 'pandas') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def method(answers, name="m", **fields):
    defaults = {
        "family": name.partition(":")[0],
        "trivial": False,
        "settings": {},
        "personas": [],
        "prepared_users": 1,
        "given_answers": 1,
        "prepare": NO_COST,
        "answer": NO_COST,
    }
    return MethodRun(name=name, answers=answers, **{**defaults, **fields})


def answers(*predictions, valid=True):
    return [
        AnswerRow(user="u", key=("u", str(n)), gold="rain", prediction=text, valid=valid)
        for n, text in enumerate(predictions)
    ]


def movie_answers(**right):
    """Answer "comedy" (right) or "romance" (wrong) for each user: ``a="10"``; ``-`` is a missing answer."""
    texts = {"1": "comedy", "0": "romance", "-": None}
    return [
        AnswerRow(user=user, key=(user, str(n)), gold="comedy", prediction=texts[mark])
        for user, marks in right.items()
        for n, mark in enumerate(marks)
    ]


def accuracy(answers, name="m"):
    return score_method(method(answers, name), get_metric("accuracy"), MOVIES)


def report_run(*methods):
    return ReportRun(task=MOVIES, lamp_like=True, model="", methods=methods, facts=[])


def test_unparsable_model_output_is_invalid_even_for_text_tasks():
    headline = get_task("LaMP-4")
    assert invalid_share(method(answers("sun", "wind")), headline) == 0.0
    assert invalid_share(method([*answers("sun"), *answers("{{{ no", valid=False)]), headline) == 0.5
    assert invalid_share(method(answers(None)), headline) is None


@pytest.mark.parametrize(
    ("missing", "queries", "refused"),
    # The share of each method's own queries: two runs of a sweep may have different ones.
    [((0, 10), (1000, 20), True), ((0, 10), (20, 1000), False), ((1, 0), (20, 20), True)],
)
def test_missing_share_is_relative_to_a_methods_own_queries(missing, queries, refused):
    metric, task = get_metric("rouge-1"), get_task("LaMP-4")
    a, b = (
        score_method(method(answers(*[None] * count, *["sun"] * (total - count))), metric, task)
        for count, total in zip(missing, queries, strict=True)
    )
    assert bool(compare(a, b).refused) is refused


def test_metric_is_undefined_if_all_answers_are_missing():
    scores = accuracy(movie_answers(a="--"))
    assert (scores.rows, scores.interval, list(scores.users)) == (None, None, [])


def test_comparison_uses_only_queries_that_both_answered():
    # A answers queries 0 and 1, B 1 and 2 (one missing each): on query 1, A is right and B is wrong.
    comparison = compare(accuracy(movie_answers(a="01-"), "a"), accuracy(movie_answers(a="-01"), "b"))
    assert comparison.difference.interval.n == 1
    assert comparison.difference.interval.value == 1.0
    assert (comparison.mcnemar.only_a, comparison.mcnemar.only_b) == (1, 0)
    # One user is too few for an interval and a verdict.
    assert (comparison.difference.interval.low, comparison.verdict) == (None, "undecided")


def test_comparison_does_not_depend_on_the_order_of_answers():
    a, b = movie_answers(a="1100", b="1010"), movie_answers(a="0110", b="0011")
    forwards = compare(accuracy(a, "a"), accuracy(b, "b"))
    backwards = compare(accuracy(a, "a"), accuracy(b[::-1], "b"))
    assert forwards == backwards


def test_comparison_without_shared_queries_is_refused():
    comparison = compare(accuracy(movie_answers(a="1-"), "a"), accuracy(movie_answers(a="-1"), "b"))
    assert comparison.verdict == "refused: no query was answered by both"
    assert (comparison.difference, comparison.power, comparison.mcnemar) == (None, None, None)


def test_refusal_names_both_totals_if_they_differ():
    comparison = compare(accuracy(movie_answers(a="1--"), "a"), accuracy(movie_answers(a="11"), "b"))
    assert comparison.refused == "2 of 3 and 0 of 2 answers are missing, more than 1 % apart"


def test_swapping_a_and_b_negates_the_difference():
    users = {f"u{n}": "110" for n in range(6)}
    a, b = accuracy(movie_answers(**users), "a"), accuracy(movie_answers(**dict.fromkeys(users, "100")), "b")
    forwards, backwards = compare(a, b), compare(b, a)
    assert forwards.difference.interval.value == pytest.approx(-backwards.difference.interval.value)
    assert forwards.verdict == backwards.verdict == "a is better"
    assert forwards.difference.p == backwards.difference.p


def test_holm_correction_matches_hand_computed_values_and_skips_refused_pairs():
    users = [f"u{n}" for n in range(6)]
    base = accuracy(movie_answers(**dict.fromkeys(users, "1111")), "base")
    others = [
        accuracy(movie_answers(**dict.fromkeys(users, marks)), name)
        for name, marks in (("far", "0000"), ("equal", "1111"), ("missing", "11--"))
    ]
    far, equal, missing = correct([compare(base, other) for other in others])
    assert far.p_holm == pytest.approx(2 * far.difference.p)
    # 24 queries that only the base answers correctly: p = 2 / 2^24, doubled for two comparisons.
    assert far.mcnemar_holm == pytest.approx(2 * 2 * 0.5**24)
    assert (equal.p_holm, equal.mcnemar_holm) == (1.0, 1.0)
    assert (missing.p_holm, missing.mcnemar_holm) == (None, None)


def test_findings_group_methods_by_verdict():
    users = [f"u{n}" for n in range(6)]
    base = accuracy(movie_answers(**dict.fromkeys(users, "1100")), "base")
    others = [
        accuracy(movie_answers(**dict.fromkeys(users, marks)), name)
        for name, marks in (
            ("low", "1000"),
            ("lower", "0000"),
            ("high", "1111"),
            ("equal", "1100"),
            ("missing", "1---"),
        )
    ]
    lines = findings(correct([compare(base, other) for other in others]), get_metric("accuracy"))
    assert lines[:4] == [
        "Accuracy: base is better than low and lower.",
        "Accuracy: base is worse than high.",
        "Accuracy: base against equal is undecided: the interval includes zero, or there are too few users.",
        "Accuracy: base is not compared with missing; the table of differences says why.",
    ]
    # Six users swap in 2^6 ways, two of which are as extreme: p is about 1/32, corrected it exceeds 0.05.
    (warning,) = lines[4:]
    assert warning.startswith(
        "After Holm's correction over all pairs of the run, the difference from low, lower"
    )


def test_no_comparisons_give_no_findings():
    assert findings([], get_metric("accuracy")) == []


@pytest.mark.parametrize(
    ("names", "reference", "order"),
    [
        (["constant", "rag", "personaagent:k=2"], None, ["personaagent:k=2", "rag", "constant"]),
        (["constant", "rag", "direct"], None, ["rag", "direct", "constant"]),
        (["constant"], None, ["constant"]),
        (["constant", "rag", "direct"], "constant", ["constant", "rag", "direct"]),
    ],
)
def test_reference_comes_first_and_trivial_baselines_last(names, reference, order):
    methods = [method(movie_answers(a="1"), name, trivial=name == "constant") for name in names]
    analysis = analyse(report_run(*methods), reference)
    assert [m.name for m in analysis.methods] == order
    assert [scores.method.name for scores in analysis.scores["accuracy"]] == order


def test_reference_error_lists_the_methods():
    with pytest.raises(ConfigError, match=r"choose one of: rag, direct$"):
        analyse(report_run(*(method(movie_answers(a="1"), name) for name in ("rag", "direct"))), "gepa")


def persona(user, initial="same", final=None):
    return Persona(user=user, initial=initial, final=final or initial)


def selected(ours, baseline):
    users = [persona(user) for user in ours]
    methods = [
        method(movie_answers(**ours), "personaagent", personas=users),
        method(movie_answers(**baseline), "direct"),
    ]
    analysis = analyse(report_run(*methods))
    return [(case.user, reason) for case, reason in select_users(*methods, analysis)]


def test_cases_are_largest_median_and_smallest_gain():
    ours = {"u1": "00", "u2": "11", "u3": "10", "u4": "11", "u5": "10"}
    assert selected(ours, dict.fromkeys(ours, "10")) == [
        ("u2", "largest gain, +0.500"),
        ("u3", "median gain, 0.000"),
        ("u1", f"smallest gain, {MINUS}0.500"),
    ]


def test_cases_do_not_repeat_users():
    assert selected({"u1": "0", "u2": "1"}, {"u1": "1", "u2": "1"}) == [
        ("u2", "largest gain, 0.000"),
        ("u1", f"smallest gain, {MINUS}1.000"),
    ]
    assert selected({"u1": "1"}, {"u1": "1"}) == [("u1", "largest gain, 0.000")]


def test_cases_skip_users_without_answers_of_both_methods():
    assert selected({"u1": "-", "u2": "1"}, {"u1": "1", "u2": "-"}) == []


def test_cases_without_a_rival_are_the_first_users():
    users = [persona(f"u{n}") for n in range(5)]
    alone = method(movie_answers(u0="1"), "personaagent", personas=users)
    chosen = select_users(alone, None, analyse(report_run(alone)))
    assert chosen == [(user, "") for user in users[:3]]


WORDS_OF_A_PERSONA = st.lists(st.sampled_from("likes old new films. a\nlot !".split(" ")), max_size=12)


@given(before=WORDS_OF_A_PERSONA, after=WORDS_OF_A_PERSONA)
def test_diff_contains_both_texts(before, after):
    old, new = " ".join(before), " ".join(after)
    changes = diff_words(old, new)
    texts = [change.text for change in changes]
    if changes == [Change("removed", old), Change("same", "\n\n"), Change("added", new)]:
        return
    assert "".join(text for text, change in zip(texts, changes, strict=True) if change.kind != "added") == old
    assert (
        "".join(text for text, change in zip(texts, changes, strict=True) if change.kind != "removed") == new
    )


@given(a=st.text(), b=st.text())
def test_jaccard_is_symmetric_and_between_zero_and_one(a, b):
    assert jaccard(a, b) == jaccard(b, a)
    assert 0.0 <= jaccard(a, b) <= 1.0
    assert jaccard(a, a) == 1.0


def test_map_needs_three_different_personas():
    texts = ["noir crime", "space ship", "noir crime", "war film"]
    personas = [persona(f"user-0{n}", "template", text) for n, text in enumerate(texts)]
    assert map_figure(method([], personas=personas[:3])) is None
    figure = map_figure(method([], personas=personas))
    assert [row["user"] for row in figure.numbers.rows] == ["user-00", "user-01", "user-02", "user-03"]
    assert figure.numbers.rows[0]["words"] == "crime, noir, film, ship"
    # The same text has the same point.
    points = [(row["x"], row["y"]) for row in figure.numbers.rows]
    assert points[0] == points[2]


def test_personas_section_counts_changed_personas_and_needs_two():
    users = [persona("user-01", "template", "template noir"), persona("user-02", "template")]
    methods = [method(movie_answers(a="1"), "personaagent", personas=users)]
    text = personas_section(analyse(report_run(*methods))).text[0]
    assert text.startswith("Personas of personaagent: 2 users, 1 of them with a final text that differs")
    lone = method(movie_answers(a="1"), "personaagent", personas=users[:1])
    assert personas_section(analyse(report_run(lone))) is None


def test_costs_per_unit_are_undefined_for_zero_units():
    empty = method([], prepared_users=0, given_answers=0)
    for stage in ("prepare", "answer"):
        cells = cost_cells(empty, stage)
        assert {cells[key] for key in cells if key.endswith("_each")} == {None}
        assert (cells["units"], cells["calls"], cells["usd"]) == (0, 0, 0.0)


def test_rollouts_are_per_prepared_user_and_only_for_preparing():
    aligned = method([], prepared_users=4, given_answers=2, rollouts=6)
    assert cost_cells(aligned, "prepare")["agent_runs_each"] == 1.5
    assert cost_cells(aligned, "answer")["agent_runs_each"] is None


@pytest.mark.parametrize(
    ("usd", "unpriced", "text"),
    [(0.0, 0, "0.0000"), (1.5, 0, "1.5000"), (1.5, 2, "≥ 1.5000"), (0.0, 2, "unpriced")],
)
def test_dollars_say_if_prices_are_unknown(usd, unpriced, text):
    assert usd_column("USD").show({"usd": usd, "unpriced": unpriced}) == text


@pytest.mark.parametrize(
    ("p", "text"), [(None, DASH), (0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (1.0, "1.000")]
)
def test_p_value_is_never_displayed_as_zero(p, text):
    assert p_value(p) == text


@pytest.mark.parametrize(
    ("low", "high", "difference", "text"),
    [
        (0.25, 0.75, False, "0.500 [0.250, 0.750]"),
        (None, None, False, "0.500 [no interval]"),
        (-0.25, 0.75, True, f"+0.500 [{MINUS}0.250, 0.750]"),
    ],
)
def test_interval_column_shows_value_and_bounds(low, high, difference, text):
    cells = interval_cells("x", Interval(value=0.5, low=low, high=high, n=4, users=2))
    assert interval_column("x", "X", difference=difference).show(cells) == text


def test_interval_column_shows_a_dash_without_a_value():
    assert interval_column("x", "X").show(interval_cells("x", None)) == DASH


def test_percent_has_the_given_digits():
    assert [percent(0.95), percent(0.0125, 1), percent(1.0)] == ["95 %", "1.2 %", "100 %"]


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20)


@given(first=CELLS, second=CELLS)
def test_markdown_row_always_has_the_columns_of_its_header(first, second):
    columns = [key_column("a", "A", number=False), key_column("b", "B", number=False)]
    table = Table(name="t", title="T", rows=[{"a": first, "b": second}], columns=columns)
    row = to_markdown(table).removesuffix("\n").split("\n")[-1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


@given(first=CELLS, number=st.floats(-1e6, 1e6), count=st.integers(-(10**9), 10**9))
def test_csv_round_trips_text_and_integers_exactly_and_floats_to_six_digits(first, number, count):
    row = {"text": first, "float": number, "int": count, "none": None}
    text = to_csv(Table(name="t", title="T", rows=[row], columns=[]))
    (parsed,) = csv.DictReader(io.StringIO(text, newline=""))
    # A spreadsheet shows the apostrophe before a formula as a mark for text, not as a character.
    assert (escape_csv(first), int(parsed["int"]), parsed["none"]) == (parsed["text"], count, "")
    assert parsed["text"].removeprefix("'") == first.removeprefix("'")
    assert float(parsed["float"]) == pytest.approx(number, rel=1e-5)


def test_empty_table_has_a_header_in_markdown_and_no_csv_columns():
    table = Table(name="t", title="T", rows=[], columns=[key_column("a", "A")])
    assert to_markdown(table) == "**T**\n\n| A |\n| ---: |\n"
    assert to_csv(table) == "\n"


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("1 > 0 | [x]", r"1 $>$ 0 $|$ [x]"),
        ("[red]ann", "{}[red]ann"),
        ("*", "{}*"),
        ("50 % & $5", r"50 \% \& \$5"),
        ("a_b#{c}", r"a\_b\#\{c\}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("\\", r"\textbackslash{}"),
        (f"{MINUS}1 ± 2", r"$-$1 $\pm$ 2"),
        ("≥ 3 < 4", r"$\geq$ 3 $<$ 4"),
    ],
)
def test_latex_cell_has_no_active_characters(text, latex):
    table = Table(name="t", title="T", rows=[{"a": text}], columns=[key_column("a", "A", number=False)])
    assert f"{latex} \\\\\n" in to_latex(table)


def sure(**given):
    """Answers with a probability for "comedy", the true answer, by user: ``a=[0.5, None]``.

    Above one half the answer is "comedy". ``None`` is an answer without probabilities, ``-`` no answer.
    """
    return [
        AnswerRow(
            user=user,
            key=(user, str(number)),
            gold="comedy",
            prediction=None if p == "-" else "comedy" if p is None or p > 0.5 else "romance",
            probabilities={"comedy": p, "romance": 1 - p} if isinstance(p, float) else None,
        )
        for user, values in given.items()
        for number, p in enumerate(values)
    ]


def six(values):
    return sure(**{f"u{n}": values for n in range(6)})


def likelihood(answers, name="m"):
    return score_likelihood(method(answers, name), MOVIES)


def test_log_likelihood_is_over_the_answers_that_are_scored():
    scores = likelihood(sure(a=[0.5, 0.25], b=["-", 1.0]))
    # (ln 1/2 + ln 1/4 + ln 1) / 3 = -ln 2
    assert (scores.interval.value, scores.interval.n) == (pytest.approx(-np.log(2)), 3)


def test_difference_in_log_likelihood_is_paired_by_query():
    # Query 0 was answered by A only, query 2 by B only; on query 1, ln 1/2 - ln 1/4 = ln 2.
    a, b = likelihood(six([0.9, 0.5, "-"]), "a"), likelihood(six(["-", 0.25, 0.9]), "b")
    comparison = compare(a, b)
    found = comparison.difference.interval
    assert (found.n, found.users) == (6, 6)
    assert (found.value, found.low, found.high) == pytest.approx((np.log(2),) * 3)
    assert (comparison.verdict, comparison.mcnemar) == ("a is better", None)


def test_interval_of_log_likelihood_is_over_users():
    # Two users with ln 1 and ln 1/4: each resample is one of 0, -ln 2 and -ln 4.
    found = likelihood(sure(a=[1.0] * 50, b=[0.25] * 50)).interval
    assert (found.value, found.low, found.high) == pytest.approx((-np.log(2), -np.log(4), 0.0))


def test_method_without_probabilities_for_some_answers_has_no_log_likelihood():
    some, all_ = likelihood(six([0.5, None]), "some"), likelihood(six([0.5, 0.9]), "all")
    assert (some.rows, some.interval) == (None, None)
    assert compare(all_, some).verdict == "refused: some gives probabilities for 6 of 12 answers"
    assert compare(some, likelihood(six([None, None]), "none")).refused == (
        "some gives probabilities for 6 of 12 answers; none gives probabilities for 0 of 12 answers"
    )


def test_main_table_has_log_likelihood_or_says_how_many_answers_have_probabilities():
    run = report_run(
        method(six([0.5, 0.25]), "all"),
        method(six([0.5, None]), "some"),
        method(six([None, None]), "none"),
        method(six(["-", "-"]), "missing"),
    )
    table = main_table(analyse(run))
    (column,) = (number for number, c in enumerate(table.columns) if c.title.startswith("Log-likelihood"))
    assert table.columns[column].title == "Log-likelihood (nats, higher is better)"
    assert [cells[column] for cells in table.cells] == [
        f"{MINUS}1.040 [{MINUS}1.040, {MINUS}1.040]",
        f"{DASH} (6 of 12)",
        f"{DASH} (0 of 12)",
        DASH,
    ]
    assert [row["log-likelihood_n"] for row in table.rows] == [12, 6, 0, 0]
    assert [row["log-likelihood"] for row in table.rows] == [
        pytest.approx(-1.5 * np.log(2)),
        None,
        None,
        None,
    ]


def test_run_without_probabilities_has_no_log_likelihood():
    analysis = analyse(report_run(method(six([None]), "a"), method(six([None]), "b")))
    assert list(analysis.scores) == ["accuracy", "f1"]
    assert not any("ikelihood" in key for row in main_table(analysis).rows for key in row)
    with pytest.raises(ConfigError, match="no answer of this run has probabilities"):
        sign_table(analysis)


def test_probabilities_of_a_text_task_are_not_scored():
    row = AnswerRow(user="u", key=("u", "0"), gold="a", prediction="a", probabilities={"a": 1.0})
    run = ReportRun(task=get_task("LaMP-4"), lamp_like=True, model="", methods=[method([row])], facts=[])
    assert not analyse(run).has_likelihood


def test_differences_show_log_likelihood_of_the_methods_that_have_it():
    run = report_run(*(method(six([p]), name) for name, p in (("a", 0.5), ("b", 0.25), ("c", None))))
    section = differences_section(analyse(run))
    _, figure = section.figures
    assert figure.numbers.name == "differences-log-likelihood"
    assert [row["b"] for row in figure.numbers.rows] == ["b"]
    assert [table.name for table in section.folded_tables] == [
        "pairs-accuracy",
        "pairs-f1",
        "pairs-log-likelihood",
    ]


@pytest.mark.parametrize(
    ("differences", "counts"),
    [
        ([], (0, 0, 0)),
        ([(0.5, 0.1), (-0.5, -0.1), (2.0, 1e-9)], (3, 0, 0)),
        ([(0.5, -0.1), (-0.5, 0.1)], (0, 2, 0)),
        ([(0.5, 0.0), (0.0, -0.1), (0.0, 0.0), (0.5, 1e-17)], (0, 0, 4)),
    ],
)
def test_signs_are_the_same_opposite_or_zero(differences, counts):
    same, opposite, zero = counts
    found = count_signs(differences)
    assert found == SignCounts(same=same, opposite=opposite, zero=zero)
    assert found.pairs == len(differences)


def test_signs_are_counted_over_all_pairs_and_over_those_that_log_likelihood_decides():
    half = {f"u{n}": [0.4 if n % 2 else 0.3, 0.3 if n % 2 else 0.4] for n in range(6)}
    mixed = {f"u{n}": [0.4 if n % 2 else 0.2, 0.6] for n in range(6)}
    run = report_run(
        method(six([0.9, 0.9]), "best"),  # accuracy 1, every answer ln 0.9
        method(six([0.6, 0.01]), "bold"),  # accuracy 0.5, sum for each user ln 0.006
        method(sure(**half), "shy"),  # accuracy 0, sum for each user ln 0.12
        method(sure(**mixed), "uneven"),  # accuracy 0.5, sums ln 0.12 and ln 0.24 in turn
        method(six([None, None]), "none"),
    )
    # Log-likelihood: best > uneven > shy > bold. Accuracy: best > bold = uneven > shy.
    # best is first in both (3 same); uneven-shy same; uneven-bold zero; shy-bold opposite. The pairs with
    # `none` are left out. uneven-shy is 0 for three users, so 1 of 64 resamples is 0, which the interval
    # (0.24 % at each end, by Student's t) includes: undecided.
    analysis = analyse(run)
    all_pairs, decided = sign_table(analysis).rows
    assert {key: all_pairs[key] for key in ("pairs", "same", "opposite", "zero")} == {
        "pairs": 6,
        "same": 4,
        "opposite": 1,
        "zero": 1,
    }
    (open_,) = [
        c
        for c in analysis.comparisons[LOG_LIKELIHOOD.name]
        if c.difference and c.difference.verdict == "undecided"
    ]
    assert {open_.a, open_.b} == {"shy", "uneven"}
    assert [decided[key] for key in ("pairs", "same", "opposite", "zero")] == [5, 3, 1, 1]
    assert sign_table(analysis).cells[0] == ["all", "6", "4 (67 %)", "1 (17 %)", "1 (17 %)"]
    assert agreement_section(analysis).tables[0].rows == [all_pairs, decided]


def test_signs_follow_the_better_method_if_lower_is_better():
    def rated(prediction, p):
        return [
            AnswerRow(
                user=f"u{n}", key=(f"u{n}", "0"), gold="5", prediction=prediction, probabilities={"5": p}
            )
            for n in range(6)
        ]

    methods = [method(rated("4", 0.6), "near"), method(rated("1", 0.2), "far")]
    run = ReportRun(task=get_task("LaMP-3"), lamp_like=True, model="", methods=methods, facts=[])
    # Near has the lower error, 1 against 4, and the higher likelihood.
    assert [row["same"] for row in sign_table(analyse(run)).rows] == [1, 1]


def test_one_method_with_probabilities_has_no_section_of_signs():
    run = report_run(method(six([0.5]), "a"), method(six([None]), "b"))
    assert agreement_section(analyse(run)) is None
