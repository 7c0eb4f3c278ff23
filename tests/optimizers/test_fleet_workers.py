"""Workers share the users of a batch, take over from each other, and keep a budget together."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from pathlib import Path
from types import ModuleType
from typing import Any

import dspy
import pytest
from dspy.clients import execution

from optimizers import GROUNDED, PAPER, UserResult
from optimizers.fleet import tasks
from optimizers.fleet import worker as worker_module
from optimizers.fleet.alive import Processes
from optimizers.fleet.batch import Batch
from optimizers.fleet.commands import align_here, models_of, workers_live
from optimizers.fleet.control import open_control
from optimizers.fleet.engines import open_tables
from optimizers.fleet.locks import UserLocks
from optimizers.fleet.plan import plan_batch
from optimizers.fleet.spending import BatchBudgetError, Spending
from optimizers.fleet.texts import forget_user
from optimizers.fleet.users import CONCURRENCY
from optimizers.fleet.worker import Worker, align_with_workers, work_until
from program import Interaction, UserStore, scripted_lm
from program.errors import BudgetExceededError, ConfigError, StoreUnavailableError
from program.usage import Budget, Prices, Usage, UsageTracker, track_usage

LINE = "Calls films action."
USERS = ["ana", "ben"]
ROOT = Path(__file__).parents[2]


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


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TICK", "_POLL_SECONDS", "_IDLE_SECONDS"):
        monkeypatch.setattr(worker_module, name, 0.05)
    monkeypatch.setattr(tasks, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr("optimizers.fleet.users.BUSY_SECONDS", 0.05)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def lm(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = ModuleType("fleet_models")
    module.lm = scripted_lm(reply)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fleet_models", module)
    return module.lm


@pytest.fixture
def store(location: str) -> Iterator[UserStore]:
    with UserStore(location) as store:
        add(store, *USERS)
        yield store


@pytest.fixture
def local(tmp_path: Path) -> Iterator[UserStore]:
    with UserStore(tmp_path / "users.db") as store:
        add(store, *USERS)
        yield store


def add(store: UserStore, *user_ids: str) -> None:
    for user_id in user_ids:
        films = [
            Interaction(id=f"f{i}", user_id=user_id, query=f"Film {i} of {user_id}", response="action")
            for i in range(6)
        ]
        store.append(user_id, films, task="LaMP-2M")


def batch(**settings: Any) -> Batch:
    given = {"config": PAPER, "users": "all", "model": "python:fleet_models:lm", **settings}
    return Batch(wikipedia=False, trace="off", **given)


def shared(store: UserStore, home: Path, asked: Batch) -> list[UserResult]:
    async def collect() -> list[UserResult]:
        return [result async for result in align_with_workers(store, USERS, asked, home=home)]

    return asyncio.run(collect())


def alone(store: UserStore, home: Path, asked: Batch, *, stop_after: int | None = None) -> list[UserResult]:
    async def collect() -> list[UserResult]:
        results: list[UserResult] = []
        with models_of(asked) as prompt_lm, track_usage(UsageTracker()):
            run = align_here(store, USERS, asked, prompt_lm=prompt_lm, home=home, concurrency=1)
            async with aclosing(run):
                async for result in run:
                    results.append(result)
                    if len(results) == stop_after:
                        break
        return results

    return asyncio.run(collect())


def work(store: UserStore, home: Path) -> dict[str, str]:
    """Run a worker until nobody is queued."""
    ended: dict[str, str] = {}

    async def run() -> None:
        worker = Worker(store, home, on_result=lambda user, status, line: ended.update({user: status}))
        await work_until(worker, asyncio.Event(), asyncio.Event(), until_empty=True)

    asyncio.run(run())
    return ended


def calls_of_a_whole_run(tmp_path: Path, home: Path, lm: Any) -> int:
    """Align the same users elsewhere, and return how many calls that takes."""
    before = len(lm.engine.prompts)
    (tmp_path / "other").mkdir()
    with UserStore(tmp_path / "other.db") as other:
        add(other, *USERS)
        alone(other, tmp_path / "other", batch())
    return len(lm.engine.prompts) - before


def test_queued_users_are_aligned_once_and_a_repeated_command_pays_nothing(
    store: UserStore, home: Path, lm: Any
) -> None:
    tracker = UsageTracker()

    async def collect() -> list[UserResult]:
        run = align_with_workers(store, USERS, batch(), home=home, tracker=tracker)
        return [result async for result in run]

    results = asyncio.run(collect())
    assert {r.user_id: (r.status, r.persona_version) for r in results} == {
        "ana": ("aligned", 2),
        "ben": ("aligned", 2),
    }
    assert all(r.record["usage"] for r in results)
    paid = len(lm.engine.prompts)
    assert tracker.total().calls == paid
    assert {r.status for r in shared(store, home, batch())} == {"done"}
    assert len(lm.engine.prompts) == paid


def test_what_a_worker_left_is_taken_over_and_no_finished_call_is_paid_again(
    store: UserStore, home: Path, lm: Any, tmp_path: Path
) -> None:
    complete, held = lm._async_engine_spec.complete, asyncio.Event()
    waiting, rollouts = 0, 2 * 3

    async def stops_midway(request: Any) -> Any:
        """Hold the losses, and what Ben's agent asks after its first step: three rollouts are half done."""
        nonlocal waiting
        said = str(request)
        if "critical evaluator" in said or ("gave:" in said and "of ben" in said):
            waiting += 1
            if waiting == rollouts:
                held.set()
            await asyncio.Event().wait()
        return await complete(request)

    async def first() -> None:
        async with Worker(store, home).working() as (engine, _):
            batch_id, _ = await asyncio.to_thread(engine.batches.open, batch())
            await asyncio.to_thread(tasks.enqueue, store, USERS, batch_id)
            await asyncio.wait_for(held.wait(), 60)

    lm._async_engine_spec.complete = stops_midway
    with pytest.MonkeyPatch.context() as patch:
        # The journal would await the calls in flight, which are paid; a process that is killed cannot.
        for module in ("journal", "fleet.durable_journal", "stored"):
            patch.setattr(f"optimizers.{module}.to_its_end", _given_up)
        asyncio.run(first())
    lm._async_engine_spec.complete = complete
    kept = len(lm.engine.prompts)
    profiles, of_ana, of_ben = 2, 3 * 3, 3
    assert kept == profiles + of_ana + of_ben
    with open_control(store, home) as control:
        assert {user.state for user in control.status().users} == {"interrupted"}
    assert work(store, home) == {"ana": "aligned", "ben": "aligned"}
    paid = len(lm.engine.prompts)
    assert paid == calls_of_a_whole_run(tmp_path, home, lm)
    for user_id in USERS:
        assert [version.version for version in store.persona_history(user_id)] == [1, 2]
        assert [row.status for row in store.alignments(user_id)][-1] == "done"


def test_a_worker_has_the_look_ups_and_connections_of_a_fleet(local: UserStore, home: Path) -> None:
    async def inside() -> tuple[bool, int]:
        async with Worker(local, home, concurrency=200).working():
            in_loop = "run_in_executor" in vars(asyncio.get_running_loop())
            return in_loop, execution.RouterConfig().max_connections

    assert asyncio.run(inside()) == (True, 200)


async def _given_up(call: Any) -> Any:
    return await call


def test_a_process_that_ended_is_told_by_its_lock(store: UserStore, home: Path) -> None:
    processes = Processes(store, home)
    with processes.declare_dead("never was") as dead:
        assert dead
    with processes.live("one"), processes.declare_dead("one") as dead:
        assert not dead
    assert not workers_live(store, home)
    processes.check()
    processes.close()


ASKS = """
import sys
from pathlib import Path
from optimizers.fleet.alive import Processes
from program import UserStore

with UserStore(sys.argv[1]) as store:
    processes = Processes(store, Path(sys.argv[2]))
    numbers, number = processes._numbers, processes._number("any worker")
    assert numbers.take(number)
    print("asks", flush=True)
    sys.stdin.readline()
    numbers.free(number)
    sys.stdin.readline()
    print(processes.any_worker())
    processes.close()
"""


def test_a_worker_that_starts_waits_for_who_asks_whether_there_is_one(location: str, home: Path) -> None:
    lives, end = threading.Event(), threading.Event()
    with UserStore(location) as store, ThreadPoolExecutor(1) as pool:
        processes = Processes(store, home)

        def live() -> None:
            with processes.live("me"):
                lives.set()
                assert end.wait(60)

        command = [sys.executable, "-c", ASKS, location, str(home)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as other:
            assert other.stdout.readline() == "asks\n"
            living = pool.submit(live)
            assert not lives.wait(0.1)
            other.stdin.write("\n")
            other.stdin.flush()
            assert lives.wait(60)
            assert other.communicate("\n", timeout=60)[0] == "True\n"
        end.set()
        living.result()
        processes.close()


def test_a_user_who_comes_while_the_worker_puts_a_batch_away_is_aligned(
    local: UserStore, home: Path, lm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve, ended, opened = Worker._serve, dict[str, str](), list[str]()

    async def serve_until_one_more_comes(self: Worker, inbox: Any, *args: Any) -> None:
        await serve(self, inbox, *args)
        if "ben" not in ended:
            await asyncio.to_thread(tasks.enqueue, local, ["ben"], opened[0])
            while inbox.empty():
                await asyncio.sleep(0.01)

    async def run() -> None:
        worker = Worker(local, home, on_result=lambda user, status, line: ended.update({user: status}))
        async with worker.working() as (engine, _):
            opened.append((await asyncio.to_thread(engine.batches.open, batch()))[0])
            await asyncio.to_thread(tasks.enqueue, local, ["ana"], opened[0])
            while len(ended) < 2:
                await asyncio.sleep(0.01)

    monkeypatch.setattr(Worker, "_serve", serve_until_one_more_comes)
    asyncio.run(asyncio.wait_for(run(), 60))
    assert ended == {"ana": "aligned", "ben": "aligned"}


def test_closing_waits_for_a_thread_that_still_reads(local: UserStore, home: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    def read(engine: Any) -> None:
        with engine.connect():
            begun.set()
            time.sleep(0.3)
            ended.set()

    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        engine = stack.enter_context(open_tables(local, home))
        pool.submit(read, engine._engine)
        assert begun.wait(60)
        stack.close()
        assert ended.is_set()


def test_a_worker_whose_server_connection_is_gone_says_so(new_database: Any, home: Path) -> None:
    with UserStore(new_database()) as store:
        processes = Processes(store, home)
        with store._database.engine.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND datname = current_database()"
            )
        with pytest.raises(StoreUnavailableError, match="start it again"):
            processes.check()


def test_two_processes_never_pay_more_than_the_budget_together(store: UserStore, home: Path) -> None:
    made, tracker = 0, UsageTracker()

    async def call() -> Any:
        nonlocal made
        made += 1
        await asyncio.sleep(0)
        tracker.record({"usage": {"prompt_tokens": 5, "completion_tokens": 1}, "cost": 0.5})
        return ["reply"]

    async def spend(spending: Spending) -> int:
        refused = 0
        for _ in range(10):
            try:
                await spending.around("x", call)
            except BatchBudgetError:
                refused += 1
        return refused

    async def run(engine: Any, batch_id: str) -> int:
        several = [Spending(engine.batches, batch_id, Budget(max_calls=25)) for _ in range(2)]
        return sum(await asyncio.gather(*(spend(each) for each in several for _ in range(2))))

    with open_tables(store, home) as engine:
        batch_id, paid = engine.batches.open(batch())
        assert paid == Usage()
        refused = asyncio.run(run(engine, batch_id))
        assert (made, refused) == (25, 15)
        late = Spending(engine.batches, batch_id, Budget(max_calls=25))
        with pytest.raises(BatchBudgetError, match="the limit is 25 calls"):
            asyncio.run(late.around("x", call))
        paid = engine.batches.paid(batch_id)
        assert (paid.calls, paid.tokens, paid.usd) == (25, 150, 12.5)


def test_a_budget_holds_over_a_run_that_did_not_end(local: UserStore, home: Path, lm: Any) -> None:
    asked = batch(max_calls=18)
    alone(local, home, asked, stop_after=1)
    paid = len(lm.engine.prompts)
    assert 0 < paid < 18
    results = alone(local, home, asked)
    assert len(lm.engine.prompts) <= 18
    assert [r.status for r in results if r.user_id == "ben"] == ["stopped"]
    # That run has ended: the same command begins with the whole budget, and pays nothing twice.
    assert {r.user_id: r.status for r in alone(local, home, asked)} == {"ana": "done", "ben": "aligned"}


def test_a_command_waits_for_who_is_aligned_by_another(local: UserStore, home: Path, lm: Any) -> None:
    locks = UserLocks(local, home)
    stack = ExitStack()
    stack.enter_context(locks.hold("ana"))
    loop_runs = threading.Timer(0.3, stack.close)
    loop_runs.start()
    assert {r.user_id: r.status for r in alone(local, home, batch())} == {"ana": "aligned", "ben": "aligned"}
    loop_runs.join()


def test_the_budget_of_a_user_ends_that_user_alone(local: UserStore, home: Path, lm: Any) -> None:
    results = alone(local, home, batch(max_calls_per_user=3))
    assert {r.user_id: r.status for r in results} == {"ana": "failed", "ben": "failed"}
    assert all(isinstance(r.error, BudgetExceededError) for r in results)
    paid = len(lm.engine.prompts)
    alone(local, home, batch(max_calls_per_user=3))
    assert len(lm.engine.prompts) == paid  # what an earlier attempt paid counts


def test_a_given_price_is_counted_and_limits(local: UserStore, home: Path, lm: Any) -> None:
    with dspy.context(lm=lm), track_usage(UsageTracker(), lm) as free:
        dspy.settings.lm("Hello")
    assert free.total().unpriced == 1
    lm.prices = Prices(usd_in=1.0, usd_out=2.0)
    with track_usage(UsageTracker(Budget(max_usd=1.0)), lm) as tracker:
        dspy.settings.lm("Hello again")
    usage = tracker.total()
    if usage.input_tokens:
        assert usage.usd == pytest.approx((usage.input_tokens + 2 * usage.output_tokens) / 1e6)
        assert usage.unpriced == 0
    with pytest.raises(ConfigError, match="usd_in"):
        Prices(usd_in=-1.0, usd_out=0.0)
    with pytest.raises(ConfigError, match="both prices"):
        batch(price_in=1.0)


def test_dollars_without_a_known_price_stop_the_batch(local: UserStore, home: Path, lm: Any) -> None:
    results = alone(local, home, batch(max_usd=1.0))
    assert {r.status for r in results} == {"stopped"}
    assert "`--price-in`" in str(results[0].error)
    assert len(lm.engine.prompts) <= 2


def test_a_plan_pays_nothing_and_holds(local: UserStore, home: Path, lm: Any) -> None:
    local.add_user("new", task="LaMP-2M")
    asked = batch(price_in=1.0, price_out=1.0)
    with models_of(asked) as prompt_lm:
        plan = plan_batch(local, [*USERS, "new"], asked, prompt_lm=prompt_lm)
    assert lm.engine.prompts == []
    assert {user.user_id: user.why for user in plan.users} == {
        "ana": "",
        "ben": "",
        "new": "no interaction to learn from",
    }
    assert plan.measured_on == 0
    assert plan.usd is not None
    alone(local, home, asked)
    low, high = plan.calls
    assert low <= len(lm.engine.prompts) <= high
    with models_of(asked) as prompt_lm:
        again = plan_batch(local, USERS, asked, prompt_lm=prompt_lm)
    assert (again.calls, [user.done for user in again.users]) == ((0, 0), [True, True])


def test_a_plan_with_the_embedded_model_costs_nothing(local: UserStore) -> None:
    asked = batch(model="embedded")
    with models_of(asked) as prompt_lm:
        assert plan_batch(local, USERS, asked, prompt_lm=prompt_lm).usd == (0.0, 0.0)


@pytest.mark.parametrize(("task", "response"), [("LaMP-2M", "action"), ("free-text", "Lentil soup.")])
def test_calls_that_score_answers_are_planned_and_limited_and_never_paid_twice(
    tmp_path: Path, home: Path, task: str, response: str
) -> None:
    def calls(store: UserStore, max_calls: int) -> tuple[str, int]:
        asked = batch(config=GROUNDED, users=("ana",), model="embedded", max_calls=max_calls)

        async def collect() -> list[UserResult]:
            run = align_here(store, ["ana"], asked, prompt_lm=None, home=home, concurrency=4)
            return [result async for result in run]

        with models_of(asked), track_usage(UsageTracker()) as tracker:
            [result] = asyncio.run(collect())
        return result.status, tracker.total().calls

    with UserStore(tmp_path / "users.db") as store:
        texts = [f"What of evening {n}?" for n in range(6)]
        past = [Interaction(id=text, user_id="ana", query=text, response=response) for text in texts]
        store.append("ana", past, task=task)
        with models_of(batch(config=GROUNDED, model="embedded")):
            low, high = plan_batch(store, ["ana"], batch(config=GROUNDED, model="embedded")).calls
        assert calls(store, 3) == ("stopped", 3)
        status, paid = calls(store, 100)
        assert status == "aligned"
        assert low <= 3 + paid <= high
        whole = store.alignments("ana")[-1].record["usage"]
        assert sum(usage["calls"] for usage in whole.values()) == 3 + paid


def test_cancelled_users_are_not_aligned_until_they_are_tried_again(
    store: UserStore, home: Path, lm: Any
) -> None:
    with open_tables(store, home) as engine:
        batch_id, _ = engine.batches.open(batch())
        tasks.enqueue(store, USERS, batch_id)
        with open_control(store, home) as control:
            assert {user.state for user in control.status().users} == {"queued"}
            assert control.cancel(["ana"]) == ["ana"]
    assert work(store, home) == {"ben": "aligned"}
    with open_control(store, home) as control:
        states = {user.user_id: user.state for user in control.status().users}
        assert states == {"ana": "cancelled", "ben": "done"}
        assert control.retry() == ["ana"]
        assert control.retry(["ben"]) == []
    assert work(store, home) == {"ana": "aligned"}
    assert forget_user(store, "ana", home=home) == 2
    with open_control(store, home) as control:
        assert [user.user_id for user in control.status().users] == ["ben"]


def test_a_user_in_progress_is_cancelled_before_the_next_call(local: UserStore, home: Path, lm: Any) -> None:
    complete = lm._async_engine_spec.complete
    cancelled: list[str] = []

    async def cancels(request: Any) -> Any:
        if not cancelled:
            with open_control(local, home) as control:
                # Another process does so, which is in no workflow.
                clean = contextvars.Context()
                cancelled.extend(await asyncio.to_thread(clean.run, control.cancel, None))
        return await complete(request)

    lm._async_engine_spec.complete = cancels
    results = alone(local, home, batch())
    assert cancelled
    by_user = {r.user_id: r for r in results}
    assert by_user[cancelled[0]].status == "failed"
    assert "cancelled" in str(by_user[cancelled[0]].error)
    lm._async_engine_spec.complete = complete
    assert {r.status for r in alone(local, home, batch())} <= {"aligned", "done"}


def test_a_schedule_begins_a_batch_in_a_worker(local: UserStore, home: Path, lm: Any) -> None:
    with open_control(local, home) as control:
        with pytest.raises(ConfigError, match="cron expression"):
            control.schedule("every night", batch())
        with pytest.raises(ConfigError, match="time zone"):
            control.schedule("0 3 * * *", batch(), "Mars/Olympus")
        control.schedule("* * * * * *", batch(users="stale"))
        assert [each["cron"] for each in control.status().schedules] == ["* * * * * *"]
    ended: dict[str, list[str]] = {"ana": [], "ben": []}

    async def run() -> None:
        stop = asyncio.Event()

        def note(user: str, status: str, line: str) -> None:
            ended[user].append(status)
            if all("aligned" in states for states in ended.values()):
                stop.set()

        work = work_until(Worker(local, home, on_result=note), stop, asyncio.Event())
        await asyncio.wait_for(work, 60)

    asyncio.run(run())
    # Each second the same users are queued again, who are then done.
    assert [sorted({*states}) in (["aligned"], ["aligned", "done"]) for states in ended.values()] == [
        True
    ] * 2
    assert [states.count("aligned") for states in ended.values()] == [1, 1]
    with open_control(local, home) as control:
        assert control.unschedule()
        assert not control.unschedule()


def test_a_running_row_of_a_host_that_is_gone_ends(store: UserStore, home: Path) -> None:
    async def dies(journal: Any) -> None:
        store.start_alignment("ana", {})
        raise asyncio.CancelledError

    with open_tables(store, home) as engine:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(engine.run("ana", "key", dies))
        assert [row.status for row in store.alignments("ana")] == ["running"]
        locks = UserLocks(store, home)
        with locks.hold("ana"):
            engine.end_dead(locks)
            assert [row.status for row in store.alignments("ana")] == ["running"]
        engine.end_dead(locks)
        locks.close()
    assert [row.status for row in store.alignments("ana")] == ["interrupted"]


def test_settings_of_a_batch_survive_as_data() -> None:
    asked = batch(users=("ana",), negatives=("A title",), max_usd=2.0)
    assert Batch.from_dict({**asked.as_dict(), "of a later version": 1}) == asked
    assert Batch(max_usd=1.0).work() == Batch(max_usd=2.0).work()
    assert CONCURRENCY >= 1
