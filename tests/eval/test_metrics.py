import json
import math
import random
import re
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, mean_squared_error

from eval.metrics import (
    LOG_LIKELIHOOD,
    METRICS,
    as_number,
    get_metric,
    invalid_share,
    is_valid,
    likelihood_rows,
    metrics_of,
    scores,
)
from eval.submission import read_outputs, score_files, write_predictions
from eval.tasks.lamp_1 import TASK as CITATION
from eval.tasks.lamp_2m import TASK as MOVIES
from eval.tasks.lamp_2n import TASK as NEWS
from eval.tasks.lamp_3 import TASK as RATING
from eval.tasks.lamp_4 import TASK as HEADLINE
from program.errors import ConfigError, DataError
from program.task import FREE_TEXT, get_task


def score(name, predictions, golds, task):
    return get_metric(name).score(predictions, golds, task)


def test_accuracy_is_exact_and_case_sensitive():
    predictions = ["comedy", " comedy\n", "Comedy", "comedy.", "action"]
    assert score("accuracy", predictions, ["comedy"] * 5, MOVIES) == 0.4


def test_bare_number_is_not_a_citation_label():
    assert score("accuracy", ["1", "[1]"], ["[1]", "[1]"], CITATION) == 0.5


def test_unknown_gold_equals_unknown_prediction():
    assert score("accuracy", ["nonsense"], ["other nonsense"], MOVIES) == 1.0


def test_absent_classes_stay_in_the_f1_denominator():
    golds = ["comedy", "action", "comedy"]
    assert score("f1", golds, golds, MOVIES) == pytest.approx(2 / 15, abs=1e-12)


def test_f1_matches_hand_computed_value():
    # [1]: TP 1, FP 0, FN 1 -> 2/3. [2]: TP 1, FP 0, FN 0 -> 1. The invalid answer costs recall only.
    assert score("f1", ["[1]", "what?", "[2]"], ["[1]", "[1]", "[2]"], CITATION) == pytest.approx(
        5 / 6, abs=1e-12
    )


def test_f1_may_exceed_accuracy_with_invalid_answers():
    predictions, golds = ["[1]", "?", "[2]"], ["[1]", "[1]", "[2]"]
    assert score("f1", predictions, golds, CITATION) > score("accuracy", predictions, golds, CITATION)


@pytest.mark.parametrize(
    ("prediction", "gold", "distance"),
    [
        ("4", "5", 1.0),
        (" 4 ", "5", 1.0),
        ("4.5", "5", 0.5),
        ("7", "5", 2.0),
        ("-2", "1", 3.0),
        ("1e0", "3", 2.0),
        ("1_0", "5", 5.0),
        ("\uff14", "4", 0.0),  # full-width 4
        ("four", "5", 4.0),
        ("four", "4", 3.0),
        ("four", "3", 2.0),
        ("four", "2", 3.0),
        ("", "1", 4.0),
        ("nan", "5", 4.0),
        ("inf", "2", 3.0),
    ],
)
def test_rating_distance(prediction, gold, distance):
    assert score("mae", [prediction], [gold], RATING) == distance
    assert score("rmse", [prediction], [gold], RATING) == distance


def test_rmse_matches_hand_computed_value():
    assert score("rmse", ["1", "5"], ["4", "1"], RATING) == math.sqrt((9 + 16) / 2)


def test_rating_gold_must_be_a_number():
    with pytest.raises(DataError, match="gold 'comedy' is not a number"):
        score("mae", ["3"], ["comedy"], RATING)


def test_rouge_matches_hand_computed_values():
    # Prediction "the goat wins" against "goat wins big": 2 of 3 words each way.
    assert score("rouge-1", ["The GOAT wins!"], ["goat wins big"], HEADLINE) == pytest.approx(2 / 3)
    # Longest common subsequence of "wins goat" and "goat wins" is one word of two.
    assert score("rouge-L", ["wins goat"], ["goat wins"], HEADLINE) == pytest.approx(0.5)
    assert score("rouge-1", ["wins goat"], ["goat wins"], HEADLINE) == pytest.approx(1.0)


def test_rouge_does_not_stem():
    assert score("rouge-1", ["winning"], ["wins"], HEADLINE) == 0.0


@pytest.mark.parametrize("prediction", ["", "   ", "\u4e2d\u6587"])
def test_rouge_without_words_is_zero(prediction):
    assert score("rouge-L", [prediction], ["goat wins"], HEADLINE) == 0.0


def test_rouge_is_the_plain_mean():
    assert score("rouge-1", ["a", "b"], ["a", "c"], HEADLINE) == 0.5


def test_chrf_matches_hand_computed_value():
    # Three of three characters and two of two pairs, then one of two characters and no pair.
    assert score("chrf", ["tea", " ab"], ["tea", "ac\n"], FREE_TEXT) == pytest.approx((1 + 1 / 4) / 2)


@pytest.mark.parametrize("text", ["зелёный чай", "一杯绿茶", "شاي بالنعناع", "ชาเขียว", "तुलसी की चाय", "🍵"])
def test_free_text_reports_score_the_same_answer_one_in_every_script(text):
    main = scores([text], [text], FREE_TEXT)[0]
    assert (main.name, main.value) == ("chrf", 1.0)


@pytest.mark.parametrize("task", ["LaMP-4", "LaMP-5", "LaMP-6", "LaMP-7"])
def test_lamps_text_tasks_are_scored_with_rouge_alone(task):
    assert get_task(task).metrics == ("rouge-1", "rouge-L")


@pytest.mark.parametrize("name", METRICS)
def test_rejects_empty_list_of_answers(name):
    with pytest.raises(ConfigError, match="at least one"):
        score(name, [], [], MOVIES)


def test_rejects_label_metric_for_task_without_labels():
    with pytest.raises(ConfigError, match="`LaMP-3` has no labels"):
        score("f1", ["1"], ["1"], RATING)


def test_unknown_metric_error_lists_all_metrics():
    with pytest.raises(ConfigError, match=r"unknown metric 'bleu'; use one of accuracy"):
        get_metric("bleu")


@pytest.mark.parametrize(
    ("prediction", "task", "valid"),
    [
        ("comedy", MOVIES, True),
        ("Comedy", MOVIES, False),
        ("4", RATING, True),
        ("4.5", RATING, False),
        ("7", RATING, False),
        ("a headline", HEADLINE, True),
        ("", HEADLINE, False),
    ],
)
def test_validity_is_strict(prediction, task, valid):
    assert is_valid(prediction, task) is valid


def test_every_score_carries_unit_direction_and_n():
    by_name = {s.name: (s.value, s.unit, s.better, s.n) for s in scores(["4", "x"], ["5", "5"], RATING)}
    assert by_name == {
        "mae": (2.5, "stars", "lower", 2),
        "rmse": (math.sqrt(8.5), "stars", "lower", 2),
        "invalid": (0.5, "share", "lower", 2),
    }


def test_utility_is_larger_for_the_better_value():
    assert get_metric("mae").utility(0.2) > get_metric("mae").utility(0.3)
    assert get_metric("f1").utility(0.3) > get_metric("f1").utility(0.2)


@pytest.mark.parametrize("task", [CITATION, MOVIES, NEWS, RATING, HEADLINE])
def test_metrics_of_a_task_end_with_the_invalid_rate(task):
    assert [metric.name for metric in metrics_of(task)] == [*task.metrics, "invalid"]


def write(path, task, outputs):
    path.write_text(json.dumps({"task": task, "golds": [{"id": i, "output": o} for i, o in outputs.items()]}))
    return path


def reference(task, predictions, golds):
    """LaMP's rules, implemented independently with scikit-learn."""
    ids = sorted(golds)
    if task is RATING:
        truth = [float(golds[i]) for i in ids]
        answered = []
        for query_id, gold in zip(ids, truth, strict=True):
            try:
                answered.append(float(predictions[query_id]))
            except ValueError:
                answered.append(min([1.0, 5.0], key=lambda end: -abs(end - gold)) if gold != 3 else 5.0)
        return {
            "mae": mean_absolute_error(truth, answered),
            "rmse": math.sqrt(mean_squared_error(truth, answered)),
        }
    places = {label: number for number, label in enumerate(task.scorer_labels or task.answer.values)}
    truth = [places.get(golds[i].strip(), -1) for i in ids]
    answered = [places.get(predictions[i].strip(), -1) for i in ids]
    return {
        "accuracy": accuracy_score(truth, answered),
        "f1": f1_score(truth, answered, labels=list(places.values()), average="macro", zero_division=0),
    }


def random_answer(rng, task, gold):
    strange = ["", "?", "Comedy", "1", "[3]", "4.5", "nonsense", "6", "-1", " 2"]
    labels = list(task.labels()) or ["1", "2", "3", "4", "5"]
    kind = rng.random()
    if kind < 0.4:
        return gold
    return rng.choice(strange) if kind < 0.6 else rng.choice([*labels, f"{rng.choice(labels)} "])


def test_scores_of_1000_random_files_equal_an_independent_implementation(tmp_path):
    rng = random.Random(7)
    for number in range(1000):
        task = [CITATION, MOVIES, NEWS, RATING][number % 4]
        labels = task.labels() or ("1", "2", "3", "4", "5")
        golds = {str(i): rng.choice(labels) for i in range(rng.randint(1, 40))}
        predictions = {i: random_answer(rng, task, gold) for i, gold in golds.items()}
        name = task.file_names[0]
        shuffled = dict(rng.sample(sorted(predictions.items()), len(predictions)))
        file_scores = score_files(
            write(tmp_path / "predictions.json", name, shuffled),
            write(tmp_path / "golds.json", name, golds),
            task,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns about absent labels
            expected = reference(task, predictions, golds)
        values = {s.name: s.value for s in file_scores if s.name != "invalid"}
        assert values.keys() == expected.keys()
        for metric, value in values.items():
            assert abs(value - expected[metric]) <= 1e-12, (number, task.name, metric)


def test_written_predictions_are_in_the_submission_format(tmp_path):
    write_predictions(tmp_path / "p.json", {"310": "5", "311": "\u00fc"}, RATING)
    assert json.loads((tmp_path / "p.json").read_text(encoding="utf-8")) == {
        "task": "LaMP_3",
        "golds": [{"id": "310", "output": "5"}, {"id": "311", "output": "\u00fc"}],
    }
    assert read_outputs(tmp_path / "p.json", RATING) == {"310": "5", "311": "\u00fc"}


def test_last_of_duplicate_ids_wins(tmp_path):
    golds = [{"id": "1", "output": "2"}, {"id": "1", "output": "4"}]
    (tmp_path / "p.json").write_text(json.dumps({"task": "LaMP_3", "golds": golds}))
    assert read_outputs(tmp_path / "p.json", RATING) == {"1": "4"}


def test_numbers_as_ids_and_outputs_are_read_as_text(tmp_path):
    (tmp_path / "p.json").write_text('{"task": "LaMP_3", "golds": [{"id": 7, "output": 4}]}')
    assert read_outputs(tmp_path / "p.json", RATING) == {"7": "4"}


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        ({"1": "5"}, r"1 missing query id \('2'\)"),
        ({"1": "5", "2": "5", "9": "5"}, r"1 unknown query id \('9'\)"),
    ],
)
def test_rejects_different_sets_of_ids(tmp_path, predicted, message):
    golds = write(tmp_path / "g.json", "LaMP_3", {"1": "5", "2": "4"})
    with pytest.raises(DataError, match=message):
        score_files(write(tmp_path / "p.json", "LaMP_3", predicted), golds, RATING)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html>", "is not JSON"),
        ('{"task": "LaMP_3", "golds": [', "is not JSON"),
        ("[]", "is not a prediction or gold file"),
        ('{"task": "LaMP_4", "golds": []}', "field `task` is 'LaMP_4', but `LaMP-3` needs 'LaMP_3'"),
        ('{"task": "LaMP_3", "golds": [{"id": "1"}]}', r"`golds\[0\]` needs the fields `id` and `output`"),
        ('{"task": "LaMP_3", "golds": ["x"]}', r"`golds\[0\]` needs the fields"),
        (
            '{"task": "LaMP_3", "golds": [{"id": "1", "output": null}]}',
            r"`golds\[0\].output` is missing: .* not null",
        ),
        (
            '{"task": "LaMP_3", "golds": [{"id": "1", "output": NaN}]}',
            r"`golds\[0\].output` is missing: .* NaN",
        ),
        ('{"task": "LaMP_3", "golds": [{"id": 1.5, "output": "1"}]}', r"`golds\[0\].id` must be text"),
        ('{"task": "LaMP_3", "golds": [{"id": "1", "output": true}]}', "not a boolean"),
        ('{"task": "LaMP_3", "golds": [{"id": "1", "output": "\\ud800"}]}', "holds half of a surrogate pair"),
        ("[" * 60_000, "is nested more than 100 levels deep"),
    ],
)
def test_rejects_bad_prediction_file(tmp_path, content, message):
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_outputs(path, RATING)
    assert str(path) in str(caught.value)


def test_rejects_missing_prediction_file(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json` does not exist"):
        read_outputs(tmp_path / "absent.json", RATING)


def test_corpus_value_is_the_formula_of_summed_rows():
    metric = get_metric("f1")
    predictions, golds = ["comedy", "action", "x"], ["comedy", "comedy", "action"]
    rows = metric.rows(predictions, golds, MOVIES)
    assert rows.shape == (3, 30)
    stacked = np.stack([rows.sum(axis=0), rows[:1].sum(axis=0)])
    assert metric.formula(stacked) == pytest.approx(
        [metric.score(predictions, golds, MOVIES), metric.score(predictions[:1], golds[:1], MOVIES)]
    )


def longest_common(first, second):
    """Length of the longest common subsequence, by the definition."""
    if not first or not second:
        return 0
    row = [0] * (len(second) + 1)
    for word in first:
        above = row[:]
        for place, other in enumerate(second):
            row[place + 1] = above[place] + 1 if word == other else max(row[place], above[place + 1])
    return row[-1]


def f_measure(hits, answered, truth):
    return 2 * hits / (answered + truth) if hits else 0.0


def test_rouge_of_1000_random_files_equals_its_definition(tmp_path):
    """LaMP's ROUGE: lower case, runs of a-z and 0-9, no stemming, the plain mean of F."""
    rng = random.Random(11)
    words = ["Rain", "rain", "fox's", "U.S.", "caf\u00e9", "2-0", "the", "--", "Running", "run"]
    for number in range(1000):

        def text(least=0, rng=rng):
            return " ".join(rng.choice(words) for _ in range(rng.randint(least, 9)))

        golds = {str(i): text(1) for i in range(rng.randint(1, 12))}
        predictions = {i: gold if rng.random() < 0.2 else text() for i, gold in golds.items()}
        file_scores = score_files(
            write(tmp_path / "p.json", "LaMP_4", predictions),
            write(tmp_path / "g.json", "LaMP_4", golds),
            HEADLINE,
        )
        ones, longest = [], []
        for i, gold in golds.items():
            answered, truth = (re.findall("[a-z0-9]+", t.lower()) for t in (predictions[i], gold))
            shared = sum((Counter(answered) & Counter(truth)).values())
            ones.append(f_measure(shared, len(answered), len(truth)))
            longest.append(f_measure(longest_common(answered, truth), len(answered), len(truth)))
        values = {s.name: s.value for s in file_scores}
        assert values["rouge-1"] == pytest.approx(sum(ones) / len(ones), abs=1e-12), number
        assert values["rouge-L"] == pytest.approx(sum(longest) / len(longest), abs=1e-12), number


@pytest.mark.parametrize("answer", ["1" * 160, "1e200", "--5", "9" * 4500, "nan", "-inf"])
def test_rating_that_crashes_lamps_scorer_is_unparsable(answer):
    values = {s.name: s.value for s in scores([answer], ["5"], RATING)}
    assert values == {"mae": 4.0, "rmse": 4.0, "invalid": 1.0}


def test_rejects_files_of_the_other_lamp_2(tmp_path):
    golds = {"1": "comedy", "2": "action"}
    files = [write(tmp_path / name, "LaMP_2", golds) for name in ("p.json", "g.json")]
    with pytest.raises(DataError, match="2 of 2 golds are not labels of `LaMP-2N`"):
        score_files(*files, NEWS)


ANSWERS = st.lists(
    st.tuples(st.sampled_from(["[1]", "[2]", "1", ""]), st.sampled_from(["[1]", "[2]"])), min_size=1
)
RATINGS = st.lists(
    st.tuples(st.sampled_from(["1", "3", "5", "4.5", "-9", "x"]), st.sampled_from("12345")), min_size=1
)


@given(ANSWERS, st.randoms())
@settings(max_examples=50)
def test_label_metrics_are_shares_that_ignore_order(pairs, rng):
    mixed = rng.sample(pairs, len(pairs))
    for name in ("accuracy", "f1", "invalid"):
        value = score(name, *zip(*pairs, strict=True), CITATION)
        assert 0.0 <= value <= 1.0
        assert score(name, *zip(*mixed, strict=True), CITATION) == pytest.approx(value)


@given(RATINGS)
@settings(max_examples=50)
def test_mae_is_between_zero_and_rmse(pairs):
    predictions, golds = zip(*pairs, strict=True)
    assert (
        0.0 <= score("mae", predictions, golds, RATING) <= score("rmse", predictions, golds, RATING) + 1e-12
    )


@given(ANSWERS, ANSWERS)
@settings(max_examples=50)
def test_corpus_value_is_invariant_to_how_answers_are_grouped(first, second):
    metric = get_metric("f1")
    rows = [metric.rows(*zip(*part, strict=True), CITATION).sum(axis=0) for part in (first, second)]
    whole = metric.score(*zip(*(first + second), strict=True), CITATION)
    assert float(metric.formula(rows[0] + rows[1])) == pytest.approx(whole)


@pytest.mark.parametrize("name", METRICS)
def test_different_lengths_are_rejected(name):
    with pytest.raises(ConfigError, match="got 1 and 2"):
        score(name, ["a", "b"], ["a"], MOVIES)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4", 4.0),
        (" 4.5\n", 4.5),
        ("-1", -1.0),
        ("1e38", 1e38),
        ("1e39", None),
        ("nan", None),
        ("-inf", None),
        ("", None),
        ("4 stars", None),
        ("4,5", None),
    ],
)
def test_ratings_are_parsed_like_lamps_scorer(text, number):
    assert as_number(text) == number


def test_invalid_share_counts_unparsed_and_unfitting_answers():
    answers = [("comedy", True), ("comedy", False), ("Comedy", True), ("action", True)]
    assert invalid_share(answers, MOVIES) == 0.5
    assert invalid_share([], MOVIES) is None


def test_best_prediction_has_perfect_scores():
    golds = list(MOVIES.labels())
    assert {s.name: s.value for s in scores(golds, golds, MOVIES)} == {
        "accuracy": 1.0,
        "f1": 1.0,
        "invalid": 0.0,
    }


def test_prediction_file_with_byte_order_mark_is_read(tmp_path):
    text = '{"task": "LaMP_3", "golds": [{"id": "1", "output": "4"}]}'
    (tmp_path / "p.json").write_text(text, encoding="utf-8-sig")
    assert read_outputs(tmp_path / "p.json", RATING) == {"1": "4"}


def test_gold_file_without_golds_is_rejected(tmp_path):
    files = [write(tmp_path / name, "LaMP_3", {}) for name in ("p.json", "g.json")]
    with pytest.raises(DataError, match=r"g\.json` holds no golds"):
        score_files(*files, RATING)


def test_missing_ids_are_counted_and_three_are_named(tmp_path):
    golds = write(tmp_path / "g.json", "LaMP_3", {str(n): "5" for n in range(5)})
    with pytest.raises(DataError, match=r"p\.json`: 5 missing query ids \('0', '1', '2', \.\.\.\)"):
        score_files(write(tmp_path / "p.json", "LaMP_3", {}), golds, RATING)


def test_half_unknown_golds_are_scored(tmp_path):
    golds = {"1": "comedy", "2": "heist"}
    files = [write(tmp_path / name, "LaMP_2", golds) for name in ("p.json", "g.json")]
    assert score_files(*files, MOVIES)[0].value == 1.0


def test_predictions_cannot_be_written_into_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"cannot write `.*p\.json`: No such file or directory"):
        write_predictions(tmp_path / "absent" / "p.json", {"1": "5"}, RATING)


def test_log_likelihood_is_the_mean_natural_logarithm_of_the_true_answers_probability():
    rows = likelihood_rows([{"4": 0.5, "5": 0.5}, {"4": 0.25, "5": 0.75}], ["5", "4"], RATING)
    # (ln 1/2 + ln 1/4) / 2 = -1.5 ln 2
    assert float(LOG_LIKELIHOOD.formula(rows.sum(axis=0))) == pytest.approx(-1.0397207708)
    assert (LOG_LIKELIHOOD.unit, LOG_LIKELIHOOD.better) == ("nats", "higher")


@pytest.mark.parametrize("given", [{"4": 1.0, "5": 0.0}, {"4": 1.0}, {"4": 0.9, "5": 1e-12}])
def test_probability_of_a_true_answer_counts_as_at_least_one_in_a_billion(given):
    assert likelihood_rows([given], ["5"], RATING).tolist() == [[pytest.approx(-20.7232658369), 1.0]]


def test_true_answer_is_found_despite_white_space_around_it():
    assert likelihood_rows([{"5": 1.0}], [" 5\n"], RATING).tolist() == [[0.0, 1.0]]


def test_true_answer_that_is_no_label_counts_the_same_for_every_method():
    rows = [likelihood_rows([given], ["9"], RATING).tolist() for given in ({"5": 1.0}, {"1": 0.5, "2": 0.5})]
    assert rows[0] == rows[1] == [[pytest.approx(math.log(1e-9)), 1.0]]


def test_log_likelihood_needs_labels_and_as_many_golds_as_probabilities():
    with pytest.raises(ConfigError, match="answers of `LaMP-4` are free text"):
        likelihood_rows([{"a": 1.0}], ["a"], get_task("LaMP-4"))
    for probabilities, golds in (([], []), ([{"5": 1.0}], ["5", "4"])):
        with pytest.raises(ConfigError, match="as many golds as probabilities and at least one"):
            likelihood_rows(probabilities, golds, RATING)
