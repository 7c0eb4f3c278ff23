"""Finished steps of many users: written together, and each one before its user goes on."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from optimizers.fleet.durable_journal import DurableJournal
from optimizers.fleet.engine import open_durable
from optimizers.fleet.place import digest, user_prefix
from optimizers.fleet.steps import FinishedStep, StepWriter
from program import UserStore
from program.errors import AlignmentCancelledError, StoreUnavailableError


def step(number: int, workflow_id: str = "w") -> FinishedStep:
    return FinishedStep(workflow_id=workflow_id, number=number, name=f"step {number}", output="1")


class Table:
    """Takes steps when it is let."""

    def __init__(self) -> None:
        self.transactions: list[list[str]] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.cancelled: set[str] = set()
        self.error: Exception | None = None

    def write(self, steps: Sequence[FinishedStep]) -> set[str]:
        self.begun.set()
        self.go_on.wait()
        if self.error is not None:
            raise self.error
        self.transactions.append([step.name for step in steps])
        return self.cancelled


async def test_steps_that_end_during_a_transaction_share_the_next_one() -> None:
    table = Table()
    table.go_on.clear()
    writer = StepWriter(table.write)
    first = writer.add(step(1))
    await asyncio.to_thread(table.begun.wait)
    others = [writer.add(step(number)) for number in range(2, 40)]
    await asyncio.sleep(0.05)
    assert not first.done()
    table.go_on.set()
    assert await asyncio.gather(first, *others) == [True] * 39
    assert [len(names) for names in table.transactions] == [1, 38]


async def test_a_failed_transaction_fails_all_its_steps_and_no_later_one() -> None:
    table = Table()
    writer = StepWriter(table.write)
    table.error = StoreUnavailableError("the disk is full")
    failures = await asyncio.gather(*(writer.add(step(n)) for n in (1, 2)), return_exceptions=True)
    assert [str(failure) for failure in failures] == ["the disk is full"] * 2
    table.error = None
    assert await writer.add(step(3))
    assert table.transactions == [["step 3"]]


async def test_a_step_whose_user_is_stopped_is_stored_all_the_same() -> None:
    table = Table()
    table.go_on.clear()
    writer = StepWriter(table.write)
    stopped, other = (writer.add(step(number)) for number in (1, 2))
    await asyncio.to_thread(table.begun.wait)
    stopped.cancel()
    table.go_on.set()
    assert await other
    assert table.transactions == [["step 1", "step 2"]]
    assert stopped.cancelled()


async def test_a_withdrawn_step_is_left_out_unless_its_transaction_has_begun() -> None:
    table = Table()
    table.go_on.clear()
    writer = StepWriter(table.write)
    begun, left_out, other = (writer.add(step(number)) for number in (1, 2, 3))
    writer.withdraw(left_out)
    await asyncio.to_thread(table.begun.wait)
    writer.withdraw(begun)
    table.go_on.set()
    assert await asyncio.gather(begun, other) == [True, True]
    assert left_out.cancelled()
    assert table.transactions == [["step 1", "step 3"]]
    writer.withdraw(writer.add(step(4)))
    await asyncio.sleep(0.05)
    assert table.transactions == [["step 1", "step 3"]]


async def test_only_the_steps_of_a_cancelled_workflow_say_so() -> None:
    table = Table()
    table.cancelled = {"gone"}
    writer = StepWriter(table.write)
    assert await asyncio.gather(writer.add(step(1, "gone")), writer.add(step(1, "w"))) == [False, True]


def test_dbos_reads_the_steps_and_a_cancelled_attempt_does_not_go_on(tmp_path: Path) -> None:
    from dbos import DBOS

    async def run() -> tuple[list[str], BaseException | None]:
        with UserStore(tmp_path / "users.db") as store, open_durable(store, tmp_path) as engine:
            ids: list[str] = []
            journals: list[DurableJournal] = []

            async def work(journal: DurableJournal) -> None:
                journals.append(journal)
                ids.append(DBOS.workflow_id)
                await journal.run("first", _one)
                # As another process would: outside of the workflow.
                loop, clean = asyncio.get_running_loop(), contextvars.Context()
                await loop.run_in_executor(None, clean.run, DBOS.cancel_workflow, ids[0])
                await journal.run("second", _one)
                await journal.run("third", _one)

            error: BaseException | None = None
            try:
                await engine.run("ana", "key", work)
            except AlignmentCancelledError as cancelled:
                error = cancelled
            steps = await DBOS.list_workflow_steps_async(ids[0])
            named = {row["function_name"]: row["output"] for row in steps}
            return [f"{name}={output}" for name, output in named.items()], error

    names, error = asyncio.run(run())
    # What was finished is kept, and nothing begins any more.
    assert names == ['first={"n": 1}', 'second={"n": 1}']
    assert error is not None


def test_a_reply_is_written_at_once_and_left_out_if_its_piece_is_finished_first(tmp_path: Path) -> None:
    table = Table()

    async def run() -> None:
        journal = DurableJournal({}, "w", StepWriter(table.write))

        async def piece(lingers: bool) -> dict[str, int]:
            await journal.run_call("slow" if lingers else "quick", 1, _one)
            while lingers and not table.transactions:  # as a tool that takes its time after the reply
                await asyncio.sleep(0.001)
            return {"n": 2}

        await journal.run("slow", lambda: piece(True))
        await journal.run("quick", lambda: piece(False))

    asyncio.run(run())
    assert table.transactions == [["slow/call 1"], ["slow"], ["quick"]]


def test_a_users_attempts_are_found_among_those_of_many_in_both_databases(
    location: str, tmp_path: Path
) -> None:
    from dbos import DBOS

    async def nothing(journal: DurableJournal) -> None:
        await journal.run("piece", _one)

    async def run() -> None:
        with UserStore(location) as store, open_durable(store, tmp_path) as engine:
            users = [f"user {number}" for number in range(12)]
            for user_id in users:
                await engine.run(user_id, digest(user_id, "work")[:24], nothing)
            for user_id in users:
                prefix = user_prefix(store, user_id)
                by_dbos = [
                    row.workflow_id for row in await DBOS.list_workflows_async(workflow_id_prefix=prefix)
                ]
                assert engine._tables.workflows_of(prefix) == by_dbos
                assert len(by_dbos) == 1
            assert engine._tables.workflows_of(user_prefix(store, "nobody")) == []

    asyncio.run(run())


async def _one() -> dict[str, int]:
    return {"n": 1}


def test_a_table_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    with UserStore(tmp_path / "users.db") as store, open_durable(store, tmp_path) as engine:
        engine._tables.write([step(1)])
        with pytest.raises(StoreUnavailableError, match="check the disk"):
            engine._tables.write([step(1)])
