"""Many users: done once, one at a time, first come first served, paused by outages, resumed after a kill."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMUnexpectedError

from optimizers import GROUNDED, PAPER, AlignmentConfig, UserResult, align_users
from optimizers.fleet import pauses
from optimizers.fleet.engines import open_tables
from optimizers.fleet.locks import UserLocks
from optimizers.fleet.order import longest_waiting_first
from optimizers.fleet.texts import fleet_attempts, forget_user
from program import Interaction, UserStore, scripted_lm
from program.errors import BudgetExceededError, ConfigError, StoreError, UnknownUserError
from program.usage import Budget

LINE = "Calls films action."
SERVER = Path(__file__).parents[2] / "benchmarks" / "loopback.py"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UserStore]:
    (tmp_path / "home").mkdir()
    with UserStore(tmp_path / "users.db") as store:
        yield store


def add(store: UserStore, *user_ids: str, n: int = 12) -> None:
    for user_id in user_ids:
        films = [
            Interaction(id=f"f{i}", user_id=user_id, query=f"Film {i} of {user_id}", response="action")
            for i in range(n)
        ]
        store.append(user_id, films, task="LaMP-2M")


def reply(system: str, user: str) -> Any:
    if "critical evaluator" in system:
        return "This user calls films action."
    if "You maintain the list" in system:
        return {"edits": [{"op": "add", "text": LINE, "cites": [1]}]}
    if "refine the system prompt" in system:
        return f"You help someone. {LINE}"
    if "`action`" in user:
        return {"thought": "", "action": {"tool": "finish", "answer": "comedy"}}
    if "`answer`" in user:
        return {"answer": "action" if LINE in system else "comedy"}
    return "This user likes films."


def aligned(
    store: UserStore, user_ids: list[str], config: AlignmentConfig = GROUNDED, **options: Any
) -> list[UserResult]:
    async def collect() -> list[UserResult]:
        results = await align_users(store, user_ids, config, wikipedia=False, **options)
        return [result async for result in results]

    return asyncio.run(collect())


def test_users_are_aligned_and_are_done_until_something_new_comes(store: UserStore) -> None:
    add(store, "ana", "ben")
    lm = scripted_lm(reply)
    results = aligned(store, ["ana", "ben", "ana"], lm=lm)
    assert sorted((r.user_id, r.status) for r in results) == [("ana", "aligned"), ("ben", "aligned")]
    assert [store.persona(name).version for name in ("ana", "ben")] == [2, 2]
    paid = len(lm.engine.prompts)
    again = aligned(store, ["ana", "ben"], lm=lm)
    assert [r.status for r in again] == ["done", "done"]
    assert {r.user_id: r.record for r in again} == {r.user_id: r.record for r in results}
    assert len(lm.engine.prompts) == paid
    store.observe("ben", query="A new film", response="action")
    assert sorted((r.user_id, r.status) for r in aligned(store, ["ana", "ben"], lm=lm)) == [
        ("ana", "done"),
        ("ben", "aligned"),
    ]
    assert len(lm.engine.prompts) > paid


@pytest.mark.parametrize("other", ["settings", "model", "persona", "again"])
def test_a_user_who_is_done_is_aligned_again_if(store: UserStore, other: str) -> None:
    add(store, "ana")
    lm = scripted_lm(reply)
    aligned(store, ["ana"], lm=lm)
    config = AlignmentConfig() if other == "settings" else GROUNDED
    if other == "persona":
        store.add_persona("ana", "Be brief.", source="edit", why="she said so")
    if other == "model":
        lm = scripted_lm(reply)
    paid = len(lm.engine.prompts)
    (result,) = aligned(store, ["ana"], config, lm=lm, again=other == "again")
    assert result.status == "aligned"
    assert len(lm.engine.prompts) > paid


def test_calls_in_flight_never_exceed_the_limit(store: UserStore) -> None:
    add(store, *(f"u{n}" for n in range(12)))
    lm, now, most = scripted_lm(reply), 0, 0
    complete = lm._async_engine_spec.complete

    async def slow(request: Any) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        end = time.monotonic() + 60
        while most < 5 and time.monotonic() < end:
            await asyncio.sleep(0.005)
        now -= 1
        return await complete(request)

    lm._async_engine_spec.complete = slow
    results = aligned(store, [f"u{n}" for n in range(12)], lm=lm, concurrency=5)
    assert {r.status for r in results} == {"aligned"}
    assert most == 5


def test_one_failure_is_a_result_and_the_others_go_on(store: UserStore) -> None:
    add(store, "ana", "ben", "cem")
    store.add_user("new", task="LaMP-2M")

    def refuses_ben(system: str, user: str) -> Any:
        if "of ben" in user:
            raise dspy.ContextWindowExceededError(model="scripted", message="maximum context length")
        return reply(system, user)

    results = {
        r.user_id: r for r in aligned(store, ["ana", "ben", "cem", "new"], lm=scripted_lm(refuses_ben))
    }
    assert {name: r.status for name, r in results.items()} == {
        "ana": "aligned",
        "ben": "failed",
        "cem": "aligned",
        "new": "failed",
    }
    assert "too long" in str(results["ben"].error) or "context" in str(results["ben"].error)
    assert "no interaction" in str(results["new"].error)


def test_an_unknown_user_or_setting_is_refused_before_anything_is_paid(store: UserStore) -> None:
    add(store, "ana")
    lm = scripted_lm(reply)
    with pytest.raises(UnknownUserError):
        aligned(store, ["ana", "nobody"], lm=lm)
    for wrong in ({"concurrency": 0}, {"concurrency": 10_000}, {"patience": -1}):
        with pytest.raises(ConfigError):
            aligned(store, ["ana"], lm=lm, **wrong)
    assert lm.engine.prompts == []


def test_a_budget_stops_everybody_and_says_so_once(store: UserStore) -> None:
    add(store, "ana", "ben", "cem")
    lm = scripted_lm(reply)
    # Under `GROUNDED` who ends first changes what the others need: totals could not be compared.
    results = aligned(store, ["ana", "ben", "cem"], PAPER, lm=lm, budget=Budget(max_calls=20), concurrency=2)
    stopped = [r for r in results if r.status == "stopped"]
    assert len(stopped) == 1
    assert isinstance(stopped[0].error, BudgetExceededError)
    assert len(lm.engine.prompts) <= 20
    # The next run goes on from there: nothing that was paid is paid again.
    whole = scripted_lm(reply)
    aligned(store, ["ana", "ben", "cem"], PAPER, lm=lm)
    with UserStore(store._database.name + "2") as fresh:
        add(fresh, "ana", "ben", "cem")
        aligned(fresh, ["ana", "ben", "cem"], PAPER, lm=whole)
        assert len(lm.engine.prompts) == len(whole.engine.prompts)
        for name in ("ana", "ben", "cem"):
            assert store.persona(name).text == fresh.persona(name).text


def test_an_outage_pauses_everybody_and_resumes_without_paying_again(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_FIRST_PAUSE", 0.02)
    add(store, "ana", "ben")
    calls = 0

    def away_for_a_while(system: str, user: str) -> Any:
        nonlocal calls
        calls += 1
        if 15 < calls <= 25:
            raise dspy.LMServerError("down")
        return reply(system, user)

    results = aligned(store, ["ana", "ben"], PAPER, lm=scripted_lm(away_for_a_while))
    assert {r.status for r in results} == {"aligned"}
    whole = scripted_lm(reply)
    with UserStore(store._database.name + "2") as fresh:
        add(fresh, "ana", "ben")
        aligned(fresh, ["ana", "ben"], PAPER, lm=whole)
    assert calls - 10 == len(whole.engine.prompts)


def away_after(answers: int) -> Callable[[str, str], Any]:
    """Return a reply for `scripted_lm` that is an outage after so many answers."""
    calls = itertools.count(1)

    def answer(system: str, user: str) -> Any:
        if next(calls) > answers:
            raise dspy.LMServerError("down")
        return reply(system, user)

    return answer


def test_an_outage_that_outlasts_patience_stops_the_run(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_FIRST_PAUSE", 0.02)
    add(store, "ana", "ben", "cem")
    lm = scripted_lm(away_after(5))
    results = aligned(store, ["ana", "ben", "cem"], lm=lm, patience=0.1, concurrency=1)
    assert [r.status for r in results] == ["stopped"]
    assert [store.latest_alignment(name, "done") for name in ("ana", "ben", "cem")] == [None] * 3


def test_a_provider_that_answers_no_call_of_this_run_is_not_waited_for(store: UserStore) -> None:
    add(store, "ana")
    lm = scripted_lm(away_after(5))
    assert [r.status for r in aligned(store, ["ana"], lm=lm, patience=0)] == ["stopped"]
    tried = len(lm.engine.prompts)
    # What the first run paid is replayed, and says nothing about the provider now.
    assert [r.status for r in aligned(store, ["ana"], lm=lm, patience=3600)] == ["stopped"]
    assert len(lm.engine.prompts) > tried


def test_a_user_whom_the_provider_fails_alone_is_a_failure_and_the_others_go_on(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_FIRST_PAUSE", 0.01)
    monkeypatch.setenv("PERSONAAGENT_MAX_WAIT", "0.01")
    add(store, "ana", "ben", *(f"u{n}" for n in range(20)))
    refusals = answers = 0

    def fails_ben(system: str, user: str) -> Any:
        nonlocal refusals, answers
        if "of ben" in user and answers >= 5:  # a provider that never answered is not waited for
            refusals += 1
            raise dspy.LMServerError("internal error")
        answers += 1
        time.sleep(0.005)  # the others must not be done before it is given up
        return reply(system, user)

    ids = ["ben", "ana", *(f"u{n}" for n in range(20))]
    results = {r.user_id: r for r in aligned(store, ids, lm=scripted_lm(fails_ben), concurrency=2)}
    ben = results.pop("ben")
    assert ben.status == "failed", (ben.error, refusals, answers)
    assert {r.status for r in results.values()} == {"aligned"}
    assert refusals > pauses.TRIES


def test_a_gateway_that_says_success_without_a_reply_is_an_outage_that_ends(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_FIRST_PAUSE", 0.01)
    add(store, "ana")
    calls = 0

    def garbles(system: str, user: str) -> Any:
        nonlocal calls
        calls += 1
        if calls in (9, 14):
            kind = {9: dspy.LMProviderError, 14: LMUnexpectedError}[calls]
            raise kind("a Chat Completions response body is a JSON object, got list", status=200)
        return reply(system, user)

    assert [r.status for r in aligned(store, ["ana"], lm=scripted_lm(garbles))] == ["aligned"]


def test_a_provider_that_refuses_too_many_calls_at_once_is_asked_for_fewer(store: UserStore) -> None:
    add(store, *(f"u{n}" for n in range(12)))
    lm, now, refusals = scripted_lm(reply), 0, 0
    complete = lm._async_engine_spec.complete

    async def takes_six(request: Any) -> Any:
        nonlocal now, refusals
        if now >= 6:
            refusals += 1
            raise dspy.LMRateLimitError("slow down", retry_after=0.01)
        now += 1
        await asyncio.sleep(0.005)
        now -= 1
        return await complete(request)

    lm._async_engine_spec.complete = takes_six
    lm.num_retries = 50
    results = aligned(store, [f"u{n}" for n in range(12)], lm=lm, concurrency=12)
    assert {r.status for r in results} == {"aligned"}
    assert refusals > 0


def test_a_provider_that_never_answered_is_not_waited_for(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, "ana", "ben")

    def down(system: str, user: str) -> Any:
        raise dspy.LMServerError("down")

    async def wait(self: pauses.Pauses, user_id: str, error: Exception) -> bool:
        raise AssertionError("it waits")

    monkeypatch.setattr(pauses.Pauses, "after", wait)
    [result] = aligned(store, ["ana", "ben"], lm=scripted_lm(down))
    assert (result.status, type(result.error)) == ("stopped", dspy.LMServerError)


def test_those_who_wait_longest_come_first_and_those_without_news_last(store: UserStore) -> None:
    add(store, "ana", "ben", "cem", "dan")
    lm = scripted_lm(reply)
    for name in ("cem", "ana"):
        aligned(store, [name], lm=lm)
    store.observe("cem", query="New", response="action")
    assert longest_waiting_first(store, ["ana", "ben", "cem", "dan"]) == ["ben", "dan", "cem", "ana"]


def test_a_user_in_progress_elsewhere_is_left_alone(store: UserStore, tmp_path: Path) -> None:
    add(store, "ana", "ben")
    script = (
        "import sys; from pathlib import Path; from program import UserStore;"
        "from optimizers.fleet.locks import UserLocks\n"
        "with UserStore(sys.argv[1]) as store, UserLocks(store, Path(sys.argv[2])).hold('ana') as free:\n"
        "    print(free, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "users.db"), str(tmp_path / "home")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline().strip() == "True"
        results = {r.user_id: r for r in aligned(store, ["ana", "ben"], lm=scripted_lm(reply))}
        other.kill()
    assert (results["ana"].status, results["ben"].status) == ("failed", "aligned")
    assert isinstance(results["ana"].error, StoreError)
    assert "another run" in str(results["ana"].error)
    # The lock ends with its process.
    assert [r.status for r in aligned(store, ["ana"], lm=scripted_lm(reply))] == ["aligned"]


def test_two_runs_of_one_process_never_align_a_user_twice_at_once(store: UserStore) -> None:
    add(store, "ana")
    lm = scripted_lm(reply)

    async def run() -> list[str]:
        return [r.status async for r in await align_users(store, ["ana"], lm=lm, wikipedia=False)]

    async def both() -> list[list[str]]:
        return list(await asyncio.gather(run(), run()))

    assert sorted(asyncio.run(both())) == [["aligned"], ["failed"]]
    assert len(store.alignments("ana")) == 1


def test_an_alignment_that_ended_well_keeps_no_piece(store: UserStore, tmp_path: Path) -> None:
    add(store, "ana")
    aligned(store, ["ana"], PAPER, lm=scripted_lm(reply))
    assert [(a.state, a.pieces) for a in fleet_attempts(store, home=tmp_path / "home")] == [("done", 0)]
    left = b"".join(path.read_bytes() for path in (tmp_path / "home").glob("fleet.db*"))
    assert b"of ana" not in left


def test_nothing_is_pickled_and_forgotten_texts_are_gone(store: UserStore, tmp_path: Path) -> None:
    home = tmp_path / "home"
    add(store, "ana", "ben")
    for user_id in ("ana", "ben"):  # a budget ends it midway, so that pieces are kept
        aligned(store, [user_id], PAPER, lm=scripted_lm(reply), budget=Budget(max_calls=5))
    tables = home / "fleet.db"
    assert tables.stat().st_mode & 0o077 == 0
    with sqlite3.connect(tables) as connection:
        formats = connection.execute("SELECT DISTINCT serialization FROM operation_outputs").fetchall()
        assert formats == [("portable_json",)]
    connection.close()
    attempts = fleet_attempts(store, home=home)
    assert [(a.user_id, a.state) for a in attempts] == [("ana", "failed"), ("ben", "failed")]
    assert all(a.pieces for a in attempts)
    assert forget_user(store, "ana", home=home) == 1
    assert [a.user_id for a in fleet_attempts(store, home=home)] == ["ben"]
    left = b"".join(path.read_bytes() for path in home.glob("fleet.db*"))
    assert b"ana" not in left
    assert b"ben" in left
    assert forget_user(store, "ana", home=home) == 0


def test_a_failed_attempt_keeps_no_text_of_its_error(store: UserStore, tmp_path: Path) -> None:
    add(store, "ana")

    def breaks(system: str, user: str) -> Any:
        if "maintain" in system:
            raise ValueError("Ana's secret")
        return reply(system, user)

    (result,) = aligned(store, ["ana"], lm=scripted_lm(breaks))
    assert result.status == "failed" or result.status == "stopped"
    assert [a.state for a in fleet_attempts(store, home=tmp_path / "home")] == ["failed"]
    assert b"Ana's secret" not in (tmp_path / "home" / "fleet.db").read_bytes()


def test_a_user_whose_answers_could_not_be_read_is_asked_anew(store: UserStore) -> None:
    add(store, "ana")
    usable = False

    def unreadable(system: str, user: str) -> Any:
        return reply(system, user) if usable or "`answer`" not in user else {"answer": "no label"}

    lm = scripted_lm(unreadable)
    assert [r.status for r in aligned(store, ["ana"], lm=lm)] == ["failed"]
    usable = True
    assert [r.status for r in aligned(store, ["ana"], lm=lm)] == ["aligned"]


def test_only_the_latest_attempt_of_a_user_is_kept(store: UserStore, tmp_path: Path) -> None:
    add(store, "ana")
    lm = scripted_lm(reply)
    for _ in range(3):
        store.observe("ana", query="One more", response="action")
        aligned(store, ["ana"], lm=lm)
    with open_tables(store, tmp_path / "home"):
        from dbos import DBOS

        assert len(DBOS.list_workflows()) == 1


SCRIPT = """
import asyncio, sys
from pathlib import Path
import dspy
from optimizers import GROUNDED, PAPER, align_users
from program import UserStore

base, home, preset, concurrency = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
lm = dspy.LM("openai/gpt-4o-mini", api_base=base, api_key="none", cache=False)

async def main():
    with UserStore(home / "users.db") as store:
        ids = [user.user_id for user in store.users()]
        config = {"paper": PAPER, "grounded": GROUNDED}[preset]
        results = await align_users(
            store, ids, config, lm=lm, concurrency=concurrency, home=home, wikipedia=False
        )
        async for result in results:
            print(result, flush=True)

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""


class Loopback:
    def __init__(self, latency: float = 0.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), "--latency", str(latency)], stdout=subprocess.PIPE, text=True
        )
        self.base = self.process.stdout.readline().strip()

    def ask(self, path: str, **options: Any) -> dict[str, Any]:
        with urllib.request.urlopen(self.base.removesuffix("/v1") + path, **options) as response:
            return json.load(response)

    def requests(self) -> int:
        return self.ask("/counts")["requests"]

    def __enter__(self) -> Loopback:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def start(server: Loopback, home: Path, preset: str, concurrency: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, server.base, str(home), preset, str(concurrency)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> list[str]:
    lines = process.communicate("\n", timeout=120)[0].splitlines()
    return sorted(lines)


@pytest.mark.parametrize(("preset", "kills"), [("paper", (1, 4, 9, 12)), ("grounded", (2, 7, 15, 30))])
def test_a_killed_process_is_taken_over_and_no_finished_call_is_paid_again(
    tmp_path: Path, preset: str, kills: tuple[int, ...]
) -> None:
    homes = [tmp_path / "undisturbed", tmp_path / "killed"]
    for home in homes:
        home.mkdir()
        with UserStore(home / "users.db") as store:
            add(store, "ana", "ben")
    with Loopback() as server:
        finish(start(server, homes[0], preset, 1))
        whole = server.requests()
    with Loopback() as server:
        for kill_at in kills:
            process = start(server, homes[1], preset, 1)
            # With one call in flight, all before the one that is not answered are finished.
            server.ask(f"/kill-at/{kill_at}/{process.pid}", data=b"")
            finish(process)
            assert process.returncode == -signal.SIGKILL
        # A user may be done already: killed while the other was aligned.
        lines = [line.replace("done", "aligned") for line in finish(start(server, homes[1], preset, 1))]
        assert lines == ["'ana': aligned, persona v2", "'ben': aligned, persona v2"]
        assert server.requests() == whole + len(kills)
    personas = []
    for home in homes:
        with UserStore(home / "users.db") as store:
            for name in ("ana", "ben"):
                personas.append([(v.version, v.text) for v in store.persona_history(name)])
                assert [row.status for row in store.alignments(name)][-1] == "done"
    assert personas[:2] == personas[2:]


def test_a_kill_with_many_calls_in_flight_repeats_at_most_those(tmp_path: Path) -> None:
    with UserStore(tmp_path / "users.db") as store:
        add(store, *(f"u{n}" for n in range(8)))
    with Loopback(latency=0.05) as server:
        process = start(server, tmp_path, "grounded", 16)
        server.ask(f"/kill-at/90/{process.pid}", data=b"")
        finish(process)
        assert process.returncode == -signal.SIGKILL
        lines = finish(start(server, tmp_path, "grounded", 16))
        assert len(lines) == 8
        counts = server.ask("/counts")
    with UserStore(tmp_path / "users.db") as store:
        paid = sum(
            usage["calls"]
            for n in range(8)
            for usage in store.latest_alignment(f"u{n}").record["usage"].values()
        )
    profiles = 8
    assert 0 <= counts["requests"] - paid - profiles <= 16


def test_without_dbos_users_are_aligned_and_an_outage_is_survived(
    store: UserStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("optimizers.fleet.engines.is_durable", lambda: False)
    monkeypatch.setattr(pauses, "_FIRST_PAUSE", 0.02)
    add(store, "ana")
    calls = 0

    def away(system: str, user: str) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise dspy.LMServerError("down")
        return reply(system, user)

    assert [r.status for r in aligned(store, ["ana"], lm=scripted_lm(away))] == ["aligned"]
    assert not (tmp_path / "home" / "fleet.db").exists()
    with pytest.raises(ConfigError, match="extra `fleet`"), open_tables(store, tmp_path):
        pass


def test_locks_of_two_users_differ(store: UserStore, tmp_path: Path) -> None:
    locks = UserLocks(store, tmp_path)
    with locks.hold("ana") as first, locks.hold("ben") as second:
        assert first
        assert second
        assert locks.is_held("ana")
    assert not locks.is_held("ana")
