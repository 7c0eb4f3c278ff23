"""The providers' batch APIs: same personas, half the price, nothing submitted or paid twice."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

from optimizers import PAPER, ProviderBatches, UserResult, align_users
from optimizers.fleet.batch_api import FILE, forget_answers
from optimizers.fleet.batch_api.collector import Work
from optimizers.fleet.batch_api.tables import Asked, Batch, Reply, open_tables
from optimizers.fleet.place import user_prefix
from program import Interaction, UserStore, scripted_lm
from program.errors import ModelSetupError

SERVER = Path(__file__).parents[2] / "benchmarks" / "loopback_batches.py"
MODELS = {"openai": "openai/gpt-4o-mini", "anthropic": "anthropic/claude-sonnet-4-5"}
FAST = ProviderBatches(quiet=0.05, poll=0.02, hold=1.0)


class Loopback:
    def __init__(self) -> None:
        command = [sys.executable, str(SERVER), "--seconds", "0.01"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.base = self.process.stdout.readline().strip()

    def ask(self, path: str, data: Any = None) -> dict[str, Any]:
        body = None if data is None else json.dumps(data).encode()
        with urllib.request.urlopen(self.base.removesuffix("/v1") + path, data=body) as response:
            return json.load(response)

    def faults(self, **faults: Any) -> None:
        self.ask("/faults", faults)

    def counts(self) -> dict[str, int]:
        return self.ask("/batch-counts")


@pytest.fixture
def server() -> Iterator[Loopback]:
    server = Loopback()
    yield server
    server.process.kill()
    server.process.wait()
    server.process.stdout.close()


def fill(home: Path, *user_ids: str) -> Path:
    home.mkdir(exist_ok=True)
    with UserStore(home / "users.db") as store:
        for user_id in user_ids:
            films = [
                Interaction(id=f"f{i}", user_id=user_id, query=f"Film {i} of {user_id}", response="action")
                for i in range(3)
            ]
            store.append(user_id, films, task="LaMP-2M")
    return home


def model_of(api: str, server: Loopback) -> dspy.LM:
    return dspy.LM(MODELS[api], api_base=server.base, api_key="none", cache=False)


def aligned(home: Path, lm: Any, batches: ProviderBatches | None = FAST) -> dict[str, UserResult]:
    async def collect() -> dict[str, UserResult]:
        with UserStore(home / "users.db") as store:
            ids = [user.user_id for user in store.users()]
            results = await align_users(store, ids, PAPER, lm=lm, home=home, wikipedia=False, batches=batches)
            return {result.user_id: result async for result in results}

    return asyncio.run(collect())


def personas(home: Path) -> list[Any]:
    with UserStore(home / "users.db") as store:
        return [[(v.version, v.text) for v in store.persona_history(user.user_id)] for user in store.users()]


@pytest.mark.parametrize("api", MODELS)
def test_batches_give_the_personas_of_an_online_run_at_half_the_price(
    api: str, server: Loopback, tmp_path: Path
) -> None:
    online, batch = (fill(tmp_path / name, "ana", "ben") for name in ("online", "batch"))
    lm = model_of(api, server)
    before = aligned(online, lm, batches=None)
    calls = server.counts()["requests"]
    # Patient, so that the users advance together on a busy machine too.
    after = aligned(batch, lm, replace(FAST, quiet=0.3))
    assert personas(batch) == personas(online)
    counts = server.counts()
    assert (counts["requests"], counts["paid"], counts["submitted"]) == (calls, calls, calls)
    # They do not take turns, and their texts are deleted at the provider and here.
    assert counts["batches"] < calls / 2 - 1
    assert counts["files"] == 0
    with UserStore(batch / "users.db") as store:
        assert forget_answers(store, "ana", batch) == 0
    for name in ("ana", "ben"):
        paid = [
            {stage: usage["usd"] for stage, usage in result[name].record["usage"].items()}
            for result in (before, after)
        ]
        assert paid[1] == {stage: pytest.approx(usd / 2) for stage, usd in paid[0].items()}
        assert min(paid[1].values()) > 0


@pytest.mark.parametrize("api", MODELS)
def test_failed_expired_and_unreadable_requests_are_asked_again(
    api: str, server: Loopback, tmp_path: Path
) -> None:
    home = fill(tmp_path / "home", "ana", "ben")
    server.faults(fail=0.2, expire=0.2, garble=0.1)
    results = aligned(home, model_of(api, server))
    assert {result.status for result in results.values()} == {"aligned"}
    counts = server.counts()
    assert min(counts["fail"], counts["expire"], counts["garble"]) > 0
    assert counts["paid_twice"] == 0


@pytest.mark.parametrize("api", ["anthropic"])
def test_a_refused_request_is_one_users_row(api: str, server: Loopback, tmp_path: Path) -> None:
    home = fill(tmp_path / "home", "ana", "ben")
    server.faults(refuse="of ben")
    results = aligned(home, model_of(api, server))
    assert {name: result.status for name, result in results.items()} == {"ana": "aligned", "ben": "failed"}
    assert "content filter" in str(results["ben"].error)


def test_a_request_that_always_fails_is_one_users_row(server: Loopback, tmp_path: Path) -> None:
    home = fill(tmp_path / "home", "ana", "ben")
    server.faults(fail=1.0)
    results = aligned(home, model_of("openai", server), ProviderBatches(quiet=0.05, poll=0.02, tries=2))
    assert {result.status for result in results.values()} == {"failed"}
    assert "asked in 2 batches without success: status 500" in str(results["ana"].error)
    assert server.counts()["paid"] == 0


@pytest.mark.parametrize("api", MODELS)
def test_a_lost_reply_to_a_submission_submits_nothing_twice(
    api: str, server: Loopback, tmp_path: Path
) -> None:
    home = fill(tmp_path / "home", "ana")
    server.faults(moment="reset")
    assert aligned(home, model_of(api, server))["ana"].status == "aligned"
    counts = server.counts()
    assert counts["reset"] == 1
    assert counts["submitted"] == counts["paid"]
    assert counts["paid_twice"] == 0


def test_a_batch_is_split_within_the_limits_and_after_too_many_tokens(
    server: Loopback, tmp_path: Path
) -> None:
    home = fill(tmp_path / "home", "ana", "ben")
    server.faults(whole=1)
    settings = ProviderBatches(quiet=0.05, poll=0.02, max_requests=4)
    assert {r.status for r in aligned(home, model_of("openai", server), settings).values()} == {"aligned"}
    counts = server.counts()
    assert counts["whole"] == 1
    assert counts["paid_twice"] == 0


SCRIPT = """
import asyncio, sys
from pathlib import Path
import dspy
from optimizers import PAPER, ProviderBatches, align_users
from program import UserStore

model, base, home = sys.argv[1], sys.argv[2], Path(sys.argv[3])
lm = dspy.LM(model, api_base=base, api_key="none", cache=False)

async def main():
    with UserStore(home / "users.db") as store:
        ids = [user.user_id for user in store.users()]
        batches = ProviderBatches(quiet=0.05, poll=0.02)
        async for result in await align_users(
            store, ids, PAPER, lm=lm, home=home, wikipedia=False, batches=batches
        ):
            print(result, flush=True)

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("api", "moment"), [("openai", "before"), ("openai", "after"), ("anthropic", "after")]
)
def test_a_kill_between_submit_and_store_submits_nothing_twice(
    api: str, moment: str, server: Loopback, tmp_path: Path
) -> None:
    home = fill(tmp_path / "home", "ana")
    command = [sys.executable, "-c", SCRIPT, MODELS[api], server.base, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        server.faults(kill=process.pid, moment=moment, skip=1)
        process.communicate("\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert aligned(home, model_of(api, server))["ana"].status == "aligned"
    counts = server.counts()
    assert counts["submitted"] == counts["paid"]
    assert counts["paid_twice"] == 0
    assert counts["files"] == 0


def test_an_interrupt_ends_at_once_and_the_next_run_goes_on(server: Loopback, tmp_path: Path) -> None:
    home = fill(tmp_path / "home", "ana")
    lm, lines = model_of("openai", server), []

    async def interrupted() -> None:
        submitted = asyncio.Event()

        def note(line: str) -> None:
            lines.append(line)
            submitted.set()

        settings = ProviderBatches(quiet=0.05, poll=600, on_change=note)
        with UserStore(home / "users.db") as store:
            results = await align_users(
                store, ["ana"], PAPER, lm=lm, home=home, wikipedia=False, batches=settings
            )
            task = asyncio.ensure_future(results.__anext__())
            await submitted.wait()
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=60)
            assert done

    asyncio.run(interrupted())
    assert "the next run goes on" in lines[-1]
    assert aligned(home, lm)["ana"].status == "aligned"
    counts = server.counts()
    assert counts["submitted"] == counts["paid"]


def test_forgotten_answers_are_gone(server: Loopback, tmp_path: Path) -> None:
    home = fill(tmp_path / "home", "ana")
    server.faults(refuse="critical evaluator")
    assert aligned(home, model_of("openai", server))["ana"].status == "failed"
    assert (home / FILE).stat().st_mode & 0o077 == 0
    with UserStore(home / "users.db") as store:
        forget_answers(store, "ana", home)
    assert b"comedy" not in b"".join(path.read_bytes() for path in home.glob(f"{FILE}*"))


def test_a_model_without_batches_or_key_is_refused_before_anything_is_paid(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fill(tmp_path / "home", "ana")
    for name in ("OPENAI_API_KEY", "OPENAI_API_BASE", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    headers = dspy.LM(MODELS["openai"], api_key="none", extra_headers={"x": "y"})
    for lm, reason in (
        (scripted_lm(lambda system, user: ""), "no batch API"),
        (dspy.LM("groq/llama", api_key="none"), "no batch API"),
        (dspy.LM(MODELS["openai"]), "OPENAI_API_KEY"),
        (headers, "extra_headers"),
    ):
        with pytest.raises(ModelSetupError, match=reason):
            aligned(home, lm)
    assert server.counts()["batches"] == 0


def test_a_request_is_known_by_user_piece_number_and_body() -> None:
    ids = {
        Work(user, piece).next_id(body)
        for user in ("ana", "ben")
        for piece in ("update/1", "update/2")
        for body in (b"one", b"two")
    }
    again = Work("ana", "update/1")
    assert len(ids) == 8
    assert again.next_id(b"one") in ids
    assert again.next_id(b"one") not in ids


def test_batches_and_answers_are_kept_in_a_file_and_on_a_server(location: str, tmp_path: Path) -> None:
    batch = Batch(
        id="b1",
        api="openai",
        base="http://localhost",
        state="written",
        remote_id=None,
        requests=2,
        created_at=1.0,
        mark={"id": "before", "created_at": "now"},
    )

    async def keep(store: UserStore) -> None:
        tables = open_tables(store, tmp_path)
        prefix = user_prefix(store, "ana")
        await tables.write(batch, [("one", prefix), ("two", prefix)])
        await tables.update("b1", state="sent", remote_id="remote")
        assert await tables.unfinished() == [replace(batch, state="sent", remote_id="remote")]
        await tables.answer([("one", Reply(200, "{}")), ("gone", Reply(200, "{}"))])
        assert await tables.finish("b1") == ["two"]
        assert await tables.unfinished() == []
        assert await tables.asked(["one", "two"]) == {"one": Asked("b1", Reply(200, "{}"))}
        tables.close()

    with UserStore(location) as store:
        asyncio.run(keep(store))
        assert forget_answers(store, "ben", tmp_path) == 0
        assert forget_answers(store, "ana", tmp_path) == 1
