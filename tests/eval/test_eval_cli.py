from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
import typer

from eval.cli import app
from eval.cli.results import _print
from eval.records import read_run, read_sweep
from eval.report.table import Table, key_column
from program.cli.options import guarded
from program.console import FAILED, MODEL, OK, PARTIAL, USAGE
from program.home import home
from program.models.scripted import scripted_lm
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import store_path
from program.tracing.view.reader import list_traces

Cli = Callable[..., tuple[int, str, str]]
RAG_SETTINGS = {
    "k": 4,
    "item_chars": 300,
    "history": "examples",
    "last": "similar",
    "retrieval": "hybrid",
}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run ``personaagent eval ...``: exit code, stdout, stderr."""
    root = typer.Typer(pretty_exceptions_enable=False)
    root.add_typer(app, name="eval")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["personaagent", "eval", *map(str, arguments)])
        code = guarded(root)
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Replace every ``--model`` by a scripted one."""

    def use(reply: Callable[[str, str], Any]) -> Any:
        lm = scripted_lm(reply)
        monkeypatch.setattr("program.models.resolve.resolve_lm", lambda *args, **settings: lm)
        return lm

    return use


def run_it(cli: Cli, data: Path, out: Path, *more: object, method: str = "floors") -> tuple[int, str, str]:
    return cli("run", "--task", "LaMP-2M", "--data", data, "--method", method, "--out", out, *more)


def test_wrong_set_option_is_refused_before_any_call(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    code, _, stderr = run_it(cli, oppu_folder, tmp_path / "run", "--set", "k", method="rag")
    assert code == USAGE
    assert "cannot read `--set` 'k'; write it like k=8" in stderr
    code, _, stderr = run_it(cli, oppu_folder, tmp_path / "run", "--set", "k=0", method="rag")
    assert code == USAGE
    assert "`k` must be at least 1, got 0" in stderr
    assert not (tmp_path / "run").exists()


def test_floors_run_without_model_and_print_table(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    code, stdout, stderr = run_it(cli, oppu_folder, tmp_path / "run")
    assert code == OK
    assert "LaMP-like 2M" in stdout
    assert "user-majority" in stdout
    assert "eval report" in stderr
    manifest = read_run(tmp_path / "run").manifest
    assert manifest.model == {}
    assert manifest.command.startswith("personaagent eval run --task LaMP-2M")


def test_json_is_printed_and_second_run_makes_no_call(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    lm = model(obliging)
    code, stdout, _ = run_it(cli, oppu_folder, tmp_path / "run", "--json", method="rag,floors")
    first = json.loads(stdout)
    assert (code, first["complete"], first["usage"]["calls"]) == (OK, True, 8)
    code, stdout, _ = run_it(cli, oppu_folder, tmp_path / "run", "--json", method="rag,floors")
    assert json.loads(stdout)["usage"]["calls"] == 0
    assert len(lm.engine.prompts) == 8


def test_score_compare_and_predictions_read_run(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    model(obliging)
    folder = tmp_path / "run"
    run_it(cli, oppu_folder, folder, method="rag:k=2,user-majority")
    code, stdout, _ = cli("score", folder, "--json")
    rows = {row["method"]: row for row in json.loads(stdout)}
    # Half of the golds are comedy, and so are all answers.
    assert (code, rows["rag:k=2"]["accuracy"], rows["rag:k=2"]["missing"]) == (OK, 0.5, 0)
    code, stdout, _ = cli("compare", folder, "rag:k=2", "user-majority", "--json")
    assert (code, json.loads(stdout)[0]["n"]) == (OK, 8)
    code, _, _ = cli("predictions", folder, "rag:k=2", "--out", tmp_path / "p.json")
    assert code == OK
    golds = oppu_folder / "user_top_100_history_label.json"
    code, stdout, _ = cli("score", tmp_path / "p.json", "--golds", golds, "--task", "LaMP-2M", "--json")
    assert json.loads(stdout)[0] == {
        "name": "accuracy",
        "value": 0.5,
        "unit": "share",
        "better": "higher",
        "n": 8,
    }
    code, stdout, _ = cli("score", folder, "--format", "markdown")
    assert "| rag:k=2 | 8 | 4 | 0.500" in stdout


def test_run_is_traced_by_user_and_published_as_evaluation(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    model(obliging)
    run_it(cli, oppu_folder, tmp_path / "run", method="rag,floors")
    with contextlib.closing(TraceStore(store_path(home()))) as store:
        lines = list_traces(store, user_id="viewer1", name="evaluate")
        # One preparation and two answers of `rag`; baselines are not traced.
        assert len(lines) == 3
        assert any("Evaluation" in line.name for line in list_traces(store))
    run_it(cli, oppu_folder, tmp_path / "off", "--trace", "off", method="rag")
    with contextlib.closing(TraceStore(store_path(home()))) as store:
        assert len(list_traces(store, user_id="viewer1", name="evaluate")) == 3


def test_sweep_has_run_for_each_value(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    model(obliging)
    code, _, _ = cli(
        "sweep",
        "--over",
        "k=1,3",
        "--task",
        "LaMP-2M",
        "--data",
        oppu_folder,
        "--method",
        "rag,icl",
        "--out",
        tmp_path / "s",
    )
    assert code == OK
    sweep = read_sweep(tmp_path / "s")
    assert sweep is not None
    assert [(entry.value, entry.run) for entry in sweep.runs] == [("1", "k=1"), ("3", "k=3")]
    assert read_run(tmp_path / "s" / "k=3").manifest.methods["rag:k=3"].settings["k"] == 3
    code, _, stderr = cli(
        "sweep",
        "--over",
        "batch=1,3",
        "--task",
        "LaMP-2M",
        "--data",
        oppu_folder,
        "--method",
        "rag",
        "--out",
        tmp_path / "t",
    )
    assert (code, "none of the methods has a setting `batch`" in stderr) == (USAGE, True)


def test_sweep_over_history_limits_history(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    cli(
        "sweep",
        "--over",
        "history=1,4",
        "--task",
        "LaMP-2M",
        "--data",
        oppu_folder,
        "--method",
        "floors",
        "--out",
        tmp_path / "s",
    )
    assert read_run(tmp_path / "s" / "history=1").manifest.data["interactions"] == 4


def test_run_over_equals_sweep(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    model(obliging)
    arguments = ("--over", "k=1,2", "--task", "LaMP-2M", "--data", oppu_folder, "--method", "rag,constant")
    outputs = [cli(name, *arguments, "--out", tmp_path / name, "--json")[:2] for name in ("run", "sweep")]
    assert outputs[0] == outputs[1]
    assert outputs[0][0] == OK
    assert read_sweep(tmp_path / "run") == read_sweep(tmp_path / "sweep")
    for value in ("k=1", "k=2"):
        run, sweep = read_run(tmp_path / "run" / value), read_run(tmp_path / "sweep" / value)
        assert run.labels == sweep.labels == (f"rag:{value}", "constant")
        texts = [{key: record.text for key, record in read.answers.items()} for read in (run, sweep)]
        assert texts[0] == texts[1]


def test_sweep_without_over_is_refused(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    code, stdout, stderr = cli(
        "sweep", "--task", "LaMP-2M", "--data", oppu_folder, "--method", "floors", "--out", tmp_path / "s"
    )
    assert (code, stdout) == (USAGE, "")
    assert stderr == (
        "error: `eval sweep` is `eval run --over`; give `--over`, such as `--over batch=1,3,5`\n"
    )
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("k", "cannot read `--over` 'k'; write it like batch=1,3,5"),
        ("k=", "cannot read `--over` 'k='"),
        ("k=1,1", "`--over` 'k=1,1' names a value twice"),
        ("history=few", "`--over history` needs whole numbers, got 'few'"),
        ("seed=-1", "`--over seed` needs whole numbers, got '-1'"),
        ("users=0", "`users` must be at least 1, got 0"),
    ],
)
def test_wrong_over_option_is_refused(
    over: str, message: str, cli: Cli, oppu_folder: Path, tmp_path: Path
) -> None:
    code, _, stderr = run_it(cli, oppu_folder, tmp_path / "s", "--over", over, method="constant")
    assert (code, message in stderr, stderr.count("\n")) == (USAGE, True, 1)
    assert not (tmp_path / "s").exists()


def test_sweep_resumes_and_keeps_earlier_values(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    for values in ("1,2", "2,3"):
        code, _, _ = run_it(cli, oppu_folder, tmp_path / "s", "--over", f"queries={values}")
        assert code == OK
    sweep = read_sweep(tmp_path / "s")
    assert sweep is not None
    assert [entry.value for entry in sweep.runs] == ["1", "2", "3"]
    code, _, stderr = run_it(cli, oppu_folder, tmp_path / "s", "--over", "users=1,2")
    assert code == USAGE
    assert "holds a sweep over `queries`, not `users`" in stderr


def test_sweep_over_seed_changes_selection_seed(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    options = ("--order", "random", "--users", 2)
    assert run_it(cli, oppu_folder, tmp_path / "s", *options, "--over", "seed=1,2")[0] == OK
    for seed in (1, 2):
        manifest = read_run(tmp_path / "s" / f"seed={seed}").manifest
        assert (manifest.seed, manifest.data["selection"]["seed"]) == (seed, seed)


def test_sweep_over_model_uses_each_model(
    cli: Cli, oppu_folder: Path, tmp_path: Path, obliging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {name: scripted_lm(obliging) for name in ("small/one", "large/two")}
    monkeypatch.setattr("program.models.resolve.resolve_lm", lambda name, **settings: models[name])
    code, _, _ = run_it(
        cli, oppu_folder, tmp_path / "s", "--over", "model=small/one,large/two", method="direct"
    )
    assert code == OK
    sweep = read_sweep(tmp_path / "s")
    assert sweep is not None
    # Slashes cannot be part of a folder's name.
    assert [entry.run for entry in sweep.runs] == ["model=small-one", "model=large-two"]
    assert [len(lm.engine.prompts) for lm in models.values()] == [8, 8]


def test_sweep_stops_at_a_limit(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    model(obliging)
    code, _, stderr = run_it(
        cli, oppu_folder, tmp_path / "s", "--over", "k=1,2", "--max-calls", 3, method="rag"
    )
    assert (code, "stopped: the limit of 3 calls is reached" in stderr) == (MODEL, True)
    sweep = read_sweep(tmp_path / "s")
    assert sweep is not None
    assert [entry.value for entry in sweep.runs] == ["1"]


def test_own_gate_and_batch_rule_are_method_settings(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any, own_module: Any
) -> None:
    own_module(
        "own_rules",
        "from optimizers.contracts import BatchSelector, Decision, Gate\n"
        "class Careful(Gate):\n"
        "    needs_scores = False\n"
        "    def decide(self, parent, candidate):\n"
        "        return Decision(accept=False, reason='careful as ever')\n"
        "class Longest(BatchSelector):\n"
        "    def select(self, trainset, scores, size):\n"
        "        return sorted(trainset, key=lambda example: len(example.query))[-size:]\n",
    )
    model(obliging)
    spec = "personaagent:gate=own_rules:Careful,choice=own_rules:Longest,batch=1,prose=false"
    code, _, stderr = run_it(cli, oppu_folder, tmp_path / "run", "--users", 1, method=f"{spec},constant")
    assert code == OK, stderr
    run = read_run(tmp_path / "run")
    assert run.labels == (spec, "constant")
    learned = run.prepared[spec, "viewer0"].learned
    assert learned is not None
    assert learned["persona"] == learned["persona_initial"]
    alignment = learned["alignment"]
    assert (alignment["config"]["gate"], alignment["config"]["batch"]) == (
        "own_rules:Careful",
        "own_rules:Longest",
    )
    assert alignment["steps"][0]["decision"]["reason"] == "careful as ever"


def test_unknown_gate_is_refused_before_any_call(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    lm = model(obliging)
    code, _, stderr = run_it(
        cli, oppu_folder, tmp_path / "run", method="personaagent:gate=no_such_module:Gate"
    )
    assert (code, lm.engine.prompts, stderr.count("\n")) == (USAGE, [], 1)
    assert "cannot load gate 'no_such_module:Gate'" in stderr


def test_run_names_next_command_and_cost(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    _, _, stderr = run_it(cli, oppu_folder, tmp_path / "my run")
    assert "0 calls, 0 tokens, $0.0000" in stderr
    assert f"next: personaagent eval report '{tmp_path / 'my run'}'" in stderr


def test_predictions_refuse_unknown_method_and_shared_query_ids(
    cli: Cli, oppu_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_it(cli, oppu_folder, run)
    code, _, stderr = cli("predictions", run, "rag", "--out", tmp_path / "p.json")
    assert code == USAGE
    assert "method 'rag' is not in this run; choose one of: constant, global-majority, user-" in stderr
    for name in ("queries.jsonl", "answers.jsonl"):
        lines = (run / name).read_text()
        (run / name).write_text(lines.replace("viewer1q0", "viewer0q0"))
    code, _, stderr = cli("predictions", run, "constant", "--out", tmp_path / "p.json")
    assert (code, "two users have a query with the same id" in stderr) == (FAILED, True)
    assert not (tmp_path / "p.json").exists()


def test_compare_refuses_unknown_method_and_single_method(
    cli: Cli, oppu_folder: Path, tmp_path: Path
) -> None:
    run_it(cli, oppu_folder, tmp_path / "one", method="constant")
    code, _, stderr = cli("compare", tmp_path / "one")
    assert code == USAGE
    assert "has only one method; add another one, such as personaagent" in stderr
    run_it(cli, oppu_folder, tmp_path / "all")
    code, _, stderr = cli("compare", tmp_path / "all", "constant", "rag")
    assert (code, "method 'rag' is not in this run" in stderr) == (USAGE, True)


def test_prediction_file_needs_golds_and_task(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    golds = oppu_folder / "user_top_100_history_label.json"
    for options in (("--golds", golds), ("--task", "LaMP-2M")):
        code, _, stderr = cli("score", tmp_path / "p.json", *options)
        assert (code, "needs both `--golds` and `--task`" in stderr) == (USAGE, True)


def test_tasks_and_methods_are_listed(cli: Cli) -> None:
    assert "LaMP-2M" in [row["name"] for row in json.loads(cli("tasks", "--json")[1])]
    listed = {row["name"]: row for row in json.loads(cli("methods", "--json")[1])}
    assert listed["rag"] == {**listed["rag"], "floor": False, "settings": RAG_SETTINGS}
    assert not [row for row in listed.values() if row["about"].startswith("cannot be loaded")]
    assert listed["personaagent"]["about"].startswith("The paper's method.")
    assert {name for name, row in listed.items() if row["floor"]} == {
        "constant",
        "global-majority",
        "user-majority",
        "user-median",
        "cited-before",
        "lead",
    }
    terminal = cli("tasks")[1] + cli("methods")[1]
    assert "one of 15 labels" in terminal
    assert "retrieval=hybrid" in terminal


def test_listed_methods_fit_100_columns_and_say_what_an_ablation_leaves_out(cli: Cli) -> None:
    lines = cli("methods")[1].splitlines()
    assert max(map(len, lines)) <= 100
    for part in ("alignment", "persona", "memory", "action"):
        assert f"without {part}" in lines[lines.index(f"personaagent-{part}") + 1].replace(" a ", " ")


def test_declined_licence_downloads_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.confirm", lambda *args, **settings: False)
    code, _, stderr = cli(
        "download", "--task", "LaMP-3", "--to", tmp_path / "d", "--base", "http://127.0.0.1:9"
    )
    assert code != OK
    assert "CC BY-NC-SA" in stderr
    assert not list(tmp_path.glob("d/*.json"))


def test_missing_data_path_is_named(cli: Cli, tmp_path: Path) -> None:
    code, stdout, stderr = run_it(cli, tmp_path / "nowhere", tmp_path / "run")
    assert (code, stdout) == (FAILED, "")
    assert stderr == f"error: `{tmp_path}/nowhere` does not exist; check the path\n"


def test_data_of_another_task_are_refused(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    code, _, stderr = cli(
        "run", "--task", "LaMP-3", "--data", oppu_folder, "--method", "floors", "--out", tmp_path / "run"
    )
    assert code == FAILED
    assert "field `task` is 'LaMP_2M', but `LaMP-3` needs 'LaMP_3'" in stderr
    assert stderr.count("\n") == 1


def test_prediction_with_unknown_id_is_refused(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    golds = oppu_folder / "user_top_100_history_label.json"
    content = json.loads(golds.read_text())
    content["golds"].append({"id": "stranger", "output": "comedy"})
    (tmp_path / "p.json").write_text(json.dumps(content))
    code, _, stderr = cli("score", tmp_path / "p.json", "--golds", golds, "--task", "LaMP-2M")
    assert code == FAILED
    assert "1 unknown query id ('stranger')" in stderr


def test_failing_method_is_partial_failure(
    cli: Cli, oppu_folder: Path, tmp_path: Path, own_module: Callable[[str, str], None]
) -> None:
    own_module(
        "raising",
        "from eval.methods.baselines import UserMajority\n"
        "class Raises(UserMajority):\n"
        "    name = 'raises'\n"
        "    def answer(self, prepared, query):\n"
        "        raise KeyError('private words of a user')\n",
    )
    code, _, stderr = run_it(cli, oppu_folder, tmp_path / "run", method="raising:Raises,user-majority")
    assert code == PARTIAL
    assert "raising:Raises: failed attempts: 8 x KeyError" in stderr
    assert "private words" not in stderr
    assert read_run(tmp_path / "run").missing("raising:Raises") == 8


def test_failing_model_is_reported_once(cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any) -> None:
    def down(system: str, user: str) -> str:
        raise dspy.lm15.ServerError("down")

    model(down)
    code, _, stderr = run_it(cli, oppu_folder, tmp_path / "run", method="direct")
    assert code == MODEL
    assert "direct: failed attempts: 8 x LMServerError; the last: " in stderr
    assert read_run(tmp_path / "run").missing("direct") == 8


def test_call_limit_is_model_error(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    model(obliging)
    code, _, stderr = run_it(cli, oppu_folder, tmp_path / "run", "--max-calls", 3, method="direct")
    assert (code, "stopped: the limit of 3 calls is reached" in stderr) == (MODEL, True)


def test_resume_with_other_settings_is_refused(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    run_it(cli, oppu_folder, tmp_path / "run")
    code, _, stderr = run_it(cli, oppu_folder, tmp_path / "run", "--users", 2)
    assert code == USAGE
    assert "was run with `data.selection.users` None, not 2" in stderr


def test_predictions_refuse_missing_answers(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    model(obliging)
    run_it(cli, oppu_folder, tmp_path / "run", "--max-calls", 3, method="direct")
    code, _, stderr = cli("predictions", tmp_path / "run", "direct", "--out", tmp_path / "p.json")
    assert (code, "'direct' still lacks 5 answers" in stderr) == (FAILED, True)


def test_convert_writes_arrow_that_run_reads(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    code, stdout, _ = cli(
        "convert", "--task", "LaMP-2M", "--data", oppu_folder, "--out", tmp_path / "a", "--json"
    )
    content = json.loads(stdout)
    assert (code, content["users"], Path(content["file"]).is_file()) == (OK, 4, True)
    run = (
        "run",
        "--task",
        "LaMP-2M",
        "--data",
        tmp_path / "a",
        "--method",
        "floors",
        "--out",
        tmp_path / "r",
    )
    assert cli(*run)[0] == OK
    assert len(read_run(tmp_path / "r").queries) == 8


def test_seed_changes_samples_of_sampling_model(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    lm = model(obliging)
    lm.cache, lm.kwargs["temperature"] = True, 0.7
    run = ("run", "--task", "LaMP-2M", "--data", oppu_folder, "--method", "direct", "--users", 1)
    for seed in (1, 2, 2):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        assert cli(*run, "--seed", seed, "--out", out)[0] == OK
    # Two queries each for two seeds; the third run is answered from the cache.
    assert len(lm.engine.prompts) == 4


def test_sweep_refuses_wrong_value_before_any_call(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    lm = model(obliging)
    sweep = ("sweep", "--over", "k=1,2,0", "--task", "LaMP-2M", "--data", oppu_folder, "--method", "rag")
    code, _, stderr = cli(*sweep, "--out", tmp_path / "s")
    assert (code, lm.engine.prompts) == (USAGE, [])
    assert "`k` must be at least 1, got 0" in stderr


def test_seed_bypasses_cache_without_temperature(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    lm = model(obliging)
    lm.cache = True
    assert lm.kwargs.get("temperature") is None
    run = ("run", "--task", "LaMP-2M", "--data", oppu_folder, "--method", "direct", "--users", 1)
    for seed in (3, 4):
        assert cli(*run, "--seed", seed, "--out", tmp_path / f"{seed}")[0] == OK
    assert len(lm.engine.prompts) == 4


def test_own_task_is_run_and_reported(
    cli: Cli, oppu_folder: Path, tmp_path: Path, own_module: Callable[[str, str], None]
) -> None:
    own_module(
        "own_task",
        "from dataclasses import replace\nfrom eval.tasks.lamp_2m import TASK as T\n"
        'TASK = replace(T, name="my-films")\n',
    )
    run = ("run", "--task", "own_task:TASK", "--data", oppu_folder, "--method", "floors")
    assert cli(*run, "--out", tmp_path / "run")[0] == OK
    assert cli("report", tmp_path / "run")[0] == OK


def test_changed_own_method_cannot_resume(
    cli: Cli, oppu_folder: Path, tmp_path: Path, own_module: Callable[[str, str], None]
) -> None:
    text = (
        "from dataclasses import dataclass\nfrom typing import ClassVar\n"
        "from eval.contracts import Answer\nfrom eval.methods.base import BaseMethod\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Own(BaseMethod):\n"
        "    name: ClassVar[str] = 'own'\n    trivial: ClassVar[bool] = True\n"
        "    def answer(self, prepared, query):\n        return Answer(text='comedy')\n"
    )
    own_module("own_method", text)
    run = ("run", "--task", "LaMP-2M", "--data", oppu_folder, "--method", "own_method:Own")
    assert cli(*run, "--out", tmp_path / "run")[0] == OK
    own_module("own_method", text.replace("comedy", "action"))
    code, _, stderr = cli(*run, "--out", tmp_path / "run")
    assert code == USAGE
    assert "methods.own_method:Own.source" in stderr


def test_terminal_prints_brackets_and_colons_unchanged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = [key_column("method", "Method", number=False), key_column("value", "Value", number=False)]
    rows = [{"method": "chg:M:k=3", "value": "0.500 [no interval]"}]
    for format_ in ("terminal", "csv"):
        _print(Table(name="t", title="T", rows=rows, columns=columns), format_, json=False)
        output = capsys.readouterr().out
        assert "chg:M:k=3" in output
        assert "0.500 [no interval]" in output


def test_convert_does_not_overwrite_run(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    assert run_it(cli, oppu_folder, tmp_path / "run")[0] == OK
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    code, _, stderr = cli("convert", "--task", "LaMP-2M", "--data", oppu_folder, "--out", tmp_path / "run")
    assert code == FAILED
    assert "holds something else already" in stderr
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


def test_unwritable_path_reports_one_line_error(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    assert run_it(cli, oppu_folder, tmp_path / "run")[0] == OK
    file = tmp_path / "file"
    file.write_text("")
    run = tmp_path / "run"
    for command in (
        ("predictions", run, "user-majority", "--out", tmp_path / "no" / "x.json"),
        ("report", run, "--out", file),
        ("convert", "--task", "LaMP-2M", "--data", oppu_folder, "--out", file),
    ):
        code, _, stderr = cli(*command)
        assert code == FAILED
        assert "cannot write" in stderr


def test_new_report_removes_stale_tables(cli: Cli, oppu_folder: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    assert run_it(cli, oppu_folder, run)[0] == OK
    assert cli("report", run, "--out", out)[0] == OK
    files = sorted(path.relative_to(out) for path in out.rglob("*"))
    (out / "tables" / "missing.csv").write_text("not attempted,18\n")
    (out / "tables" / "mine.csv").write_text("kept\n")
    listed = out / "files.txt"
    listed.write_text(listed.read_text() + "tables/missing.csv\n")
    assert cli("report", run, "--out", out)[0] == OK
    (out / "tables" / "mine.csv").unlink()
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == files


HEDGES = """
from eval import Answer, BaseMethod

class Bold(BaseMethod):
    name, trivial = "bold", True
    def answer(self, prepared, query):
        return Answer(text="comedy", probabilities={"comedy": 0.9, "action": 0.1})

class Shy(BaseMethod):
    name, trivial = "shy", True
    def answer(self, prepared, query):
        return Answer(text="classic", probabilities={"comedy": 0.5, "action": 0.5})
"""


def test_log_likelihood_is_compared_and_its_signs_are_counted(
    cli: Cli, oppu_folder: Path, tmp_path: Path, own_module: Callable[[str, str], None]
) -> None:
    own_module("hedges", HEDGES)
    folder = tmp_path / "run"
    run_it(cli, oppu_folder, folder, method="hedges:Bold,hedges:Shy,constant")
    _, stdout, _ = cli("compare", folder, "hedges:Bold", "hedges:Shy", "--metric", "log-likelihood", "--json")
    (row,) = json.loads(stdout)
    # Golds are half comedy and half action: (ln 0.9 + ln 0.1) / 2 - ln 0.5 = ln 0.3 - ln 0.5.
    assert (row["metric"], row["n"], row["users"]) == ("log-likelihood", 8, 4)
    assert row["difference"] == pytest.approx(-0.5108256238)
    # Bold is right in half of the cases and Shy never, but Shy is the likelier one.
    code, stdout, _ = cli("compare", folder, "--signs", "--json")
    counts = {"pairs": 1, "same": 0, "opposite": 1, "zero": 0}
    first, second = json.loads(stdout)
    assert (code, first) == (OK, {"metric": "accuracy", "which": "all", **counts})
    assert second["pairs"] == 0  # Four users are too few for a verdict.
    _, stdout, _ = cli("compare", folder, "--signs", "--format", "csv")
    assert stdout.splitlines()[:2] == ["metric,which,pairs,same,opposite,zero", "accuracy,all,1,0,1,0"]
    assert cli("report", folder)[0] == OK
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="agreement">Log-likelihood against Accuracy</h2>' in page
    assert (folder / "report" / "tables" / "agreement.csv").read_text(encoding="utf-8") == stdout


def test_unknown_metric_and_signs_of_one_pair_are_refused(
    cli: Cli, oppu_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run_it(cli, oppu_folder, folder, method="user-majority,constant")
    code, _, stderr = cli("compare", folder, "--metric", "log-likelihood")
    assert (code, "choose one of: accuracy, f1 (log-likelihood needs" in stderr) == (USAGE, True)
    code, _, stderr = cli("compare", folder, "constant", "--signs")
    assert (code, "leave out A, B and `--metric`" in stderr) == (USAGE, True)
    code, _, stderr = cli("compare", folder, "--signs")
    assert (code, "no answer of this run has probabilities" in stderr) == (USAGE, True)


def test_calibration_is_refused_for_a_model_that_cannot(
    cli: Cli, oppu_folder: Path, tmp_path: Path, model: Any, obliging: Any
) -> None:
    lm = model(obliging)
    code, _, stderr = run_it(cli, oppu_folder, tmp_path / "run", "--calibrate", method="rag")
    assert (code, "cannot calibrate the probabilities of labels" in stderr) == (USAGE, True)
    assert not lm.engine.prompts
