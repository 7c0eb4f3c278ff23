from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from eval.arms import Arm, compare
from eval.contracts import EvalUser, Query
from eval.demo import SAMPLE, _answer_majority, demo
from program.cli.options import guarded
from program.console import FAILED, OK, USAGE
from program.home import home
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.store import UserStore
from program.task import Task


def reply(system: str, user: str) -> Any:
    """Propose one line, and answer `classic` if the persona has it."""
    if "critical evaluator" in system:
        return "The user prefers classics."
    if "You maintain the list" in system:
        return {"edits": [{"op": "add", "text": "Loves classics.", "cites": [1]}]}
    if "`action`" in user:
        return {"thought": "look", "action": {"tool": "finish", "answer": "comedy"}}
    if "`answer`" not in user:
        return "Someone who watches films."
    return {"answer": "classic" if "Loves classics." in system else "comedy"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``demo`` with a scripted model: exit code, stdout, stderr."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(demo)
    lm = scripted_lm(reply)
    monkeypatch.setattr("program.models.resolve.resolve_lm", lambda *args, **settings: lm)
    monkeypatch.setattr(demo, "lm", lm, raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["demo", *map(str, arguments), "--no-wikipedia", "--trace", "off"])
        return (guarded(app), *capsys.readouterr())

    return call


def films(tmp_path: Path) -> Path:
    """Two users: one calls every film classic, one calls every film comedy."""
    asked = json.loads(SAMPLE.read_text(encoding="utf-8"))[0]["query"][0]["input"].partition(" description:")[
        0
    ]
    users = [
        {
            "user_id": name,
            "profile": [
                {
                    "id": f"{name}{n}",
                    "description": f"film {n} of {name}",
                    "tag": tag,
                    "date": f"2025-01-{n + 1:02}",
                }
                for n in range(14)
            ],
            "query": [
                {
                    "id": f"{name}q{n}",
                    "input": f"{asked} description: new film {n} of {name}",
                    "gold": tag,
                    "date": f"2025-02-{n + 1:02}",
                }
                for n in range(3)
            ],
        }
        for name, tag in (("ana", "classic"), ("bo", "comedy"))
    ]
    path = tmp_path / "movies.json"
    path.write_text(json.dumps(users), encoding="utf-8")
    return path


def test_a_line_that_helps_is_kept_for_the_user_whom_it_helps_and_its_gain_is_measured(
    run: Any, tmp_path: Path
) -> None:
    code, stdout, stderr = run("--data", films(tmp_path))
    assert code == OK, stderr
    table = stdout.split("unreadable")[1]
    assert re.findall(r"^ *(always|nothing known|persona alone|memory and persona)(?:,| )", table, re.M) == [
        "always",
        "nothing known",
        "persona alone",
        "persona alone",
        "memory and persona",
        "memory and persona",
    ]
    before, after = (
        re.search(rf"{name} +(\d\.\d\d) ", table) for name in ("persona alone ", "alone, aligned")
    )
    assert (before and before[1], after and after[1]) == ("0.50", "1.00")
    assert "Alignment beside memory: agreement +0.50" in stdout
    assert "the alignment of ana beside memory" in stdout
    assert "confirmed: a gain is shown" in stdout
    assert "  - Loves classics. (learned, since v2, from 1 interaction)" in stdout
    with UserStore(home() / "demo.db") as store:
        versions = {user.user_id: user.persona_version for user in store.users()}
    assert versions == {"ana": 2, "bo": 1}


def test_the_page_is_written_and_its_path_is_the_last_word(run: Any, tmp_path: Path) -> None:
    code, stdout, _ = run("--data", films(tmp_path), "--queries", "1")
    assert code == OK
    page = Path(stdout.strip().splitlines()[-1].rpartition(": ")[2])
    assert page == home() / "demo-persona.html"
    assert "Loves classics." in page.read_text(encoding="utf-8")


def test_every_user_answers_the_first_query_and_says_what_it_rests_on(run: Any, tmp_path: Path) -> None:
    _, stdout, _ = run("--data", films(tmp_path), "--queries", "1")
    shown = stdout.partition("2. ")[0]
    assert "new film 0 of ana" in shown
    assert re.search(r"^ *bo +comedy +film \d+ of bo → comedy", shown, re.M)


def test_a_comparison_that_shows_nothing_says_so() -> None:
    same = Arm(agreement=[0.0, 1.0] * 8)
    assert compare(same, same) == "agreement +0.00 [+0.00, +0.00], undecided"
    better = Arm(agreement=[1.0] * 16, likelihood=[0.9] * 16)
    worse = Arm(agreement=[1.0] * 16, likelihood=[0.5 + 0.01 * n for n in range(16)])
    assert compare(better, worse).endswith("better")
    assert compare(worse, better).startswith("probability of the true answer -0.3")
    assert compare(worse, better).endswith("worse")


def test_demo_runs_again_from_the_beginning(run: Any, tmp_path: Path) -> None:
    for _ in range(2):
        assert run("--data", films(tmp_path), "--queries", "1")[0] == OK
    with UserStore(home() / "demo.db") as store:
        assert len(store.persona_history("ana")) == 2


def test_the_sample_runs_with_one_user_and_one_query(run: Any) -> None:
    code, stdout, stderr = run("--queries", "1", "--users", "1", "--user", "chi")
    assert code == OK, stderr
    assert "1 user of the made-up sample" in stderr
    assert "the alignment of chi" in stdout


def test_unknown_user_is_refused(run: Any) -> None:
    code, _, stderr = run("--user", "nobody")
    assert code == USAGE
    assert "no user 'nobody' in the data; there are 4, the first is" in stderr


def test_missing_data_are_refused(run: Any, tmp_path: Path) -> None:
    code, _, stderr = run("--data", tmp_path / "nowhere")
    assert (code, "does not exist" in stderr) == (FAILED, True)


def make_user(*responses: str, golds: tuple[str, ...]) -> EvalUser:
    return EvalUser(
        user_id="ana",
        history=tuple(
            Interaction(id=str(i), user_id="ana", query="a film", response=tag)
            for i, tag in enumerate(responses)
        ),
        queries=tuple(
            Query(id=f"q{i}", user_id="ana", text="a film", gold=gold) for i, gold in enumerate(golds)
        ),
    )


@pytest.mark.parametrize(
    ("responses", "golds", "agreement"),
    [
        (("action", "comedy"), ("comedy", "comedy", "action", "classic"), [1.0, 1.0, 0.0, 0.0]),
        ((), ("sci-fi",), [1.0]),
    ],
)
def test_majority_breaks_ties_by_recency_and_of_nothing_it_is_the_first_label(
    movies: Task, responses: tuple[str, ...], golds: tuple[str, ...], agreement: list[float]
) -> None:
    user, arm = make_user(*responses, golds=golds), Arm()
    _answer_majority(arm, user, user.queries, movies)
    assert (arm.agreement, arm.likelihood, arm.unreadable) == (agreement, [], 0)


def test_unparsable_answers_count_as_zero_and_hide_the_probability(movies: Task) -> None:
    first, second = make_user(golds=("comedy", "action")).queries
    arm = Arm()
    arm.add("comedy", 0.75, first, movies)
    arm.add(None, None, second, movies)
    assert (arm.agreement, arm.unreadable, arm.has_likelihood) == ([1.0, 0.0], 1, False)
    assert arm.means()[1] == "-"


def test_sample_is_part_of_the_package() -> None:
    assert SAMPLE.is_file()
