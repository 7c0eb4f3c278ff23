from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from eval.contracts import EvalUser, Query
from eval.demo import SAMPLE, _score_agent, _score_majority, demo
from program.cli.options import guarded
from program.console import FAILED, OK, USAGE, progress
from program.errors import UnparsableAnswerError
from program.home import home
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.store import UserStore
from program.task import Task
from program.usage import UsageTracker, track_usage


def reply(system: str, user: str) -> Any:
    """Search once, read the profile, then answer `classic`."""
    if "critical evaluator" in system:
        return "The user prefers classics."
    if "refine the system prompt" in system:
        return "This user loves classics."
    if "`action`" in user:
        return {"thought": "look", "action": {"tool": "search_memory", "query": "film"}}
    return {"answer": "classic"} if "`answer`" in user else "Someone who watches films."


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


def test_demo_aligns_a_user_and_scores_four_ways(run: Any) -> None:
    code, stdout, stderr = run("--queries", "2")
    assert code == OK, stderr
    table = stdout.split("agreement")[-1]
    assert re.findall(r"^ *(always|no persona|initial persona|aligned persona)", table, re.M) == [
        "always",
        "no persona",
        "initial persona",
        "aligned persona",
    ]
    assert "n = 2" in stdout
    assert "This user loves classics." in stdout
    assert "4 users imported" in stderr
    with UserStore(home() / "demo.db") as store:
        first = next(iter(store.users()))
        assert store.persona(first.user_id).text == "This user loves classics."  # type: ignore[union-attr]


def test_each_arm_answers_under_its_own_persona(run: Any) -> None:
    assert run("--queries", "1")[0] == OK
    asked = [system for system, user in demo.lm.engine.prompts if "`answer`" in user]  # type: ignore[attr-defined]
    generic, initial, aligned = (
        next(
            name for name in ("helpful", "personal assistant of one user", "loves classics") if name in system
        )
        for system in asked[-3:]
    )
    assert (generic, initial, aligned) == ("helpful", "personal assistant of one user", "loves classics")


def test_demo_runs_again_from_the_beginning(run: Any) -> None:
    for _ in range(2):
        assert run("--queries", "1")[0] == OK
    with UserStore(home() / "demo.db") as store:
        first = next(iter(store.users()))
        assert store.persona(first.user_id).version == 2  # type: ignore[union-attr]


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


def test_majority_breaks_ties_like_the_baseline(movies: Task) -> None:
    user = make_user("action", "comedy", golds=("comedy", "comedy", "action", "classic"))
    arm = _score_majority(user, user.queries, movies)
    assert (arm.name, arm.agreement, arm.n, arm.calls) == ("always 'comedy', no model", 0.5, 4, 0)


def test_majority_of_empty_history_is_the_first_label(movies: Task) -> None:
    user = make_user(golds=("sci-fi",))
    assert _score_majority(user, user.queries, movies).agreement == 1.0


def test_unparsable_answers_count_as_zero(movies: Task) -> None:
    @dataclass
    class Agent:
        answer: str = "comedy"

        def __call__(self, query: str) -> Agent:
            if query == "a film":
                return self
            raise UnparsableAnswerError("gibberish", raw="gibberish")

    user = make_user(golds=("comedy", "action"))
    queries = [*user.queries, Query(id="q2", user_id="ana", text="unreadable", gold="comedy")]
    lm = scripted_lm(reply)
    with track_usage(UsageTracker(), lm), progress(UsageTracker(), len(queries), "answers") as bar:
        arm = _score_agent("agent", Agent(), queries, movies, bar)  # type: ignore[arg-type]
    assert arm.agreement == pytest.approx(1 / 3)
    assert (arm.n, arm.unreadable) == (3, 1)


def test_sample_is_part_of_the_package() -> None:
    assert SAMPLE.is_file()
