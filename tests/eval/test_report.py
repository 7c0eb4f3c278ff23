"""Reports of small runs with numbers that are computed by hand.

Eight users with five queries each, 40 in total. `RIGHT` says which queries a method answers correctly. Users
are identical, so intervals have no width, except for `personaagent-alignment`.
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
    to_line,
    write_json,
)
from eval.report import make_report
from eval.report.charts import ForestRow, forest
from eval.report.load import load
from eval.report.run_info import make_introduction
from program.errors import ConfigError, DataError
from program.usage import Usage

USERS = [f"real-id-{number}" for number in range(8)]
QUERIES_EACH = 5
RIGHT = {
    "constant": lambda user, query: query == 0,
    "direct": lambda user, query: query < 2,
    "rag:k=4": lambda user, query: query < 3,
    "personaagent": lambda user, query: query < 4,
    # Half of the users gain a query, the other half lose one: no difference in total.
    "personaagent-alignment": lambda user, query: query < (5 if user % 2 else 3),
}
INITIAL = "You help one user.\nTake two actions."
FINAL = "You help one user who likes <b>{word}</b>.\nTake two actions."
WORDS = ["noir", "space", "war", "heist", "farce", "gothic", "western", "satire"]


def build(folder: Path, methods=tuple(RIGHT), *, task="LaMP-2M", official=False, right=RIGHT) -> Path:
    """Write a run folder in the runner's format."""
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
        (folder / name).write_text("".join(to_line(record) for record in records), encoding="utf-8")
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


def test_same_run_gives_the_same_bytes(run, report, tmp_path):
    elsewhere = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    second = make_report(elsewhere, tmp_path / "out")
    for before, after in (
        (report.page, second.page),
        (report.markdown, second.markdown),
        *zip((*report.tables, *report.figures), (*second.tables, *second.figures), strict=True),
    ):
        assert before.name == after.name
        assert before.read_bytes() == after.read_bytes(), before.name


def test_main_table_matches_hand_computed_numbers(out):
    table = by(out / "tables" / "main.csv", "method")
    assert list(table) == ["constant", "personaagent", "direct", "rag:k=4", "personaagent-alignment"]
    assert {name: row["accuracy"] for name, row in table.items()} == {
        "constant": "0.2",
        "direct": "0.4",
        "rag:k=4": "0.615385",  # 24 of 39 answers
        "personaagent": "0.8",
        "personaagent-alignment": "0.8",
    }
    ours = table["personaagent"]
    assert (ours["n"], ours["users"], ours["missing"], ours["invalid"]) == ("40", "8", "0", "0")
    assert (ours["accuracy_low"], ours["accuracy_high"]) == ("0.8", "0.8")
    assert table["direct"]["invalid"] == "0.2"
    assert (table["rag:k=4"]["n"], table["rag:k=4"]["missing"]) == ("39", "1")
    assert float(table["personaagent-alignment"]["accuracy_low"]) < 0.8


def test_costs_separate_preparing_from_answering(out):
    costs = {(row["method"], row["stage"]): row for row in rows(out / "tables" / "costs.csv")}
    prepare, answer = costs["personaagent", "prepare"], costs["personaagent", "answer"]
    assert (prepare["calls"], prepare["calls_each"], prepare["tokens_each"]) == ("56", "7", "770")
    assert (answer["calls"], answer["calls_each"], answer["tokens_each"]) == ("120", "3", "110")
    assert (prepare["usd"], prepare["unpriced"], answer["usd"]) == ("0.08", "8", "0")
    assert (prepare["seconds"], answer["seconds"]) == ("16", "20")
    # The failed attempt counts: 120 calls for 39 answers.
    assert costs["rag:k=4", "answer"]["calls_each"] == f"{120 / 39:.6g}"


def test_unpriced_calls_make_dollars_a_lower_bound(out):
    assert "| ≥ 0.0800 |" in (out / "tables" / "costs.md").read_text(encoding="utf-8")


def test_differences_match_hand_computed_numbers(out):
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
    # Four of ten pairs are refused. Two of the other six differ in 24 queries, so this p is third of six.
    assert float(direct["mcnemar_holm"]) == pytest.approx(4 * 2 * 0.5**16, rel=1e-4)


def test_difference_with_zero_in_its_interval_is_undecided(out):
    row = by(out / "figures" / "differences.csv", "b")["personaagent-alignment"]
    assert row["difference"] == "0"
    assert float(row["difference_low"]) < 0 < float(row["difference_high"])
    assert row["verdict"] == "undecided"


def test_comparison_with_too_many_missing_answers_is_refused(out, page):
    row = by(out / "figures" / "differences.csv", "b")["rag:k=4"]
    assert row["verdict"] == "refused: 0 and 1 of 40 answers are missing, more than 1 % apart"
    assert row["difference"] == row["p_holm"] == row["mcnemar_p"] == ""
    assert row["verdict"] in page
    assert "personaagent is not compared with rag:k=4" in page


def test_pair_tables_contain_each_pair_once(out):
    for metric in ("accuracy", "f1"):
        pairs = {frozenset((row["a"], row["b"])) for row in rows(out / "tables" / f"pairs-{metric}.csv")}
        assert len(pairs) == len(rows(out / "tables" / f"pairs-{metric}.csv")) == 10


def test_missing_answers_are_listed_by_reason(out):
    (row,) = rows(out / "tables" / "missing.csv")
    assert row == {"method": "rag:k=4", "why": "answer: LMRateLimitError", "missing": "1"}


def test_findings_separate_better_from_undecided(page):
    assert "personaagent is better than direct and constant." in page
    assert "personaagent against personaagent-alignment is undecided" in page


def test_ablation_contains_only_variants_of_the_full_method(out):
    assert [row["b"] for row in rows(out / "figures" / "ablation.csv")] == ["personaagent-alignment"]


def test_sweep_is_sorted_by_value_and_compared_with_its_first_run(out):
    points = rows(out / "figures" / "sweep-batches.csv")
    assert [(row["value"], row["accuracy"]) for row in points] == [("1", "0.4"), ("3", "0.6"), ("5", "0.8")]
    assert [row["change"] for row in points] == ["", "0.2", "0.4"]
    assert [row["verdict"] for row in points] == ["", "better", "better"]


def test_sweep_drops_its_setting_from_method_names(tmp_path):
    entries = []
    for k in ("10", "9"):
        labels = [f"rag:k={k},retrieval=bm25", f"rag:k={k}"]
        right = dict.fromkeys(labels, lambda user, query: query < 2)
        build(tmp_path / f"k={k}", labels, right=right)
        entries.append(SweepEntry(value=k, run=f"k={k}"))
    write_json(tmp_path / SWEEP, SweepManifest(over="k", runs=entries))
    make_report(tmp_path)
    points = [(row["method"], row["value"]) for row in rows(tmp_path / "report" / "figures" / "sweep-k.csv")]
    assert points == [("rag:retrieval=bm25", "9"), ("rag:retrieval=bm25", "10"), ("rag", "9"), ("rag", "10")]


def test_sweep_joins_methods_by_name_not_by_position(tmp_path):
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
    points = rows(tmp_path / "report" / "figures" / "sweep-k.csv")
    assert [(row["method"], row["value"], row["accuracy"], row["change"]) for row in points] == [
        ("rag", "1", "0.2", ""),
        ("rag", "8", "0.2", "0"),
        ("pag", "1", "0.8", ""),
        ("pag", "8", "0.8", "0"),
        ("constant (floor)", "8", "0", ""),
    ]
    assert [(row["invalid"], row["tokens"]) for row in points[:1]] == [("0", "4400")]


def test_costs_are_per_prepared_user(tmp_path):
    folder = build(tmp_path / "run", ["personaagent"])
    lines = (folder / PREPARE).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / PREPARE).write_text("".join(lines[:2]), encoding="utf-8")
    make_report(folder)
    costs = by(folder / "report" / "tables" / "costs.csv", "stage")
    assert (costs["prepare"]["units"], costs["prepare"]["calls_each"]) == ("2", "7")
    assert costs["prepare"]["agent_runs_each"] == "3"


def test_persona_overlap_matches_hand_computed_share(out):
    pairs = rows(out / "figures" / "persona-jaccard.csv")
    assert len(pairs) == 8 * 7 // 2
    # Ten shared words (you help one user who likes b take two actions), and one word of each persona's own.
    assert {row["final"] for row in pairs} == {f"{10 / 12:.6g}"}
    assert {row["initial"] for row in pairs} == {"1"}


def test_every_figure_has_a_csv_of_its_numbers(report, page):
    drawn = {path.stem for path in report.figures if path.suffix == ".svg"}
    numbered = {path.stem for path in report.figures if path.suffix == ".csv"}
    assert drawn == numbered
    assert {"scores", "differences", "ablation", "sweep-batches", "persona-jaccard", "persona-map"} == drawn
    assert page.count("<img ") == len(drawn)


def test_figures_use_only_grey(report):
    for path in report.figures:
        if path.suffix == ".svg":
            text = path.read_text(encoding="utf-8")
            ElementTree.fromstring(text)
            for colour in re.findall(r"#([0-9a-f]{6})\b", text):
                assert colour[:2] == colour[2:4] == colour[4:], (path.name, colour)


def test_page_loads_no_external_resource(page):
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "<script" not in page
    assert "://" not in page
    assert "@import" not in page


def test_page_security_policy_allows_only_its_own_style_and_images(page):
    (style,) = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in page
    assert not re.search(r"<[^>]+\sstyle=", page)


def test_persona_text_is_escaped(page):
    assert "<b>" not in page
    assert "&lt;" in page


def test_case_studies_show_feedback_and_changes(page):
    assert "Say what this user likes." in page
    assert re.search(r"<ins>[^<]*who likes", page)
    assert "largest gain" in page


def test_no_file_contains_a_user_id(report):
    for path in (report.page, report.markdown, *report.tables, *report.figures):
        assert "real-id" not in path.read_text(encoding="utf-8"), path.name
    assert "user-01" in report.page.read_text(encoding="utf-8")


def test_page_contains_the_facts_to_reproduce_the_run(page, run):
    assert "personaagent eval run --task LaMP-2M --out RUN" in page
    assert "dspy=3.4.1" in page
    assert hashlib.sha256((run / MANIFEST).read_bytes()).hexdigest() in page
    assert "made/up-model" in page


def test_unofficial_data_are_called_lamp_like(page, tmp_path):
    assert "<h1>LaMP-like 2M: method comparison</h1>" in page
    assert "no number here may be compared with a published LaMP number" in page
    official = make_report(build(tmp_path / "run", ["constant", "direct"], official=True))
    text = official.page.read_text(encoding="utf-8")
    assert "<h1>LaMP-2M: method comparison</h1>" in text
    assert "LaMP-like" not in text


def test_lower_is_better_for_ratings(tmp_path):
    files = make_report(build(tmp_path / "run", ["direct", "personaagent"], task="LaMP-3"))
    (row,) = rows(files.page.parent / "figures" / "differences.csv")
    # A: one star off on query 4. B: one star off on queries 2 and 3, and the worst rating, four off, on 4.
    assert row["difference"] == f"{1 / 5 - (1 + 1 + 4) / 5:.6g}"
    assert row["verdict"] == "personaagent is better"
    assert row["mcnemar_p"] == ""
    assert "left of the line at zero favours personaagent" in files.page.read_text(encoding="utf-8")


def test_single_method_has_no_differences_and_no_personas(tmp_path):
    files = make_report(build(tmp_path / "run", ["direct"]))
    assert {path.stem for path in files.figures} == {"scores"}


def test_sweep_folder_without_a_run_is_reported(run, tmp_path):
    files = make_report(run / "batches", tmp_path)
    assert {path.stem for path in files.figures} == {"sweep-batch"}
    assert "LaMP-like 2M: sweep" in files.page.read_text(encoding="utf-8")


def test_reference_argument_changes_method_a(run, tmp_path):
    files = make_report(run, tmp_path, reference="direct")
    row = by(tmp_path / "figures" / "differences.csv", "b")["personaagent"]
    assert row["verdict"] == "personaagent is better"
    assert row["difference"] == "-0.4"
    assert "ablation.csv" not in {path.name for path in files.figures}


def test_unknown_reference_raises_error_with_the_methods(run, tmp_path):
    with pytest.raises(ConfigError, match=r"`reference` 'gepa' is not a method of this run; .* personaagent"):
        make_report(run, tmp_path, reference="gepa")


def test_folder_without_a_run_raises_data_error(tmp_path):
    with pytest.raises(DataError, match="is not a run folder"):
        make_report(tmp_path / "nothing")


def test_run_without_golds_raises_data_error(tmp_path):
    folder = build(tmp_path / "run", ["direct"])
    queries = [json.loads(line) for line in (folder / QUERIES).read_text().splitlines()]
    (folder / QUERIES).write_text("".join(json.dumps(query | {"gold": None}) + "\n" for query in queries))
    with pytest.raises(DataError, match="no query with a gold"):
        make_report(folder)


def test_unattempted_queries_of_a_stopped_run_are_missing(tmp_path):
    folder = build(tmp_path / "run", ["direct", "personaagent"])
    lines = (folder / ANSWERS).read_text().splitlines(keepends=True)
    (folder / ANSWERS).write_text("".join(line for line in lines if '"direct"' in line))
    files = make_report(folder)
    table = by(files.page.parent / "tables" / "main.csv", "method")
    assert (table["personaagent"]["n"], table["personaagent"]["missing"]) == ("0", "40")
    assert table["personaagent"]["accuracy"] == ""
    (row,) = rows(files.page.parent / "tables" / "missing.csv")
    assert row["why"] == "not attempted"


def test_sweep_change_has_shared_n_and_corrected_p(run, tmp_path):
    make_report(run / "batches", tmp_path)
    first, *later = rows(tmp_path / "figures" / "sweep-batch.csv")
    keys = ("change_n", "change_users", "p_holm")
    assert not any(first[key] for key in keys)
    assert len(later) == 2
    for row in later:
        assert (row["change_n"], row["change_users"]) == ("40", "8")
        assert 0 < float(row["p_holm"]) <= 1


def write_sweep(folder: Path, over: str, values: list[str], label: str = "direct") -> Path:
    for value in values:
        build(folder / f"{over}={value}", [label])
    runs = [SweepEntry(value=value, run=f"{over}={value}") for value in values]
    write_json(folder / SWEEP, SweepManifest(over=over, runs=runs))
    return folder


def test_sweep_of_names_keeps_the_order_of_its_folder(tmp_path):
    sweep = load(write_sweep(tmp_path, "model", ["small", "large", "9"])).sweeps[0]
    assert [point.value for point in sweep.points] == ["small", "large", "9"]


def test_sweep_of_numbers_is_sorted_as_numbers(tmp_path):
    sweep = load(write_sweep(tmp_path, "k", ["10", "9", "0.5"])).sweeps[0]
    assert [point.value for point in sweep.points] == ["0.5", "9", "10"]


@pytest.mark.parametrize(
    ("over", "lead"),
    [
        ("model", "2 runs that differ in `model`: see the table."),
        ("batch", "8 users, 40 queries. Model: made/up-model."),
    ],
)
def test_lead_of_a_sweep_names_one_model_only_if_all_runs_share_it(tmp_path, over, lead):
    assert make_introduction(load(write_sweep(tmp_path, over, ["1", "2"]))).lead == lead


def test_run_and_sweep_share_pseudonyms(run):
    study = load(run)
    points = [point.run for sweep in study.sweeps for point in sweep.points]
    assert len(points) == 3
    for point in points:
        assert [(answer.user, answer.key) for answer in point.methods[0].answers] == [
            (answer.user, answer.key) for answer in study.run.methods[0].answers
        ]


def test_pseudonyms_of_many_users_sort_like_numbers(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "USERS", [f"id-{number}" for number in range(101)])
    monkeypatch.setitem(globals(), "WORDS", ["noir"] * 101)
    users = load(build(tmp_path / "run", ["direct"])).run.users
    assert (users[0], users[99], users[100]) == ("user-001", "user-100", "user-101")


def test_damaged_line_raises_error_with_file_and_line(tmp_path):
    folder = build(tmp_path / "run", ["direct"])
    with (folder / ANSWERS).open("a", encoding="utf-8") as file:
        file.write("{broken}\n")
    with pytest.raises(DataError, match=r"answers\.jsonl`, line 41"):
        make_report(folder)


def test_defects_of_the_data_are_reported(tmp_path):
    folder = build(tmp_path / "run", ["direct"])
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["data"]["defects_in_files"] = [
        {"kind": "repeated-id", "count": 3, "meaning": "one id, two items"}
    ]
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    page = make_report(folder).page.read_text(encoding="utf-8")
    assert "The data files have defects: repeated-id: 3 times (one id, two items)." in page


def test_run_without_a_model_says_that_only_baselines_ran(tmp_path):
    folder = build(tmp_path / "run", ["constant"])
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps(manifest | {"model": {}}), encoding="utf-8")
    files = make_report(folder)
    assert "Model: none, trivial baselines only." in files.markdown.read_text(encoding="utf-8")
    assert by(files.page.parent / "tables" / "facts.csv", "what")["Model"]["value"] == "none: floors only"


def test_skipped_or_missing_feedback_is_named_in_the_case(tmp_path):
    folder = build(tmp_path / "run", ["personaagent"])
    records = [json.loads(line) for line in (folder / PREPARE).read_text(encoding="utf-8").splitlines()]
    for record, entries, error in (
        (records[0], [{"interaction_id": "i1", "text": "", "skipped": "the answer is right"}], ""),
        (records[1], [], "LMTimeoutError: too slow"),
    ):
        step = record["learned"]["alignment"]["steps"][0]
        step["feedback"] = entries
        step["simulations"][0] |= {"answer": None, "error": error}
    (folder / PREPARE).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    first, second = (persona.updates[0].feedback[0] for persona in load(folder).run.methods[0].personas[:2])
    assert (first.answer, first.feedback) == ("no answer", "no feedback: the answer is right")
    assert (second.answer, second.feedback) == ("no answer", "no feedback: LMTimeoutError: too slow")


def test_later_report_deletes_only_the_files_of_the_earlier_one(tmp_path):
    folder = build(tmp_path / "run", ["direct", "personaagent"])
    out = make_report(folder).page.parent
    own = out / "tables" / "own.csv"
    own.write_text("kept", encoding="utf-8")
    shutil.copy(build(tmp_path / "single", ["direct"]) / MANIFEST, folder / MANIFEST)
    files = make_report(folder)
    assert {path.name for path in (out / "figures").iterdir()} == {"scores.csv", "scores.svg"}
    assert {path.name for path in files.figures} == {"scores.csv", "scores.svg"}
    assert own.read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize("name", ["../victim.txt", "tables/../../victim.txt", "report.md", "victim.txt"])
def test_file_list_cannot_delete_outside_tables_and_figures(tmp_path, name):
    folder = build(tmp_path / "run", ["constant"])
    out = tmp_path / "out"
    victims = [tmp_path / "victim.txt", out / "victim.txt"]
    out.mkdir()
    for victim in victims:
        victim.write_text("kept", encoding="utf-8")
    (out / "files.txt").write_text(f"{name}\n", encoding="utf-8")
    make_report(folder, out)
    assert all(victim.exists() for victim in victims)
    assert (out / "report.md").exists()


def test_unwritable_output_folder_raises_one_line_error(tmp_path):
    folder = build(tmp_path / "run", ["constant"])
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot write `.*report\.html`: [^\n]+$"):
        make_report(folder, tmp_path / "out")


def test_markdown_links_only_to_files_of_the_report(report):
    text = report.markdown.read_text(encoding="utf-8")
    links = set(re.findall(r"\]\(([^)]+)\)", text))
    assert links
    assert all((report.markdown.parent / link).is_file() for link in links)


def test_every_anchor_of_the_page_exists_once(page):
    targets = re.findall(r'href="#([^"]+)"', page)
    assert len(targets) == len(set(targets)) == page.count("<h2 ") - 1  # "How to read this" has no link
    for target in targets:
        assert page.count(f'id="{target}"') == 1


def test_matplotlibrc_of_the_user_does_not_change_figures():
    import matplotlib

    rows = [
        ForestRow(label="a", value=0.5, low=0.25, high=0.75),
        ForestRow(label="b", value=None, low=None, high=None),
    ]
    before = forest("chart", rows, "axis")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert forest("chart", rows, "axis") == before
