"""The report of a made-up run whose every number can be worked out by hand.

Eight users with five queries each, 40 in all. Which queries a method gets right is written below;
every user is the same, so intervals have no width, except where users are made to differ.
"""

import base64
import csv
import hashlib
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from eval.contracts import Failed
from eval.records import (
    ANSWERS,
    MANIFEST,
    PREPARE,
    QUERIES,
    SWEEP,
    AnswerRecord,
    Manifest,
    MethodEntry,
    PrepareRecord,
    QueryRecord,
    SweepEntry,
    SweepManifest,
    line_of,
    write_json,
)
from eval.report import make_report
from program.errors import ConfigError, DataError
from program.usage import Usage

USERS = [f"real-id-{number}" for number in range(8)]
QUERIES_EACH = 5
RIGHT = {
    "constant": lambda user, query: query == 0,
    "direct": lambda user, query: query < 2,
    "rag:k=4": lambda user, query: query < 3,
    "personaagent": lambda user, query: query < 4,
    # Half of the users gain a query, the other half lose one: nothing in sum.
    "personaagent-alignment": lambda user, query: query < (5 if user % 2 else 3),
}
INITIAL = "You help one user.\nTake two actions."
FINAL = "You help one user who likes <b>{word}</b>.\nTake two actions."
WORDS = ["noir", "space", "war", "heist", "farce", "gothic", "western", "satire"]


def build(folder: Path, methods=tuple(RIGHT), *, task="LaMP-2M", official=False, right=RIGHT) -> Path:
    """Write a run folder as the runner would."""
    folder.mkdir(parents=True)
    entries = {
        label: MethodEntry(name=label.partition(":")[0], settings={}, floor=label == "constant")
        for label in methods
    }
    manifest = Manifest(
        task=task,
        official=official,
        data={"files": [{"name": "questions.json", "bytes": 10, "sha256": "ab" * 32}]},
        model={"name": "made/up-model", "temperature": 0.0},
        methods=entries,
        versions={"dspy": "3.4.1"},
        command="personaagent eval run --task LaMP-2M --out RUN",
        started_at="2026-01-02T03:04:05+00:00",
    )
    write_json(folder / MANIFEST, manifest)
    gold, wrong = ("5", "4") if task == "LaMP-3" else ("comedy", "romance")
    queries, prepared, answers = [], [], []
    for user, user_id in enumerate(USERS):
        for query in range(QUERIES_EACH):
            queries.append(QueryRecord(user_id=user_id, query_id=f"q{query}", gold=gold))
            for label in methods:
                text = gold if right[label](user, query) else wrong
                if label == "direct" and query == 4:
                    text = "I cannot say"
                answers.append(_answer(label, user_id, query, text))
        prepared += [_prepare(label, user, user_id) for label in methods]
    for name, records in ((QUERIES, queries), (PREPARE, prepared), (ANSWERS, answers)):
        (folder / name).write_text("".join(line_of(record) for record in records), encoding="utf-8")
    return folder


def _answer(label: str, user_id: str, query: int, text: str) -> AnswerRecord:
    usage = {} if label == "constant" else {"answer": Usage(calls=3, input_tokens=100, output_tokens=10)}
    failed = None
    if label == "rag:k=4" and user_id == USERS[0] and query == 4:
        failed = Failed(stage="answer", kind="LMRateLimitError", error="too many requests")
    return AnswerRecord(
        method=label,
        user_id=user_id,
        query_id=f"q{query}",
        text=None if failed else text,
        failed=failed,
        usage=usage,
        seconds=0.5,
    )


def _prepare(label: str, user: int, user_id: str) -> PrepareRecord:
    learned: dict = {}
    if label.startswith("personaagent"):
        learned = {"persona_initial": INITIAL, "persona": INITIAL}
    if label == "personaagent":
        final = FINAL.format(word=WORDS[user])
        step = {
            "persona_before": INITIAL,
            "candidate": final,
            "persona_after": final,
            "simulations": [
                {"interaction_id": "i1", "query": "a film", "truth": "noir", "answer": "war", "error": ""}
            ],
            "feedback": [{"interaction_id": "i1", "text": "Say what this user likes.", "skipped": ""}],
            "decision": {"accept": True, "reason": "every rewrite is kept", "numbers": {}},
            "note": "",
        }
        learned |= {"persona": final, "agent_runs": 3, "alignment": {"steps": [step]}}
    usage = {"update": Usage(calls=7, input_tokens=700, output_tokens=70, usd=0.01, unpriced=1)}
    return PrepareRecord(
        method=label,
        user_id=user_id,
        learned=learned,
        usage=usage if label == "personaagent" else {},
        seconds=2.0,
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def by(path: Path, key: str) -> dict[str, dict[str, str]]:
    return {row[key]: row for row in rows(path)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = build(tmp_path_factory.mktemp("study") / "run")
    runs = []
    for batch, solved in (("5", 4), ("1", 2), ("3", 3)):
        right = {"personaagent": lambda user, query, solved=solved: query < solved}
        build(folder / "batches" / f"batch={batch}", ["personaagent"], right=right)
        runs.append(SweepEntry(value=batch, run=f"batch={batch}"))
    write_json(folder / "batches" / SWEEP, SweepManifest(over="batch", runs=runs))
    return folder


@pytest.fixture(scope="module")
def report(run):
    return make_report(run)


@pytest.fixture(scope="module")
def page(report):
    return report.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def out(report):
    return report.page.parent


def test_is_byte_identical_when_made_again(run, report, tmp_path):
    elsewhere = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    again = make_report(elsewhere, tmp_path / "out")
    for before, after in (
        (report.page, again.page),
        (report.markdown, again.markdown),
        *zip((*report.tables, *report.figures), (*again.tables, *again.figures), strict=True),
    ):
        assert before.name == after.name
        assert before.read_bytes() == after.read_bytes(), before.name


def test_main_table_has_the_numbers_worked_out_by_hand(out):
    table = by(out / "tables" / "main.csv", "method")
    assert list(table) == ["constant", "personaagent", "direct", "rag:k=4", "personaagent-alignment"]
    assert {name: row["accuracy"] for name, row in table.items()} == {
        "constant": "0.2",
        "direct": "0.4",
        "rag:k=4": "0.615385",  # 24 of the 39 that were answered
        "personaagent": "0.8",
        "personaagent-alignment": "0.8",
    }
    ours = table["personaagent"]
    assert (ours["n"], ours["users"], ours["missing"], ours["invalid"]) == ("40", "8", "0", "0")
    assert (ours["accuracy_low"], ours["accuracy_high"]) == ("0.8", "0.8")
    assert table["direct"]["invalid"] == "0.2"
    assert (table["rag:k=4"]["n"], table["rag:k=4"]["missing"]) == ("39", "1")
    assert float(table["personaagent-alignment"]["accuracy_low"]) < 0.8


def test_costs_keep_preparing_and_answering_apart(out):
    found = {(row["method"], row["stage"]): row for row in rows(out / "tables" / "costs.csv")}
    prepare, answer = found["personaagent", "prepare"], found["personaagent", "answer"]
    assert (prepare["calls"], prepare["calls_each"], prepare["tokens_each"]) == ("56", "7", "770")
    assert (answer["calls"], answer["calls_each"], answer["tokens_each"]) == ("120", "3", "110")
    assert (prepare["usd"], prepare["unpriced"], answer["usd"]) == ("0.08", "8", "0")
    assert (prepare["seconds"], answer["seconds"]) == ("16", "20")
    # The failed attempt was paid: 120 calls for 39 answers.
    assert found["rag:k=4", "answer"]["calls_each"] == f"{120 / 39:.6g}"


def test_unpriced_calls_make_dollars_a_lower_bound(out):
    assert "| ≥ 0.0800 |" in (out / "tables" / "costs.md").read_text(encoding="utf-8")


def test_differences_have_the_numbers_worked_out_by_hand(out):
    table = by(out / "figures" / "differences.csv", "b")
    direct = table["direct"]
    assert (direct["difference"], direct["difference_low"], direct["difference_high"]) == (
        "0.4",
        "0.4",
        "0.4",
    )
    assert (direct["only_a"], direct["only_b"]) == ("16", "0")
    assert float(direct["mcnemar_p"]) == pytest.approx(2 * 0.5**16, rel=1e-4)
    assert direct["verdict"] == "personaagent is better"
    # Six pairs were compared (four of ten are refused), and two of them differ in 24 queries: third of six.
    assert float(direct["mcnemar_holm"]) == pytest.approx(4 * 2 * 0.5**16, rel=1e-4)


def test_a_difference_whose_interval_holds_zero_is_undecided(out):
    row = by(out / "figures" / "differences.csv", "b")["personaagent-alignment"]
    assert row["difference"] == "0"
    assert float(row["difference_low"]) < 0 < float(row["difference_high"])
    assert row["verdict"] == "undecided"


def test_a_comparison_with_too_many_missing_answers_is_refused(out, page):
    row = by(out / "figures" / "differences.csv", "b")["rag:k=4"]
    assert row["verdict"] == "refused: 0 and 1 of 40 answers are missing, more than 1 % apart"
    assert row["difference"] == row["p_holm"] == row["mcnemar_p"] == ""
    assert row["verdict"] in page
    assert "personaagent is not compared with rag:k=4" in page


def test_every_pair_is_in_the_matrix_once(out):
    for metric in ("accuracy", "f1"):
        pairs = {frozenset((row["a"], row["b"])) for row in rows(out / "tables" / f"pairs-{metric}.csv")}
        assert len(pairs) == len(rows(out / "tables" / f"pairs-{metric}.csv")) == 10


def test_missing_answers_are_listed_by_reason(out):
    (row,) = rows(out / "tables" / "missing.csv")
    assert row == {"method": "rag:k=4", "why": "answer: LMRateLimitError", "missing": "1"}


def test_findings_name_only_what_may_be_said(page):
    assert "personaagent is better than direct and constant." in page
    assert "personaagent against personaagent-alignment is undecided" in page


def test_ablation_shows_single_removals_only(out):
    assert [row["b"] for row in rows(out / "figures" / "ablation.csv")] == ["personaagent-alignment"]


def test_sweep_runs_from_low_to_high_and_is_compared_with_its_first(out):
    found = rows(out / "figures" / "sweep-batches.csv")
    assert [(row["value"], row["accuracy"]) for row in found] == [("1", "0.4"), ("3", "0.6"), ("5", "0.8")]
    assert [row["change"] for row in found] == ["", "0.2", "0.4"]
    assert [row["verdict"] for row in found] == ["", "better", "better"]


def test_a_sweep_is_named_without_the_setting_that_is_swept(tmp_path):
    entries = []
    for k in ("10", "9"):
        labels = [f"rag:k={k},retrieval=bm25", f"rag:k={k}"]
        right = dict.fromkeys(labels, lambda user, query: query < 2)
        build(tmp_path / f"k={k}", labels, right=right)
        entries.append(SweepEntry(value=k, run=f"k={k}"))
    write_json(tmp_path / SWEEP, SweepManifest(over="k", runs=entries))
    make_report(tmp_path)
    found = [(row["method"], row["value"]) for row in rows(tmp_path / "report" / "figures" / "sweep-k.csv")]
    assert found == [("rag:retrieval=bm25", "9"), ("rag:retrieval=bm25", "10"), ("rag", "9"), ("rag", "10")]


def test_a_sweep_joins_methods_by_name_and_not_by_place(tmp_path):
    entries = []
    for k, order in (("1", ["rag", "pag"]), ("8", ["pag", "rag", "constant"])):
        labels = [name if name == "constant" else f"{name}:k={k}" for name in order]
        solved = {"rag": 1, "pag": 4, "constant": 0}
        right = {
            label: lambda user, query, n=solved[name]: query < n
            for label, name in zip(labels, order, strict=True)
        }
        build(tmp_path / f"k={k}", labels, right=right)
        entries.append(SweepEntry(value=k, run=f"k={k}"))
    write_json(tmp_path / SWEEP, SweepManifest(over="k", runs=entries))
    make_report(tmp_path)
    found = rows(tmp_path / "report" / "figures" / "sweep-k.csv")
    assert [(row["method"], row["value"], row["accuracy"], row["change"]) for row in found] == [
        ("rag", "1", "0.2", ""),
        ("rag", "8", "0.2", "0"),
        ("pag", "1", "0.8", ""),
        ("pag", "8", "0.8", "0"),
        ("constant (floor)", "8", "0", ""),
    ]
    assert [(row["invalid"], row["tokens"]) for row in found[:1]] == [("0", "4400")]


def test_costs_are_for_each_user_that_was_prepared(tmp_path):
    folder = build(tmp_path / "run", ["personaagent"])
    lines = (folder / PREPARE).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / PREPARE).write_text("".join(lines[:2]), encoding="utf-8")
    make_report(folder)
    found = {row["stage"]: row for row in rows(folder / "report" / "tables" / "costs.csv")}
    assert (found["prepare"]["units"], found["prepare"]["calls_each"]) == ("2", "7")
    assert found["prepare"]["agent_runs_each"] == "3"


def test_personas_overlap_as_counted_by_hand(out):
    found = rows(out / "figures" / "persona-jaccard.csv")
    assert len(found) == 8 * 7 // 2
    # you help one user who likes b take two actions: ten words in common, one each of their own.
    assert {row["final"] for row in found} == {f"{10 / 12:.6g}"}
    assert {row["initial"] for row in found} == {"1"}


def test_every_figure_has_its_numbers_beside_it(report, page):
    drawn = {path.stem for path in report.figures if path.suffix == ".svg"}
    numbered = {path.stem for path in report.figures if path.suffix == ".csv"}
    assert drawn == numbered
    assert {"scores", "differences", "ablation", "sweep-batches", "persona-jaccard", "persona-map"} == drawn
    assert page.count("<img ") == len(drawn)


def test_figures_are_grey_so_that_they_read_in_black_and_white(report):
    for path in report.figures:
        if path.suffix == ".svg":
            text = path.read_text(encoding="utf-8")
            ElementTree.fromstring(text)
            for colour in re.findall(r"#([0-9a-f]{6})\b", text):
                assert colour[:2] == colour[2:4] == colour[4:], (path.name, colour)


def test_page_fetches_nothing(page):
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "<script" not in page
    assert "://" not in page
    assert "@import" not in page


def test_page_forbids_everything_but_its_own_style_and_pictures(page):
    (style,) = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in page
    assert not re.search(r"<[^>]+\sstyle=", page)


def test_text_of_a_persona_is_escaped(page):
    assert "<b>" not in page
    assert "&lt;" in page


def test_cases_show_the_feedback_behind_a_change(page):
    assert "Say what this user likes." in page
    assert re.search(r"<ins>[^<]*who likes", page)
    assert "gained most" in page


def test_no_user_id_is_anywhere(report):
    for path in (report.page, report.markdown, *report.tables, *report.figures):
        assert "real-id" not in path.read_text(encoding="utf-8"), path.name
    assert "user-01" in report.page.read_text(encoding="utf-8")


def test_page_says_how_to_make_it_again(page, run):
    assert "personaagent eval run --task LaMP-2M --out RUN" in page
    assert "dspy=3.4.1" in page
    assert hashlib.sha256((run / MANIFEST).read_bytes()).hexdigest() in page
    assert "made/up-model" in page


def test_data_that_is_not_official_is_called_lamp_like(page, tmp_path):
    assert "<h1>LaMP-like 2M: methods compared</h1>" in page
    assert "no number here may be held against a published LaMP number" in page
    official = make_report(build(tmp_path / "run", ["constant", "direct"], official=True))
    text = official.page.read_text(encoding="utf-8")
    assert "<h1>LaMP-2M: methods compared</h1>" in text
    assert "LaMP-like" not in text


def test_lower_is_better_for_ratings(tmp_path):
    files = make_report(build(tmp_path / "run", ["direct", "personaagent"], task="LaMP-3"))
    (row,) = rows(files.page.parent / "figures" / "differences.csv")
    # One star off on query 4 only, against one star off on queries 2 and 3 and the worst, four, on 4.
    assert row["difference"] == f"{1 / 5 - (1 + 1 + 4) / 5:.6g}"
    assert row["verdict"] == "personaagent is better"
    assert row["mcnemar_p"] == ""
    assert "left of the line at zero favours personaagent" in files.page.read_text(encoding="utf-8")


def test_a_lone_method_has_no_differences_and_no_personas(tmp_path):
    files = make_report(build(tmp_path / "run", ["direct"]))
    assert {path.stem for path in files.figures} == {"scores"}


def test_a_sweep_folder_alone_makes_a_report(run, tmp_path):
    files = make_report(run / "batches", tmp_path)
    assert {path.stem for path in files.figures} == {"sweep-batch"}
    assert "LaMP-like 2M: sweep" in files.page.read_text(encoding="utf-8")


def test_another_reference_can_be_chosen(run, tmp_path):
    files = make_report(run, tmp_path, reference="direct")
    found = by(tmp_path / "figures" / "differences.csv", "b")
    assert found["personaagent"]["verdict"] == "personaagent is better"
    assert found["personaagent"]["difference"] == "-0.4"
    assert "ablation.csv" not in {path.name for path in files.figures}


def test_an_unknown_reference_is_refused_with_the_known_names(run, tmp_path):
    with pytest.raises(ConfigError, match=r"`reference` 'gepa' took no part .* personaagent"):
        make_report(run, tmp_path, reference="gepa")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a run folder"):
        make_report(tmp_path / "nothing")


def test_a_run_without_golds_is_refused(tmp_path):
    folder = build(tmp_path / "run", ["direct"])
    queries = [json.loads(line) for line in (folder / QUERIES).read_text().splitlines()]
    (folder / QUERIES).write_text("".join(json.dumps(query | {"gold": None}) + "\n" for query in queries))
    with pytest.raises(DataError, match="no query with a gold"):
        make_report(folder)


def test_a_stopped_run_counts_what_was_not_reached_as_missing(tmp_path):
    folder = build(tmp_path / "run", ["direct", "personaagent"])
    lines = (folder / ANSWERS).read_text().splitlines(keepends=True)
    (folder / ANSWERS).write_text("".join(line for line in lines if '"direct"' in line))
    files = make_report(folder)
    table = by(files.page.parent / "tables" / "main.csv", "method")
    assert (table["personaagent"]["n"], table["personaagent"]["missing"]) == ("0", "40")
    assert table["personaagent"]["accuracy"] == ""
    (row,) = rows(files.page.parent / "tables" / "missing.csv")
    assert row["why"] == "not attempted"


def test_a_change_within_a_sweep_has_its_own_n_and_a_corrected_p(run, tmp_path):
    make_report(run / "batches", tmp_path)
    found = rows(tmp_path / "figures" / "sweep-batch.csv")
    first = found[0]["value"]
    for row in found:
        given = [row[name] for name in ("change_n", "change_users", "p_holm")]
        assert all(given) if row["value"] != first else not any(given)
