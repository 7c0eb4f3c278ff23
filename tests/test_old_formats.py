"""What version 0.1 wrote to disk is opened by the code of today.

The files of `tests/fixtures/v0_1` were made once, by `make.py` there, with commit 1fcb83e. They are not
made again: a test that fails here is a user who cannot open what is on the disk. Expected values are
written out by hand, or are the tables that 0.1 itself made of the same folder.
"""

from __future__ import annotations

import csv
import json
import math
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import personaagent

OLD = Path(__file__).parent / "fixtures" / "v0_1"
HINT = "Answer with the tag of the film that was found first."
INITIAL = """\
You are the personal assistant of one user and answer exactly as this user would. Take more than two \
actions to find out what this user prefers before you answer.

What is known about this user:
This user has answered 12 times between 2025-10-14 and 2026-06-09.
Most frequent answers: based on a book (4), romance (3), classic (2), dystopia (2), true story (1).
The kind of film decides the tag.

Rules for using tools:
1. Think step by step about which information you still need.
2. You MUST use at least TWO tools before you answer.
3. Choose each tool and its words with care, and take the most accurate information from different tools.
4. Give the final answer clearly and briefly, with no explanation."""
ALIGNED = f"{INITIAL}\n\n{HINT}"
MODEL = ("--model", "python:scripted_models:good", "--no-wikipedia")


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Cli = Callable[..., Done]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run ``personaagent ...`` in a folder of its own, with a copy of what 0.1 left."""
    for name in ("users.db", "traces.db", "trace.key"):
        (tmp_path / "home").mkdir(exist_ok=True)
        shutil.copyfile(OLD / name, tmp_path / "home" / name)
    for name in ("run", "sweep"):
        shutil.copytree(OLD / name, tmp_path / name)
    shutil.copyfile(OLD / "movies.json", tmp_path / "movies.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", list(sys.path))
    models = ModuleType("scripted_models")
    models.good = personaagent.scripted_lm(_reply)  # type: ignore[attr-defined]
    models.good.model = "scripted/good"
    monkeypatch.setitem(sys.modules, "scripted_models", models)

    def call(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["personaagent", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            personaagent.main()
        assert isinstance(end.value.code, int)
        return Done(end.value.code, *capsys.readouterr())

    return call


def _reply(system: str, user: str) -> str | dict[str, Any]:
    if "write the feedback" in user:
        return "Be brief."
    if "write the new system prompt" in user:
        return "You are brief."
    if "write the profile" in user:
        return "Likes brevity."
    if "`action`" not in user:
        return {"answer": "classic"}
    return {"thought": "", "action": {"tool": "finish", "answer": "classic"}}


# The store


def test_store_of_0_1_opens_and_lists_its_users(cli: Cli) -> None:
    rows = cli("users", "list", "--json").json
    names = (
        "user_id",
        "task",
        "interactions",
        "persona_version",
        "pinned",
        "stale",
        "calls",
        "usd",
        "unpriced",
    )
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("ana", "LaMP-2M", 13, 3, None, True, 18, 0.0, 18),
        ("bo", "LaMP-2M", 12, 1, None, False, 0, 0.0, 0),
        ("chi", "LaMP-2M", 12, None, None, True, 0, 0.0, 0),
    ]
    assert rows[0]["stale_since"].startswith("2026-11-25")


def test_costs_of_0_1_are_those_of_its_alignments(cli: Cli) -> None:
    (ana,) = cli("users", "costs", "ana", "--by", "month", "--json").json
    assert (ana["month"], ana["calls"], ana["agreement"]) == ("2026-11", 18, 0.25)


def test_persona_of_0_1_can_be_pinned(cli: Cli) -> None:
    assert cli("persona", "pin", "ana", 2, "--json").json == {"user_id": "ana", "pinned": 2}
    assert cli("persona", "show", "ana", "--json").json["version"] == 2
    refused = cli("align", "ana", *MODEL)
    assert (refused.code, refused.out) == (1, "")
    assert "is pinned at version 2" in refused.err
    assert cli("persona", "unpin", "ana", "--json").json == {"user_id": "ana", "persona_version": 3}


def test_store_of_0_1_has_profile_state_and_the_alignment_that_was_done(cli: Cli) -> None:
    ana = cli("users", "show", "ana", "--json").json
    known = {"task": "LaMP-2M", "interactions": 13, "persona_version": 3, "stale": True}
    assert {name: ana[name] for name in known} == known
    assert ana["profile"] == (
        "This user has answered 12 times between 2025-10-14 and 2026-06-09.\n"
        "Most frequent answers: based on a book (4), romance (3), classic (2), dystopia (2), "
        "true story (1).\n"
        "Latest answers, newest first: romance, dystopia, based on a book, dystopia, classic.\n"
        "The kind of film decides the tag."
    )
    assert [(run["status"], run["error"]) for run in ana["alignments"]] == [("done", "")]


def test_store_of_0_1_has_the_alignment_that_failed(cli: Cli) -> None:
    bo = cli("users", "show", "bo", "--json").json
    (failed,) = bo["alignments"]
    assert failed["status"] == "failed"
    assert failed["error"].startswith("AlignmentFailedError: none of 1 simulated answers could be read")
    assert "Most frequent answers: violence (7), sci-fi (3)" in bo["profile"]
    chi = cli("users", "show", "chi", "--json").json
    assert (chi["profile"], chi["alignments"]) == (None, [])


def test_interactions_of_0_1_are_in_time_order(cli: Cli) -> None:
    with personaagent.UserStore("home/users.db") as store:
        found = store.interactions("ana")
    # The last one was observed, under an id that was made for it.
    assert [item.id for item in found[:-1]] == [str(number) for number in range(1013, 1025)]
    assert Counter(item.response for item in found) == {
        "based on a book": 5,
        "romance": 3,
        "classic": 2,
        "dystopia": 2,
        "true story": 1,
    }
    assert found[-1].query.startswith("Prisoners of war are marched across a frozen lake")
    assert found[-1].response == "based on a book"
    assert found[0].timestamp is not None
    assert found[0].timestamp.isoformat() == "2025-10-14T00:00:00+00:00"


def test_persona_history_of_0_1_has_every_version(cli: Cli) -> None:
    versions = cli("persona", "history", "ana", "--json").json
    assert [(v["version"], v["parent"], v["source"], v["why"]) for v in versions] == [
        (1, None, "initial", "made from the user's profile"),
        (2, 1, "alignment", "the rewrite is the same text"),
        (3, 2, "rollback", "back to version 1"),
    ]
    (done,) = cli("users", "show", "ana", "--json").json["alignments"]
    assert [v["alignment_id"] for v in versions] == [None, done["id"], None]
    texts = [cli("persona", "show", "ana", "--version", n, "--json").json["text"] for n in (1, 2, 3)]
    assert texts == [INITIAL, ALIGNED, INITIAL]
    with personaagent.UserStore("home/users.db") as store:
        assert [(v.text, v.parts) for v in store.persona_history("ana")] == [(text, None) for text in texts]


def test_steps_and_record_of_an_alignment_of_0_1_are_read(cli: Cli) -> None:
    with personaagent.UserStore("home/users.db") as store:
        (done,) = store.alignments("ana")
        first, second = store.steps("ana", done.id)
        (failed,) = store.alignments("bo")
        assert store.steps("bo", failed.id) == []
    assert (done.config["steps"], done.config["batch_size"], done.config["gate"]) == (2, 2, "best")
    assert (done.record["agent_runs"], done.record["usage"]["simulate"]["calls"]) == (4, 12)
    assert [step["number"] for step in done.record["steps"]] == [1, 2]
    assert (first["persona_before"], first["persona_after"]) == (INITIAL, ALIGNED)
    assert [(s["interaction_id"], s["truth"], s["answer"], s["score"]) for s in first["simulations"]] == [
        ("1023", "dystopia", "classic", 0.0),
        ("1024", "romance", "classic", 0.0),
    ]
    assert [item["text"] for item in first["feedback"]] == [
        "The user said dystopia. Look at similar films first.",
        "The user said romance. Look at similar films first.",
    ]
    assert first["decision"] == {
        "accept": True,
        "reason": "agreement rose from 0.00 to 0.50",
        "numbers": {"before": 0.0, "after": 0.5, "n": 2.0},
    }
    assert [s["score"] for s in second["simulations"]] == [0.0, 1.0]
    assert second["decision"]["accept"] is False


def test_a_rollback_works_on_a_store_of_0_1(cli: Cli) -> None:
    assert cli("persona", "rollback", "ana", "2").out == "v4 has the text of v2\n"
    assert cli("persona", "show", "ana").out == f"{ALIGNED}\n"
    last = cli("persona", "history", "ana", "--json").json[-1]
    assert (last["version"], last["parent"], last["source"]) == (4, 3, "rollback")


def test_import_ask_and_align_go_on_with_a_store_of_0_1(cli: Cli) -> None:
    again = cli("users", "import", "movies.json", "--task", "LaMP-2M", "--format", "oppu", "--json").json
    assert again == {"users": 3, "interactions": 36, "new": 0, "skipped": 0, "forgotten": 0}
    said = cli("ask", "ana", "Two rivals share a flat.", *MODEL, "--json").json
    assert (said["answer"], said["persona_version"]) == ("classic", 3)
    # The profile is not made again: the history has grown by one of twelve.
    paper = ("--preset", "paper")
    assert cli("align", "ana", *paper, *MODEL, "--json").json[0]["persona_version"] == 4
    last = cli("persona", "history", "ana", "--json").json[-1]
    assert (last["parent"], last["source"]) == (3, "alignment")
    traced = cli("trace", "list", "--user", "ana", "--json").json
    assert [line["name"] for line in traced] == ["align", "ask", "ask", "align", "profile"]


# The traces


def test_traces_of_0_1_are_listed(cli: Cli) -> None:
    lines = cli("trace", "list", "--json").json
    assert [(x["name"], x["user_id"], x["status"], x["model_calls"], x["tokens"]) for x in lines] == [
        ("align", "bo", "error", 3, 1866),
        ("profile", "bo", "success", 0, 0),
        ("ask", "ana", "success", 3, 2170),
        ("align", "ana", "success", 18, 10987),
        ("profile", "ana", "success", 1, 896),
    ]
    failed = cli("trace", "list", "--failed", "--json").json
    assert [(line["name"], line["run_id"]) for line in failed] == [("align", "garbage")]
    assert len(cli("trace", "list", "--name", "ask", "--json").json) == 1


def test_an_alignment_traced_by_0_1_is_shown_with_its_decisions(cli: Cli) -> None:
    (line,) = cli("trace", "list", "--name", "align", "--user", "ana", "--json").json
    tree = cli("trace", "show", line["id"], "--json").json
    assert Counter(node["line"]["name"] for node in _nodes(tree)) == {
        "align": 1,
        "step": 2,
        "simulate": 4,
        "agent": 4,
        "predict": 12,
        "lm": 18,
        "tool": 8,
        "textual_loss": 4,
        "update": 2,
        "gate": 2,
        "persona": 1,
    }
    decisions = [node["decision"] for node in _nodes(tree) if node["line"]["name"] == "step"]
    assert [(made["accept"], made["reason"]) for made in decisions] == [
        (True, "agreement rose from 0.00 to 0.50"),
        (False, "the rewrite is the same text"),
    ]
    shown = cli("trace", "show", line["id"][:12]).out
    assert "agreement rose from 0.00 to 0.50" in shown


def test_a_failure_traced_by_0_1_is_shown(cli: Cli) -> None:
    tree = cli("trace", "show", "last", "--json").json
    statuses = {node["line"]["name"]: node["line"]["status"] for node in _nodes(tree)}
    assert (statuses["align"], statuses["step"]) == ("error", "error")
    assert statuses["simulate"] == "descendant_error"
    assert "failed below" in cli("trace", "show", "last").out


def test_persona_history_in_traces_of_0_1_has_feedback_and_decision(cli: Cli) -> None:
    found = cli("trace", "diff", "ana", "1", "2", "--json").json
    assert [line for line in found["diff"] if line.startswith(("+", "-"))] == ["+", f"+{HINT}"]
    # From the first persona to where the second one first stood: one step.
    (step,) = found["steps"]
    assert (step["number"], step["parent"], step["source"], step["text"]) == (2, 1, "step", ALIGNED)
    assert [item["text"] for item in step["detail"]["feedback"]] == [
        "The user said dystopia. Look at similar films first.",
        "The user said romance. Look at similar films first.",
    ]
    assert "accepted: agreement rose from 0.00 to 0.50" in cli("trace", "diff", "ana").out


def test_texts_in_traces_of_0_1_are_shown_and_searched(cli: Cli) -> None:
    (line,) = cli("trace", "list", "--name", "align", "--user", "ana", "--json").json
    shown = cli("trace", "show", line["id"]).out
    texts = [text.strip(" │├└─") for text in shown.splitlines()]
    assert "feedback The user said romance. Look at similar films first." in texts
    assert "true     romance" in texts
    asked = [
        node["texts"]["asked"]
        for node in _nodes(cli("trace", "show", line["id"], "--json").json)
        if "asked" in node["texts"]
    ]
    assert [row["id"] for row in cli("trace", "list", "--query", asked[0].upper(), "--json").json] == [
        line["id"]
    ]
    assert "feedback" not in cli("trace", "show", line["id"], "--no-texts").out


def test_persona_numbers_in_traces_of_0_1_are_the_versions_of_the_store(cli: Cli) -> None:
    history = cli("persona", "history", "ana", "--json").json
    table = cli("trace", "diff", "ana").out
    assert [row.split()[0] for row in table.splitlines()[1 : len(history) + 2]] == ["v1", "v2", "v2", "v3"]
    assert history[-1]["source"] in table


def test_traces_of_0_1_are_exported(cli: Cli) -> None:
    assert cli("trace", "export", "calls.jsonl", "--user", "bo", "--format", "jsonl").code == 0
    calls = [json.loads(line) for line in Path("calls.jsonl").read_text(encoding="utf-8").splitlines()]
    failed = next(call for call in calls if call["op_name"].split("/")[-1].startswith("personaagent.align"))
    assert json.loads(failed["exception"])["type"] == "AlignmentFailedError"
    asked = [call["inputs"] for call in calls if "personaagent.agent:" in call["op_name"]]
    assert [json.dumps(one)[:44] for one in asked] == ['{"query": "Two sisters run a field kitchen b']
    assert cli("trace", "export", "page.html").code == 0
    assert HINT in Path("page.html").read_text(encoding="utf-8")


def test_a_user_of_0_1_is_forgotten_in_store_and_traces(cli: Cli) -> None:
    text = b"Prisoners of war are marched"
    assert text in Path("home/users.db").read_bytes()
    assert HINT.encode() in Path("home/traces.db").read_bytes()
    # align 58, profile 2, ask 10
    assert cli("users", "forget", "ana", "--yes", "--json").json["traced_calls"] == 70
    assert [row["user_id"] for row in cli("users", "list", "--json").json] == ["bo", "chi"]
    assert {line["user_id"] for line in cli("trace", "list", "--json").json} == {"bo"}
    for file in (file for file in Path("home").rglob("*") if file.is_file()):
        assert text not in file.read_bytes()
        assert HINT.encode() not in file.read_bytes()


def test_a_user_of_0_1_takes_everything_along_and_corrects_the_persona(cli: Cli) -> None:
    assert cli("users", "export", "ana", "--out", "ana.json").code == 0
    exported = json.loads(Path("ana.json").read_text(encoding="utf-8"))
    assert (len(exported["interactions"]), len(exported["traces"]["calls"])) == (13, 70)
    assert HINT in exported["personas"][1]["text"]
    assert cli("users", "import", "ana.json", "--store", "other.db").code == 0
    again = cli("users", "export", "ana", "--store", "other.db", "--no-traces").json
    assert [again[name] for name in ("user", "interactions", "profile", "personas")] == [
        exported[name] for name in ("user", "interactions", "profile", "personas")
    ]
    assert cli("persona", "rollback", "ana", "2").code == 0
    assert HINT in cli("persona", "show", "ana").out
    said = ("--line", HINT, "--text", "I call every film a classic.")
    assert cli("users", "correct", "ana", *said).code == 0
    assert "what the person corrected since" in cli("persona", "rollback", "ana", "2").out
    text = cli("persona", "show", "ana").out
    assert HINT not in text
    assert "- I call every film a classic." in text


def test_a_user_of_0_1_is_forgotten_in_a_run(cli: Cli) -> None:
    assert cli("users", "forget", "ana", "--yes", "--also", "run", "--json").json["erased"]["run records"] > 0
    held = b"".join(path.read_bytes() for path in Path("run").rglob("*") if path.is_file())
    assert b'"ana"' not in held
    assert b'"bo"' in held


# Runs, reports and sweeps


def test_a_run_of_0_1_is_scored(cli: Cli) -> None:
    rows = {row["method"]: row for row in cli("eval", "score", "run", "--json").json}
    # Golds: classic and based on a book of ana, twice sci-fi of bo.
    numbers = ("n", "accuracy", "missing", "invalid")
    assert {name: tuple(row[number] for number in numbers) for name, row in rows.items()} == {
        "constant": (4, 0.5, 0, 0),
        "global-majority": (4, 0, 0, 0),
        "user-majority": (4, 0.25, 0, 0),
        "personaagent:batch=2": (4, 0.25, 0, 0),
        "direct": (3, 1 / 3, 1, 0),
        "rag": (4, 0.25, 0, 0.25),
    }
    learned = rows["personaagent:batch=2"]
    assert (learned["tokens"], learned["prepare_calls"], learned["answer_calls"]) == (27087, 24, 16)
    assert learned["prepare_agent_runs_each"] == 2


def test_a_run_of_0_1_is_compared_and_submitted(cli: Cli) -> None:
    (row,) = cli("eval", "compare", "run", "personaagent:batch=2", "constant", "--json").json
    assert (row["n"], row["difference"], row["verdict"]) == (4, -0.25, "undecided")
    assert cli("eval", "predictions", "run", "rag", "--out", "rag.json").code == 0
    given = {one["id"]: one["output"] for one in json.loads(Path("rag.json").read_text())["golds"]}
    assert given == {
        "1101": "classic",
        "1102": "dystopia",
        "2101": "comedy",
        "2102": "I would rather not say.",
    }
    refused = cli("eval", "predictions", "run", "direct", "--out", "direct.json")
    assert (refused.code, "'direct' still lacks 1 answer" in refused.err) == (1, True)


def test_a_run_of_0_1_is_reported_with_the_numbers_of_0_1(cli: Cli) -> None:
    assert cli("eval", "report", "run", "--out", "report").code == 0
    golden = sorted((OLD / "report_golden").glob("*.csv"))
    assert [file.stem for file in golden] == [
        "costs",
        "facts",
        "main",
        "methods",
        "missing",
        "pairs-accuracy",
        "pairs-f1",
    ]
    for file in golden:
        before, now = _csv(file), _csv(Path("report/tables") / file.name)
        # Further columns and rows are no change of those that were there.
        assert [row for row in before if not any(_same(row, other) for other in now)] == [], file.name


def test_a_run_of_0_1_is_reported_in_the_words_of_0_1(cli: Cli) -> None:
    assert cli("eval", "report", "run", "--out", "report").code == 0
    for file in sorted((OLD / "report_golden").glob("*.md")):
        assert _cells(Path("report/tables") / file.name) == _cells(file), file.name


def test_a_run_of_0_1_is_continued_only_by_the_code_that_began_it(cli: Cli) -> None:
    command, before = _command_and_files(cli)
    if _versions("probe") == _versions("run"):
        done = cli(*command, "--json")
        # The answer that was missing is asked for; nothing else is paid again.
        assert (done.json["complete"], done.json["usage"]["calls"]) == (True, 1)
        answers = Path("run/answers.jsonl").read_bytes()
        added = answers.removeprefix(before["answers.jsonl"])
        assert len(added) + len(before["answers.jsonl"]) == len(answers)
        (line,) = added.splitlines()
        assert (json.loads(line)["method"], json.loads(line)["query_id"]) == ("direct", "2102")
        assert _files() == {**before, "answers.jsonl": answers}
    else:
        _assert_refused(cli(*command), before)


def test_a_run_of_other_code_is_refused_and_left_as_it_is(cli: Cli) -> None:
    manifest = json.loads(Path("run/manifest.json").read_text(encoding="utf-8"))
    manifest["versions"]["source"] = "0123456789ab"
    Path("run/manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    command, before = _command_and_files(cli)
    _assert_refused(cli(*command), before)
    assert cli("eval", "score", "run", "--json").code == 0


def test_a_sweep_of_0_1_is_reported(cli: Cli) -> None:
    assert cli("eval", "report", "sweep", "--out", "report").code == 0
    page = Path("report/report.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line[:1] == "|"]
    tokens = {(row[0], row[1]): row[12] for row in rows if row[1] in ("0", "1") and len(row) > 12}
    assert tokens == {
        ("user-majority (floor)", "0"): "0",
        ("user-majority (floor)", "1"): "0",
        ("personaagent:batch=1", "0"): "13,227",
        ("personaagent:batch=1", "1"): "20,768",
    }
    facts = {row["what"]: row["value"] for row in _csv(Path("report/tables/facts.csv"))}
    assert facts["Command"] == (
        "personaagent eval sweep --over steps=0,1 --task LaMP-2M --data movies.json --users 2 --trace off "
        "--method user-majority,personaagent:batch=1 --model python:scripted_models:good --out sweep"
    )
    assert {"steps=0", "steps=1"} <= facts.keys()


def test_each_run_of_a_sweep_of_0_1_is_scored(cli: Cli) -> None:
    for steps, calls, runs in ((0, 2, 0), (1, 14, 1)):
        rows = {row["method"]: row for row in cli("eval", "score", f"sweep/steps={steps}", "--json").json}
        learned = rows[f"personaagent:batch=1,steps={steps}"]
        assert (learned["n"], learned["accuracy"], learned["prepare_calls"]) == (4, 0.25, calls)
        assert learned["prepare_agent_runs_each"] == runs
    whole = cli("eval", "score", "sweep")
    assert (whole.code, "is a sweep" in whole.err) == (1, True)


# The program


def test_an_agent_saved_by_0_1_gets_its_persona_back(tmp_path: Path) -> None:
    memory = personaagent.EpisodicMemory(
        "ana", [personaagent.Interaction(id="1", user_id="ana", query="A clerk.", response="classic")]
    )
    agent = personaagent.PersonaAgent.for_user("ana", memory, task=personaagent.get_task("LaMP-2M"))
    assert agent.persona != ALIGNED
    agent.load(OLD / "agent.json")
    assert agent.persona == ALIGNED
    agent.save(tmp_path / "again.json")
    was, now = (json.loads(path.read_text()) for path in (OLD / "agent.json", tmp_path / "again.json"))
    assert (was["act"], was.keys()) == (now["act"], now.keys())


def test_an_agent_saved_by_0_1_answers(cli: Cli) -> None:
    import dspy

    memory = personaagent.EpisodicMemory(
        "ana", [personaagent.Interaction(id="1", user_id="ana", query="A clerk.", response="classic")]
    )
    systems: list[str] = []

    def reply(system: str, user: str) -> str | dict[str, Any]:
        systems.append(system)
        return _reply(system, user)

    tools = personaagent.default_tools(Path("home/cache"), wikipedia=False)
    task = personaagent.get_task("LaMP-2M")
    agent = personaagent.PersonaAgent.for_user("ana", memory, tools, task=task)
    agent.load(OLD / "agent.json")
    with dspy.context(lm=personaagent.scripted_lm(reply)):
        assert agent(query="Two rivals share a flat.").answer == "classic"
    assert all(system.endswith(ALIGNED) for system in systems)


def _nodes(tree: Any) -> Iterator[Any]:
    yield tree
    for child in tree["children"]:
        yield from _nodes(child)


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _same(before: dict[str, str], now: dict[str, str]) -> bool:
    return all(name in now and _equal(value, now[name]) for name, value in before.items())


def _equal(before: str, now: str) -> bool:
    try:
        return math.isclose(float(before), float(now), rel_tol=2e-5, abs_tol=1e-12)
    except ValueError:
        return before == now


def _cells(path: Path) -> list[list[str]]:
    """Return the body of a Markdown table; headings may be worded anew."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def _versions(run: str) -> dict[str, str]:
    versions: dict[str, str] = json.loads(Path(run, "manifest.json").read_text(encoding="utf-8"))["versions"]
    return versions


def _files() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path("run").iterdir() if file.name != "run.lock"}


def _command_and_files(cli: Cli) -> tuple[list[str], dict[str, bytes]]:
    """Return the command that made the run, and the run's files; a run of today's code lies in ``probe``."""
    floors = ("--task", "LaMP-2M", "--data", "movies.json", "--users", "2", "--method", "floors")
    assert cli("eval", "run", *floors, "--out", "probe").code == 0
    command = shlex.split(json.loads(Path("run/manifest.json").read_text(encoding="utf-8"))["command"])
    assert command[:3] == ["personaagent", "eval", "run"]
    return command[1:], _files()


def _assert_refused(done: Done, before: dict[str, bytes]) -> None:
    assert done.code == 2
    assert "error: `run` was run with `" in done.err
    assert "give the same settings to continue it, or another `--out`" in done.err
    assert _files() == before
