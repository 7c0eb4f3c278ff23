from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import dspy
import pytest

from eval.contracts import Answer, EvalUser, Method, Query, UserView
from eval.manifest import make_manifest
from eval.methods.base import BaseMethod
from eval.methods.baselines import UserMajority, UserMedian
from eval.methods.personaagent import PersonaAgentMethod
from eval.methods.rag import Rag
from eval.records import AnswerRecord, read_run
from eval.run_folder import RunFolder
from eval.runner import Limits, Outcome, _Run, run_methods
from program.errors import BudgetExceededError, ConfigError, DataError
from program.models.scripted import scripted_lm
from program.task import Task
from program.usage import Budget, Usage, UsageTracker

MakeUser = Callable[..., EvalUser]


@dataclass(frozen=True, kw_only=True)
class Echo(BaseMethod):
    """Answers with the last word of the query; prepares the length of the history."""

    name: ClassVar[str] = "echo"

    def prepare(self, user: UserView) -> dict[str, Any]:
        return {"seen": len(user.history), "pair": (1, 2)}

    def open(self, user: UserView, learned: Any) -> Any:
        return learned

    def answer(self, prepared: Any, query: Query) -> Answer:
        assert query.gold is None
        return Answer(text=f"{prepared['pair']} {query.text.split()[-1]}")


class Fragile(Echo):
    """Raises for the queries in ``bad``."""

    name = "fragile"
    bad: ClassVar[set[str]] = set()

    def answer(self, prepared: Any, query: Query) -> Answer:
        if query.id in self.bad:
            raise RuntimeError(f"cannot answer {query.id}")
        return super().answer(prepared, query)


def go(
    out: Path, users: list[EvalUser], task: Task, *methods: Method, lm: Any = None, **settings: Any
) -> Outcome:
    labelled = {method.name: method for method in methods}
    manifest = make_manifest(task=task, data={}, methods=labelled, lm=lm)
    limits = Limits(**settings)
    return run_methods(users, labelled, task=task, manifest=manifest, out=out, lm=lm, limits=limits)


def essence(out: Path) -> list[Any]:
    """Return the records of a run without their wall times."""
    run = read_run(out)
    return timeless([vars(record) for record in (*run.prepared.values(), *run.answers.values())])


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key != "seconds"}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def test_every_method_answers_every_query(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    outcome = go(tmp_path, [make_user("anna"), make_user("bert")], movies, Echo(), UserMajority())
    assert outcome.complete
    assert outcome.answered == {"echo": 6, "user-majority": 6}
    run = read_run(tmp_path)
    assert run.answers["echo", "anna", "anna-q1"].text == "[1, 2] day"
    assert run.answers["user-majority", "bert", "bert-q0"].text == "classic"
    assert [query.gold for query in run.queries[:3]] == ["comedy", "action", "classic"]


def test_method_never_sees_gold(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    assert go(tmp_path, [make_user("anna")], movies, Echo()).complete  # Echo asserts it.


def test_open_receives_prepare_result_as_json(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    go(tmp_path, [make_user("anna")], movies, Echo())
    assert read_run(tmp_path).prepared["echo", "anna"].learned == {"seen": 6, "pair": [1, 2]}


class Control(Echo):
    """Prepares from another user's view."""

    name = "control"

    @property
    def learns_from_other(self) -> bool:
        return True

    def prepare(self, user: UserView) -> dict[str, Any]:
        return {**super().prepare(user), "from": user.user_id}


def test_a_control_learns_from_the_next_user_and_the_last_one_from_the_one_before(
    tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    users = [make_user(name) for name in ("anna", "bert", "cleo")]
    assert go(tmp_path, users, movies, Control(), Echo()).complete
    prepared = read_run(tmp_path).prepared
    learned = {user: prepared["control", user].learned for user in ("anna", "bert", "cleo")}
    assert {user: (found or {})["from"] for user, found in learned.items()} == {
        "anna": "bert",
        "bert": "cleo",
        "cleo": "bert",
    }
    assert "from" not in (prepared["echo", "anna"].learned or {})


def test_a_control_of_one_user_fails_and_says_why(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    outcome = go(tmp_path, [make_user("anna")], movies, Control())
    assert not outcome.complete
    assert "needs data of two users or more" in str(outcome.errors["control"])


def test_failing_query_is_recorded_and_run_continues(
    tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    Fragile.bad = {"anna-q1"}
    outcome = go(tmp_path, [make_user("anna"), make_user("bert")], movies, Fragile())
    assert not outcome.complete
    assert outcome.failed == {"fragile": {"RuntimeError": 1}}
    run = read_run(tmp_path)
    failed = run.answers["fragile", "anna", "anna-q1"]
    assert (failed.text, failed.failed.stage, failed.failed.error) == (
        None,
        "answer",
        "cannot answer anna-q1",
    )
    assert run.missing("fragile") == 1


def test_resume_retries_only_failed_queries(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    users = [make_user("anna"), make_user("bert")]
    Fragile.bad = {"anna-q1"}
    go(tmp_path, users, movies, Fragile())
    Fragile.bad = {"bert-q0"}  # It has an answer, so it is skipped.
    assert go(tmp_path, users, movies, Fragile()).complete
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 7
    assert len((tmp_path / "prepare.jsonl").read_text().splitlines()) == 2
    assert read_run(tmp_path).missing("fragile") == 0


def test_failed_prepare_leaves_queries_missing(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    class Picky(Echo):
        name = "picky"

        def prepare(self, user: UserView) -> dict[str, Any]:
            if user.user_id == "anna":
                raise ValueError("no")
            return super().prepare(user)

    go(tmp_path, [make_user("anna"), make_user("bert")], movies, Picky())
    run = read_run(tmp_path)
    assert run.missing("picky") == 3
    assert run.answers["picky", "anna", "anna-q2"].failed.stage == "prepare"
    assert run.prepared["picky", "anna"].learned is None


def test_method_is_given_up_after_consecutive_failures(
    tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    Fragile.bad = {f"anna-q{i}" for i in range(3)} | {f"bert-q{i}" for i in range(3)}
    outcome = go(tmp_path, [make_user("anna"), make_user("bert")], movies, Fragile(), Echo(), give_up_after=4)
    assert outcome.given_up == {"fragile"}
    assert str(outcome.errors["fragile"]) == "cannot answer bert-q0"
    assert outcome.answered == {"fragile": 0, "echo": 6}
    assert len(read_run(tmp_path).answers) == 4 + 6


def test_outage_makes_answers_missing_not_wrong(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    def down(system: str, user: str) -> str:
        raise dspy.lm15.ServerError("the server is down")

    outcome = go(tmp_path, [make_user("anna")], movies, Rag(), lm=scripted_lm(down))
    assert outcome.answered == {"rag": 0}
    run = read_run(tmp_path)
    assert run.missing("rag") == 3
    assert {record.failed.kind for record in run.answers.values()} == {"LMServerError"}


def test_wrong_key_stops_run_after_one_attempt(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    def refuse(system: str, user: str) -> str:
        raise dspy.lm15.AuthError("bad key")

    outcome = go(tmp_path, [make_user("anna"), make_user("bert")], movies, Rag(), lm=scripted_lm(refuse))
    assert isinstance(outcome.stopped, dspy.LMAuthError)
    assert len(read_run(tmp_path).answers) == 1


def test_usage_is_counted_by_stage_and_attempt(
    tmp_path: Path, movies: Task, make_user: MakeUser, obliging: Any
) -> None:
    go(
        tmp_path,
        [make_user("anna")],
        movies,
        PersonaAgentMethod(min_actions=0, max_steps=2),
        lm=scripted_lm(obliging),
    )
    run = read_run(tmp_path)
    prepared = run.prepared["personaagent", "anna"]
    # Three simulations of two steps and one answer each, three losses, one update, one summary.
    assert {stage: usage.calls for stage, usage in prepared.usage.items()} == {
        "profile": 1,
        "simulate": 9,
        "textual_loss": 3,
        "update": 1,
    }
    assert len(prepared.prompts) == 14
    answered = run.answers["personaagent", "anna", "anna-q0"]
    assert answered.total().calls == 3 == len(set(answered.prompts)) == len(answered.prompts)
    assert run.cost("personaagent", "answer").usage.calls == 9
    assert run.spent().calls == 23


def test_call_limit_stops_run_and_folder_resumes(
    tmp_path: Path, movies: Task, make_user: MakeUser, obliging: Any
) -> None:
    users = [make_user("anna"), make_user("bert")]
    lm = scripted_lm(obliging)
    outcome = go(tmp_path / "a", users, movies, PersonaAgentMethod(), lm=lm, max_calls=40)
    assert isinstance(outcome.stopped, BudgetExceededError)
    assert not outcome.complete
    assert len(lm.engine.prompts) == 40 == read_run(tmp_path / "a").spent().calls
    # The limit holds for the folder, so a resumed run may not spend more.
    assert go(tmp_path / "a", users, movies, PersonaAgentMethod(), lm=lm, max_calls=40).stopped is not None
    assert len(lm.engine.prompts) == 40
    assert go(tmp_path / "a", users, movies, PersonaAgentMethod(), lm=lm).complete
    go(tmp_path / "b", users, movies, PersonaAgentMethod(), lm=lm)
    final = [
        (r.method, r.user_id, r.query_id, r.text, r.steps) for r in read_run(tmp_path / "a").answers.values()
    ]
    assert final == [
        (r.method, r.user_id, r.query_id, r.text, r.steps) for r in read_run(tmp_path / "b").answers.values()
    ]


def test_number_of_threads_does_not_change_records(
    tmp_path: Path, movies: Task, make_user: MakeUser, obliging: Any
) -> None:
    users = [make_user(f"user{i}") for i in range(6)]
    lm = scripted_lm(obliging)
    methods = (PersonaAgentMethod(), Rag(), UserMajority())
    go(tmp_path / "1", users, movies, *methods, lm=lm)
    go(tmp_path / "8", users, movies, *methods, lm=lm, threads=8)
    assert essence(tmp_path / "1") == essence(tmp_path / "8")


def test_folder_of_another_run_is_refused_with_differing_setting(
    tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    users = [make_user("anna")]
    go(tmp_path, users, movies, Echo())
    manifest = make_manifest(task=movies, data={}, methods={"echo": Echo()}, seed=7)
    with pytest.raises(ConfigError, match="`seed` 0, not 7"):
        run_methods(users, {"echo": Echo()}, task=movies, manifest=manifest, out=tmp_path)


def test_method_can_be_added_to_folder(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    users = [make_user("anna")]
    go(tmp_path, users, movies, Echo())
    go(tmp_path, users, movies, UserMajority())
    assert read_run(tmp_path).labels == ("echo", "user-majority")
    assert len(read_run(tmp_path).answers) == 6


def test_history_newer_than_query_is_refused(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    user = make_user("anna")
    late = replace(user.history[-1], timestamp=user.queries[-1].timestamp)
    with pytest.raises(DataError, match="history item 5"):
        go(tmp_path / "a", [replace(user, history=(*user.history[:-1], late))], movies, Echo())
    query_as_history = replace(user.history[0], id="anna-q1")
    with pytest.raises(DataError, match="history item 0"):
        go(tmp_path / "b", [replace(user, history=(query_as_history, *user.history[1:]))], movies, Echo())


def test_write_error_stops_all_threads(
    tmp_path: Path, movies: Task, make_user: MakeUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[object] = []

    def full(self: RunFolder, record: object) -> None:
        records.append(record)
        if len(records) > 5:
            raise OSError("no space left on device")

    monkeypatch.setattr(RunFolder, "append", full)
    with pytest.raises(OSError, match="no space left"):
        go(tmp_path, [make_user(f"user{i}") for i in range(50)], movies, Echo(), threads=2)
    assert len(records) <= 12


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("comedy", "must return an `Answer`, got str"),
        (Answer(text="x", steps=({"a": object()},)), "not JSON"),
    ],
)
def test_answer_that_cannot_be_stored_is_a_failure(
    answer: Any, message: str, tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    class Wrong(Echo):
        def answer(self, prepared: Any, query: Query) -> Answer:
            return answer  # type: ignore[no-any-return]

    outcome = go(tmp_path, [make_user("anna")], movies, Wrong())
    assert outcome.failed == {"echo": {"TypeError": 3}}
    assert message in str(outcome.errors["echo"])


def test_stop_ends_other_jobs_before_their_next_call(
    tmp_path: Path, movies: Task, make_user: MakeUser, obliging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    called, stopped = threading.Event(), threading.Event()
    calls: list[str] = []
    stop = _Run._stop

    def note_stop(run: _Run, error: BaseException) -> None:
        stop(run, error)
        stopped.set()

    monkeypatch.setattr(_Run, "_stop", note_stop)

    def reply(system: str, user: str) -> Any:
        if "bert" in user:
            assert called.wait(60)
            raise dspy.lm15.AuthError("bad key")
        calls.append(user)
        called.set()
        assert stopped.wait(60)
        return obliging(system, user)

    outcome = go(
        tmp_path,
        [make_user("anna"), make_user("bert")],
        movies,
        PersonaAgentMethod(),
        lm=scripted_lm(reply),
        threads=2,
    )
    assert isinstance(outcome.stopped, dspy.LMAuthError)
    assert len(calls) == 1
    assert read_run(tmp_path).prepared["personaagent", "anna"].total().calls == 1


def test_folder_is_locked_for_second_writer(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    manifest = make_manifest(task=movies, data={}, methods={"echo": Echo()})
    with RunFolder(tmp_path, manifest, []):
        with pytest.raises(ConfigError, match="another process is writing"):
            RunFolder(tmp_path, manifest, [])
    RunFolder(tmp_path, manifest, []).close()


def test_folder_with_other_files_is_refused(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="not empty and not a run folder"):
        go(tmp_path, [make_user("anna")], movies, Echo())


def test_torn_last_line_is_ignored_and_cut_off(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    users = [make_user("anna")]
    go(tmp_path, users, movies, Echo())
    whole = (tmp_path / "answers.jsonl").read_bytes()
    (tmp_path / "answers.jsonl").write_bytes(whole[:-10])
    assert len(read_run(tmp_path).answers) == 2
    assert go(tmp_path, users, movies, Echo()).complete
    assert len(read_run(tmp_path).answers) == 3
    assert b"\n\n" not in (tmp_path / "answers.jsonl").read_bytes()


def test_error_names_damaged_line(tmp_path: Path, movies: Task, make_user: MakeUser) -> None:
    go(tmp_path, [make_user("anna")], movies, Echo())
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    lines[1] = '{"method": 3'
    (tmp_path / "answers.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"answers.jsonl`, line 2: not a AnswerRecord"):
        read_run(tmp_path)


def test_unknown_fields_are_ignored_and_newer_schema_is_refused(
    tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    go(tmp_path, [make_user("anna")], movies, Echo())
    path = tmp_path / "answers.jsonl"
    path.write_text(path.read_text().replace('{"method"', '{"mood": "fine", "method"'))
    record = next(iter(read_run(tmp_path).answers.values()))
    assert isinstance(record, AnswerRecord)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(DataError, match="update personaagent"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", ["threads", "give_up_after"])
def test_limits_refuse_values_below_one(name: str) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` must be 1 or more, got 0"):
        Limits(**{name: 0})


def test_remaining_budget_is_never_negative() -> None:
    limits = Limits(max_calls=10, max_usd=1.0)
    assert limits.remaining(Usage(calls=4, usd=0.25)) == Budget(max_calls=6, max_usd=0.75)
    assert limits.remaining(Usage(calls=11, usd=2.0)) == Budget(max_calls=0, max_usd=0.0)
    assert Limits().remaining(Usage(calls=11)) == Budget()


def test_dollar_limit_stops_at_first_unpriced_call(
    tmp_path: Path, movies: Task, make_user: MakeUser, obliging: Any
) -> None:
    lm = scripted_lm(obliging)
    outcome = go(tmp_path, [make_user("anna")], movies, Rag(), lm=lm, max_usd=1.0)
    assert isinstance(outcome.stopped, BudgetExceededError)
    assert str(outcome.stopped) == ("cannot enforce `max_usd`: no known price for 1 call; use `max_calls`")
    assert len(lm.engine.prompts) == 1


def test_budget_of_the_given_tracker_holds(
    tmp_path: Path, movies: Task, make_user: MakeUser, obliging: Any
) -> None:
    lm, methods = scripted_lm(obliging), {"rag": Rag()}
    tracker = UsageTracker(Budget(max_calls=2))
    manifest = make_manifest(task=movies, data={}, methods=methods, lm=lm)
    outcome = run_methods(
        [make_user("anna")], methods, task=movies, manifest=manifest, out=tmp_path, lm=lm, tracker=tracker
    )
    assert (outcome.answered, len(lm.engine.prompts)) == ({"rag": 2}, 2)
    assert isinstance(outcome.stopped, BudgetExceededError)


def test_unsuitable_method_is_refused_before_the_folder_exists(
    tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    with pytest.raises(ConfigError, match="needs a rating task"):
        go(tmp_path / "run", [make_user("anna")], movies, UserMedian())
    assert not (tmp_path / "run").exists()


def test_prepare_result_that_is_not_json_is_a_failure(
    tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    class Opaque(Echo):
        def prepare(self, user: UserView) -> dict[str, Any]:
            return {"handle": object()}

    outcome = go(tmp_path, [make_user("anna")], movies, Opaque())
    assert outcome.failed == {"echo": {"TypeError": 1}}
    run = read_run(tmp_path)
    assert {record.failed.stage for record in run.answers.values()} == {"prepare"}
    assert run.prepared["echo", "anna"].learned is None


def test_failed_open_is_retried_without_preparing_again(
    tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    class Flaky(Echo):
        broken: ClassVar[bool] = True

        def open(self, user: UserView, learned: Any) -> Any:
            if self.broken:
                raise OSError("the index is missing")
            return learned

    outcome = go(tmp_path, [make_user("anna")], movies, Flaky())
    assert (outcome.answered, outcome.failed) == ({"echo": 0}, {"echo": {"OSError": 1}})
    assert read_run(tmp_path).answers["echo", "anna", "anna-q0"].failed.stage == "prepare"
    Flaky.broken = False
    assert go(tmp_path, [make_user("anna")], movies, Flaky()).complete
    assert len((tmp_path / "prepare.jsonl").read_text().splitlines()) == 1


def test_consecutive_failures_are_reset_by_an_answer(
    tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    Fragile.bad = {"anna-q0", "anna-q2", "bert-q0", "bert-q2"}
    users = [make_user("anna"), make_user("bert")]
    outcome = go(tmp_path, users, movies, Fragile(), give_up_after=3)
    # At most two failures, of anna-q2 and bert-q0, are consecutive.
    assert (outcome.given_up, outcome.failed) == (frozenset(), {"fragile": {"RuntimeError": 4}})


def test_data_are_read_no_faster_than_they_are_used(
    tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    users = [make_user(f"user{i:02}") for i in range(30)]
    n_read, leads = [0], []

    class Stream:
        def __iter__(self) -> Any:
            n_read[0] = 0
            for user in users:
                n_read[0] += 1
                yield user

    class Slow(Echo):
        def prepare(self, user: UserView) -> dict[str, Any]:
            leads.append(n_read[0] - int(user.user_id[4:]))
            return super().prepare(user)

    manifest = make_manifest(task=movies, data={}, methods={"echo": Slow()})
    assert run_methods(Stream(), {"echo": Slow()}, task=movies, manifest=manifest, out=tmp_path).complete
    # One user is in work, one waits, and one is read ahead.
    assert max(leads) <= 4


def test_unreadable_data_end_the_run_and_keep_its_answers(
    tmp_path: Path, movies: Task, make_user: MakeUser
) -> None:
    class Broken:
        passes = 0

        def __iter__(self) -> Any:
            self.passes += 1
            yield make_user("anna")
            if self.passes == 2:
                raise DataError("line 2 is damaged")

    manifest = make_manifest(task=movies, data={}, methods={"echo": Echo()})
    with pytest.raises(DataError, match="line 2 is damaged"):
        run_methods(Broken(), {"echo": Echo()}, task=movies, manifest=manifest, out=tmp_path)
    assert set(read_run(tmp_path).answers) <= {("echo", "anna", f"anna-q{i}") for i in range(3)}
    # The folder is unlocked.
    assert go(tmp_path, [make_user("anna")], movies, Echo()).complete


def test_run_without_users_is_complete(tmp_path: Path, movies: Task) -> None:
    outcome = go(tmp_path, [], movies, Echo())
    assert (outcome.complete, outcome.expected, outcome.answered) == (True, 0, {"echo": 0})
