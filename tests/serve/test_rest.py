"""The HTTP API of one user's data."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import dspy
import httpx
import pytest

from optimizers.fleet.users import align_users
from program.export import export_user
from program.home import home
from program.models.scripted import scripted_lm
from program.serve import answering
from program.serve.app import make_app
from program.serve.contracts import Actions
from program.serve.jobs import Jobs
from program.serve.keys import Keys
from program.store import UserStore
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import open_tracer
from program.tracing.view.answers import find_answer
from program.usage import Usage

ANA, BEN = "team/ana é", "ben"
FINISH = {"thought": "", "action": {"tool": "finish", "answer": "Lentils."}}


def reply(system: str, user: str) -> Any:
    return FINISH if "`action`" in user else "Lentils."


@dataclass
class Api:
    """Asks the server about one user."""

    url: str
    key: str
    client: httpx.Client

    def __call__(self, method: str, path: str, *, user: str = ANA, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}", **more.pop("headers", {})}
        path = path if path.startswith("/") else f"/v1/users/{quote(user, safe='')}/{path}".rstrip("/")
        return self.client.request(method, f"{self.url}{path}", headers=headers, **more)


@pytest.fixture
def api(serve: Any, token: Any, http: httpx.Client) -> Api:
    return Api(
        serve(actions=Actions(align=align_users, lm=scripted_lm(reply), wikipedia=False)), token(), http
    )


def test_context_is_one_text_with_its_parts(api: Api) -> None:
    body = api("GET", "context", params={"query": "What shall I cook?"}).json()
    assert body["persona_version"] == 1
    assert body["persona"] == ["- Likes pulses."]
    assert body["memories"][0].endswith("response: Lentils, ANASECRET. | What shall I cook?")
    assert all(part in body["text"] for part in (*body["persona"], *body["memories"]))
    assert len(body["interaction_ids"]) == 2


def test_context_without_a_query_has_no_interactions_and_keeps_its_limit(api: Api) -> None:
    assert api("GET", "context").json()["memories"] == []
    short = api("GET", "context", params={"query": "cook", "max_tokens": 60}).json()
    assert short["tokens"] <= 60
    assert short["left_out"] > 0
    assert api("GET", "context", params={"max_tokens": 0}).status_code == 422


def test_a_user_id_may_hold_a_slash_and_a_percent_sign(api: Api, store: UserStore) -> None:
    for name in ("a/persona", "100%25", "a?b#c", "%2F", "a;b&c=d+e"):
        store.add_user(name, task="free-text")
        assert api("GET", "", user=name).json()["user_id"] == name


def test_an_interaction_is_stored_and_makes_the_user_stale(api: Api, store: UserStore) -> None:
    sent = {
        "query": "Tea?",
        "response": "Mint.",
        "metadata": {"app": "x"},
        "timestamp": "2026-01-02T03:04:05+01:00",
    }
    response = api("POST", "interactions", json=sent)
    assert response.status_code == 201
    assert response.json()["timestamp"] == "2026-01-02T02:04:05Z"
    [stored] = [item for item in store.interactions(ANA) if item.id == response.json()["id"]]
    assert (stored.query, stored.response, stored.metadata) == ("Tea?", "Mint.", {"app": "x"})
    assert store.user(ANA).stale


def test_a_request_that_is_sent_twice_is_stored_once(api: Api, store: UserStore) -> None:
    headers = {"Idempotency-Key": "abc"}
    sent = {"query": "Tea?", "response": "Mint."}
    first = api("POST", "interactions", json=sent, headers=headers)
    again = api("POST", "interactions", json=sent, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len(store.interactions(ANA)) == 3
    other = api("POST", "interactions", json={**sent, "response": "Fennel."}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "other_content")


def test_the_same_request_many_times_at_once_is_stored_once(api: Api, store: UserStore) -> None:
    def send(number: int) -> tuple[int, str]:
        response = api("POST", "interactions", json={"query": "Tea?", "response": "Mint."}, headers=headers)
        return response.status_code, response.json()["id"]

    headers = {"Idempotency-Key": "abc"}
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(send, range(16)))
    assert sorted(status for status, _ in results) == [200] * 15 + [201]
    assert len({name for _, name in results}) == 1
    assert len(store.interactions(ANA)) == 3


def test_the_same_key_of_two_users_is_two_interactions(api: Api, store: UserStore) -> None:
    headers = {"Idempotency-Key": "abc"}
    for user in (ANA, BEN):
        response = api(
            "POST", "interactions", user=user, json={"query": "q", "response": user}, headers=headers
        )
        assert response.status_code == 201
    assert [item.response for item in store.interactions(BEN)][-1] == BEN


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"query": "", "response": "r"},
        {"query": "q"},
        {"query": "q", "response": "r", "respnse": "r"},
        {"query": "q", "response": "r", "timestamp": "2026-01-02T03:04:05"},
        {"query": "q", "response": "r", "id": "x" * 300},
        {"query": "q", "response": "r", "metadata": {"a": 1}},
        {"query": "q", "response": "\ud83d"},
        {"query": "q", "response": "\x00"},
        [],
    ],
)
def test_an_invalid_interaction_is_refused_and_not_repeated(sent: Any, api: Api, store: UserStore) -> None:
    body = json.dumps(sent).encode()
    response = api("POST", "interactions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 409, 422)
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert len(store.interactions(ANA)) == 2


def test_an_unknown_user_is_added_with_a_task_alone(api: Api, store: UserStore) -> None:
    sent = {"query": "q", "response": "r"}
    assert api("POST", "interactions", user="new", json=sent).status_code == 404
    assert api("POST", "interactions", user="new", json={**sent, "task": "nonsense"}).status_code == 400
    assert api("POST", "interactions", user="new", json={**sent, "task": "free-text"}).status_code == 201
    assert store.user("new").interactions == 1


def test_a_response_that_the_task_does_not_allow_is_refused(api: Api, store: UserStore) -> None:
    store.add_user("film", task="LaMP-3")
    response = api("POST", "interactions", user="film", json={"query": "q", "response": "nine"})
    assert response.status_code == 400
    assert "LaMP-3 needs" in response.json()["error"]["message"]


def test_persona_versions_diff_why_and_rollback(api: Api, store: UserStore) -> None:
    store.add_persona(ANA, "Likes rice.", source="edit", why="changed")
    assert api("GET", "persona").json()["text"] == "Likes rice."
    assert api("GET", "persona", params={"version": 1}).json()["text"] == "Likes pulses."
    versions = api("GET", "persona/versions").json()["versions"]
    assert [(row["version"], row["why"]) for row in versions] == [(1, "she said so"), (2, "changed")]
    assert "text" not in versions[0]
    assert api("GET", "persona/diff").json()["diff"][-2:] == ["-Likes pulses.", "+Likes rice."]
    why = api("GET", "persona/why").json()
    assert (why["version"], why["lines"], why["source"], why["why"]) == (2, None, "edit", "changed")
    [line] = api("GET", "persona/why", params={"version": 1}).json()["lines"]
    assert line["text"] == "Likes pulses."
    assert line["evidence"][0]["response"] == "Lentils, ANASECRET."
    assert api("POST", "persona/rollback", json={"version": 1}).json()["version"] == 3
    assert store.persona(ANA).text == "Likes pulses."  # type: ignore[union-attr]
    for path in ("persona?version=9", "persona/diff?old=9", "persona/why?version=9"):
        assert api("GET", path).json()["error"]["code"] == "unknown_version"
    assert api("POST", "persona/rollback", json={"version": 9}).status_code == 404


def test_approving_keeps_the_current_version_and_no_other(api: Api, store: UserStore) -> None:
    store.rollback(ANA, 1)
    late = api("POST", "persona/approve", json={"version": 1})
    assert (late.status_code, "is not the current one" in late.json()["error"]["message"]) == (409, True)
    approved = api("POST", "persona/approve", json={"version": 2}).json()
    assert (approved["version"], approved["source"], approved["parent"]) == (3, "approval", 2)
    assert approved["text"] == store.persona(ANA, 2).text  # type: ignore[union-attr]
    assert api("GET", "persona/why").json()["outcome"] == "approved"
    assert api("POST", "persona/approve", json={"version": 9}).status_code == 404


def test_costs_are_in_all_and_by_month(api: Api, store: UserStore) -> None:
    assert api("GET", "costs").json()["months"] == []
    store.record_answer(ANA, Usage(calls=2, input_tokens=700, output_tokens=30, usd=0.0004))
    costs = api("GET", "costs").json()
    assert (costs["total"]["calls"], costs["total"]["price"], len(costs["months"])) == (2, "$0.0004", 1)
    users = {row["user_id"]: row for row in api("GET", "/v1/users", params={"costs": "true"}).json()["users"]}
    assert (users[ANA]["cost"]["tokens"], users[BEN]["cost"]["calls"]) == (730, 0)
    assert "cost" not in api("GET", "/v1/users").json()["users"][0]
    page = api("GET", "/v1/users", params={"limit": 1}).json()
    assert (page["users"][0]["user_id"], page["next"]) == (BEN, BEN)


def test_a_user_without_a_persona_is_told_so(api: Api, store: UserStore) -> None:
    store.add_user("new", task="free-text")
    assert api("GET", "persona", user="new").json()["error"]["code"] == "no_persona"
    assert api("GET", "context", user="new", params={"query": "q"}).json()["text"] == ""


def test_the_users_own_agent_answers(api: Api, store: UserStore) -> None:
    body = api("POST", "answer", json={"query": "And what tomorrow?"}).json()
    assert (body["answer"], body["persona_version"]) == ("Lentils.", 1)
    assert body["usage"]["calls"] > 0
    assert len(store.interactions(ANA)) == 2


def test_a_model_that_fails_is_502(serve: Any, token: Any, http: httpx.Client) -> None:
    def fail(system: str, user: str) -> Any:
        raise dspy.LMServerError("down")

    api = Api(serve(actions=Actions(lm=scripted_lm(fail))), token(), http)
    response = api("POST", "answer", json={"query": "q"})
    assert (response.status_code, response.json()["error"]["code"]) == (502, "model_failed")
    assert Api(serve(), token(), http)("POST", "answer", json={"query": "q"}).status_code == 501


def wait(api: Api, job: str, status: str = "done") -> dict[str, Any]:
    end = time.monotonic() + 60
    while (body := api("GET", f"/v1/jobs/{job}").json())["status"] in ("queued", "running"):
        assert time.monotonic() < end, body
        time.sleep(0.01)
    assert body["status"] == status, body
    return body


def test_align_is_a_job_that_writes_a_persona_version(api: Api, store: UserStore) -> None:
    store.add_user("eva", task="free-text")
    store.observe("eva", query="What shall I cook?", response="Lentils.")
    response = api("POST", "align", user="eva")
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert wait(api, job["id"])["persona_version"] == store.user("eva").persona_version == 1
    assert store.alignments("eva")[-1].status == "done"


class Slow:
    """Aligns when it is told to, and notes what was asked."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[str]] = []
        self.stopped = False

    async def __call__(
        self, store: UserStore, user_ids: Iterable[str], *, lm: Any = None, wikipedia: bool = True
    ) -> AsyncIterator[Any]:
        self.batches.append(list(user_ids))

        async def outcomes() -> AsyncIterator[Any]:
            try:
                while not self.go.is_set():
                    await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                self.stopped = True
                raise
            for user in self.batches[-1]:
                error = ValueError("SECRET") if user == BEN else None
                status = "failed" if error else "aligned"
                yield SimpleNamespace(user_id=user, status=status, persona_version=5, error=error)

        return outcomes()


def test_jobs_are_shared_batched_and_fail_alone(serve: Any, token: Any, http: httpx.Client) -> None:
    slow = Slow()
    api = Api(serve(actions=Actions(align=slow)), token(), http)
    first = api("POST", "align").json()
    wait_until(lambda: slow.batches)
    assert api("POST", "align").json()["id"] == first["id"]
    second = api("POST", "align", user=BEN).json()
    assert (api("GET", f"/v1/jobs/{first['id']}").json()["status"], second["status"]) == ("running", "queued")
    assert api("DELETE", "").status_code == 409
    slow.go.set()
    assert wait(api, first["id"])["persona_version"] == 5
    failed = wait(api, second["id"], "failed")
    assert (failed["error"], failed["persona_version"]) == ("ValueError", None)
    assert slow.batches == [[ANA], [BEN]]
    assert [job["id"] for job in api("GET", "/v1/jobs").json()["jobs"]] == [second["id"], first["id"]]


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_a_stop_of_the_server_stops_an_alignment(
    store: UserStore, token: Any, http: httpx.Client, start: Any
) -> None:
    slow = Slow()
    with ExitStack() as stack:
        url = start(make_app(store, home(), None, Actions(align=slow)), stack)
        Api(url, token(), http)("POST", "align")
        wait_until(lambda: slow.batches)
    assert slow.stopped


async def test_a_stop_before_the_alignment_has_begun_stops_it_too(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, stopped, align, stop = Slow(), threading.Event(), Jobs._align, Jobs._stop

    def align_later(jobs: Jobs, *args: Any) -> None:
        assert stopped.wait(60)
        align(jobs, *args)

    def stop_first(jobs: Jobs) -> None:
        stop(jobs)
        stopped.set()

    monkeypatch.setattr(Jobs, "_align", align_later)
    monkeypatch.setattr(Jobs, "_stop", stop_first)
    jobs = Jobs(store, Actions(align=slow))
    work = asyncio.create_task(jobs.work())
    job = jobs.start(ANA)
    while job.status != "running":
        await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not slow.batches


def test_export_holds_all_of_the_user_and_nothing_of_others(api: Api) -> None:
    body = api("GET", "export").json()
    assert body["schema"] == "personaagent.export/1"
    assert len(body["interactions"]) == 2
    assert body["personas"][0]["parts"]["lines"][0]["text"] == "Likes pulses."
    assert "BEN" not in json.dumps(body)


def test_an_export_is_that_of_the_command_line(api: Api, store: UserStore) -> None:
    assert api("GET", "export").json() == export_user(store, ANA, home=home())
    assert api("GET", "export", params={"traces": False}).json()["traces"] is None


def test_a_correction_is_told_at_once_and_a_rollback_keeps_it(api: Api) -> None:
    said = {"line": "Likes pulses.", "text": "Hates pulses.", "why": "I said so"}
    version = api("POST", "persona/correct", json=said).json()
    assert (version["version"], version["source"], version["why"]) == (2, "correction", "I said so")
    assert api("GET", "context").json()["persona"] == ["- Hates pulses."]
    [line] = api("GET", "persona/why").json()["lines"]
    assert line["origin"].startswith("corrected by the person on 20")
    api("POST", "persona/rollback", json={"version": 1})
    assert api("GET", "context").json()["persona"] == ["- Hates pulses."]
    assert "BEN" not in json.dumps(version)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({}, 400),
        ({"line": "Likes opera."}, 400),
        ({"text": ""}, 422),
        ({"text": "x" * 241}, 400),
        ({"x": 1}, 422),
    ],
)
def test_a_correction_that_is_none_is_refused(said: dict[str, Any], status: int, api: Api) -> None:
    response = api("POST", "persona/correct", json=said)
    assert response.status_code == status
    assert "opera" not in response.text
    assert api("GET", "persona").json()["version"] == 1


def test_deleting_a_user_leaves_nothing_and_revokes_the_keys(api: Api, store: UserStore, token: Any) -> None:
    own = token(ANA)
    api("GET", "context", params={"query": "cook"})
    receipt = api("DELETE", "").json()
    assert (receipt["forgotten"], receipt["erased"]["users"], receipt["pending"]) == (True, 1, "")
    for path in ("", "context", "export", "persona"):
        assert api("GET", path).status_code == 404
    assert Keys(home()).find(own) is None
    assert [user.user_id for user in store.users()] == [BEN]


def test_deleting_a_user_again_ends_what_was_interrupted(api: Api, store: UserStore) -> None:
    assert api("DELETE", "").json()["erased"]["users"] == 1
    assert api("DELETE", "").json()["erased"]["users"] == 0
    assert [entry.actor for entry in store.audit()] == ["server", "server"]
    assert api("POST", "interactions", json={"query": "q", "response": "r"}).status_code == 404


def test_deleting_one_interaction_takes_what_rests_on_it_and_no_key(
    api: Api, store: UserStore, token: Any
) -> None:
    own = token(ANA)
    name = store.interactions(ANA)[0].id
    assert api("GET", "context", params={"query": "cook"}).status_code == 200
    receipt = api("DELETE", f"interactions/{name}").json()
    assert (receipt["forgotten"], receipt["erased"]["interactions"], receipt["pending"]) == (True, 1, "")
    assert [item.id for item in store.interactions(ANA)] != []
    assert name not in [item.id for item in store.interactions(ANA)]
    assert name not in json.dumps(api("GET", "context", params={"query": "cook"}).json())
    assert Keys(home()).find(own) is not None
    unknown = api("DELETE", "interactions/none")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_interaction")


def test_users_are_listed_in_pages(api: Api) -> None:
    first = api("GET", "/v1/users?limit=1").json()
    assert [user["user_id"] for user in first["users"]] == [BEN]
    second = api("GET", "/v1/users", params={"after": first["next"], "limit": 1}).json()
    assert ([user["user_id"] for user in second["users"]], second["next"]) == ([ANA], None)


def test_metrics_count_routes_and_name_no_user(api: Api) -> None:
    api("GET", "context")
    api("GET", "/v1/nothing/here")
    text = api("GET", "/metrics").text
    assert (
        'personaagent_requests_total{method="GET",route="/v1/users/{user_id}/context",status="200"} 1.0'
        in text
    )
    assert 'route="other",status="404"' in text
    assert "ana" not in text.replace("personaagent", "")


def test_bodies_contexts_and_rates_have_limits(serve: Any, token: Any, http: httpx.Client) -> None:
    api = Api(serve(max_body=1000, rate=3), token(), http)
    sent = {"query": "q" * 2000, "response": "r"}
    assert api("POST", "interactions", json=sent).status_code == 413
    chunks = (b"x" * 100 for _ in range(50))
    assert api("POST", "/v1/chat/completions", content=chunks).status_code == 413
    statuses = [api("GET", "context").status_code for _ in range(3)]
    assert statuses[0] == 200
    limited = api("GET", "context")
    assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(limited.headers["retry-after"]) >= 1
    assert Api(api.url, token(), http)("GET", "context").status_code == 200


def test_every_answer_has_a_request_id_of_its_own_and_is_not_cached(api: Api) -> None:
    answers = [api("GET", "context"), api("GET", "/healthz"), api("GET", "/nothing")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}
    sent = api("GET", "/healthz", headers={"X-Request-ID": "mine"})
    assert sent.headers["x-request-id"] != "mine"


def test_the_docs_need_no_network_and_name_every_route(api: Api) -> None:
    page = api("GET", "/docs")
    assert "script" not in page.text
    assert "http://" not in page.text.replace("https://", "http://")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    paths = api("GET", "/openapi.json").json()["paths"]
    assert len(paths) > 15
    assert not [path for path in paths if path not in page.text]


def test_an_answer_is_traced_and_counted_so_that_why_finds_it(store: UserStore) -> None:
    store.add_user("eva", task="free-text")
    store.observe("eva", query="What shall I drink?", response="Tea.")
    with open_tracer("local", home=home()):
        answer = asyncio.run(
            answering.ask(store, "eva", "And now?", Actions(lm=scripted_lm(reply), wikipedia=False), home())
        )
    assert answer["answer"] == "Lentils."
    cost = store.cost("eva")
    assert (cost.answers, cost.calls) == (1, answer["usage"]["calls"])
    with closing(TraceStore(home() / "traces.db")) as traces:
        found = find_answer(traces, "eva", "last")
    assert (found.kind, found.query, found.answer) == ("ask", "And now?", "Lentils.")
    assert found.persona_version == answer["persona_version"]
