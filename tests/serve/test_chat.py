"""The OpenAI-compatible address, with the official client."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from program.serve.chat import ReplyText, last_request, with_context
from program.serve.context import build_context, count_tokens
from program.serve.upstream import Upstream
from program.store import UserStore

ANA, BEN = "team/ana é", "ben"
HEADER = {"X-PersonaAgent-User": "team%2Fana%20%C3%A9"}
WHOLE = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Dal, Ana."}}
        ],
    }
).encode()


def chunk(text: str | None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": None, **more}
    event = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


STREAM = b": keep-alive\n\n" + chunk("D\u00e4l") + chunk(", Ana.") + chunk(None, finish_reason="stop")
STREAM += b"data: [DONE]\n\n"
SSE = {"Content-Type": "text/event-stream; charset=utf-8"}


@pytest.fixture
def client(serve: Any, token: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{serve()}/v1", api_key=token(), max_retries=0) as made:
        yield made


def cook(client: openai.OpenAI, **more: Any) -> Any:
    messages = [
        {"role": "system", "content": "You are a cook."},
        {"role": "user", "content": "What shall I cook?"},
    ]
    options = {"model": "m", "messages": messages, "extra_headers": HEADER, **more}
    return client.chat.completions.create(**options)


def test_persona_and_memories_follow_the_clients_own_system_text(client: Any, model: Any) -> None:
    model.body = WHOLE
    assert cook(client).choices[0].message.content == "Dal, Ana."
    [(path, _, body)] = model.asked
    assert path == "/v1/chat/completions"
    assert [message["role"] for message in body["messages"]] == ["system", "system", "user"]
    own, context, asked = (message["content"] for message in body["messages"])
    assert (own, asked) == ("You are a cook.", "What shall I cook?")
    assert "- Likes pulses." in context
    assert "response: Lentils, ANASECRET. | What shall I cook?" in context
    assert "BEN" not in json.dumps(body)


def test_the_reply_names_the_persona_version(client: Any, model: Any) -> None:
    model.body = WHOLE
    raw = client.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], extra_headers=HEADER
    )
    assert raw.headers["x-personaagent-persona"] == "1"
    assert raw.http_response.content == WHOLE


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_a_stream_has_the_same_bytes_as_upstreams(
    piece: int, serve: Any, token: Any, model: Any, http: httpx.Client
) -> None:
    model.body, model.headers, model.piece = STREAM, SSE, piece
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}], "user": BEN}
    headers = {"Authorization": f"Bearer {token()}", "Accept-Encoding": "identity"}
    response = http.post(f"{serve(record=True)}/v1/chat/completions", json=body, headers=headers)
    assert response.content == STREAM
    assert response.headers["content-type"] == SSE["Content-Type"]


def test_a_compressed_reply_is_passed_through_as_it_is(
    serve: Any, token: Any, model: Any, http: httpx.Client
) -> None:
    model.body = gzip.compress(WHOLE)
    model.headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "user": BEN}
    headers = {"Authorization": f"Bearer {token()}", "Accept-Encoding": "gzip"}
    with http.stream("POST", f"{serve()}/v1/chat/completions", json=body, headers=headers) as response:
        assert b"".join(response.iter_raw()) == model.body
    assert model.asked[0][1]["accept-encoding"] == "gzip"


def test_the_official_client_reads_a_stream(client: Any, model: Any) -> None:
    model.body, model.headers = STREAM, SSE
    texts = [event.choices[0].delta.content for event in cook(client, stream=True)]
    assert texts == ["D\u00e4l", ", Ana.", None]


def test_tools_images_and_unknown_fields_pass_through(client: Any, model: Any) -> None:
    model.body = WHOLE
    tools = [{"type": "function", "function": {"name": "oven", "parameters": {"type": "object"}}}]
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "oven"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "hot"},
    ]
    more = {"a_new_field": {"deep": [1, 2.5, None, "\u00e9"]}, "big": 12345678901234567890}
    cook(client, messages=messages, tools=tools, tool_choice="auto", extra_body=more)
    body = model.asked[0][2]
    assert body["messages"][1:] == messages
    assert body["messages"][0]["role"] == "system"
    assert (body["tools"], body["tool_choice"]) == (tools, "auto")
    assert {name: body[name] for name in more} == more


def test_responses_get_the_context_after_the_instructions(client: Any, model: Any) -> None:
    model.body = b'{"id": "r1", "output": []}'
    client.responses.create(
        model="m", instructions="Be brief.", input="What shall I cook?", extra_headers=HEADER
    )
    [(path, _, body)] = model.asked
    assert path == "/v1/responses"
    assert body["input"] == "What shall I cook?"
    own, _, context = body["instructions"].partition("\n\n")
    assert own == "Be brief."
    assert "Likes pulses." in context
    assert "ANASECRET" in context


def test_responses_without_instructions_keep_their_developer_message_first() -> None:
    items = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    body = with_context("responses", {"input": items}, "context")
    assert body["input"] == [items[0], {"role": "developer", "content": "context"}, items[1]]
    assert "instructions" not in body


def test_the_upstream_gets_its_own_key_and_nothing_of_ours(client: Any, model: Any, token: Any) -> None:
    model.body = WHOLE
    cook(client)
    headers = model.asked[0][1]
    assert headers["authorization"] == "Bearer sk-upstream"
    assert not any("personaagent" in name for name in headers)
    assert "pa_" not in json.dumps(headers)


def test_openais_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERSONAAGENT_UPSTREAM_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    keys = [
        Upstream.from_environment(url).key
        for url in (
            "https://api.openai.com/v1",
            "https://api.openai.com.evil.example/v1",
            "http://localhost/v1",
        )
    ]
    assert keys == ["sk-openai", "", ""]


@pytest.mark.parametrize(
    ("fields", "user"),
    [
        ({"extra_headers": HEADER, "safety_identifier": BEN, "user": BEN}, "ANA"),
        ({"extra_headers": {}, "safety_identifier": ANA, "user": BEN}, "ANA"),
        ({"extra_headers": {}, "user": BEN}, "BEN"),
    ],
)
def test_user_comes_from_the_header_then_safety_identifier_then_user(
    fields: dict[str, Any], user: str, client: Any, model: Any
) -> None:
    model.body = WHOLE
    cook(client, **fields)
    text = json.dumps(model.asked[0][2]["messages"])
    assert [name for name in ("ANA", "BEN") if f"{name}SECRET" in text] == [user]


def test_a_bound_key_decides_the_user(serve: Any, token: Any, model: Any) -> None:
    model.body = WHOLE
    with openai.OpenAI(base_url=f"{serve()}/v1", api_key=token(BEN), max_retries=0) as client:
        cook(client, extra_headers={}, user=ANA, extra_body={"safety_identifier": ANA})
        text = json.dumps(model.asked[0][2]["messages"])
        assert "BENSECRET" in text
        assert "ANASECRET" not in text
        with pytest.raises(openai.PermissionDeniedError, match="another user"):
            cook(client)
    assert len(model.asked) == 1


def test_errors_have_openais_form(serve: Any, token: Any, model: Any) -> None:
    url = f"{serve()}/v1"
    with openai.OpenAI(base_url=url, api_key="pa_wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as wrong:
            cook(client)
    assert wrong.value.code == "wrong_key"
    with openai.OpenAI(base_url=url, api_key=token(), max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as missing:
            cook(client, extra_headers={})
        assert missing.value.code == "missing_user"
        with pytest.raises(openai.NotFoundError) as unknown:
            cook(client, extra_headers={"X-PersonaAgent-User": "nobody"})
        assert unknown.value.code == "unknown_user"
        with pytest.raises(openai.BadRequestError, match="`messages` must be a list"):
            cook(client, messages=3)
        model.status, model.body = 429, b'{"error": {"message": "slow down", "code": "rate"}}'
        with pytest.raises(openai.RateLimitError, match="slow down"):
            cook(client)


def test_an_upstream_that_is_away_is_502(serve: Any, token: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with openai.OpenAI(
            base_url=f"{serve(upstream=Upstream(url=away))}/v1", api_key=token(), max_retries=0
        ) as c:
            with pytest.raises(openai.InternalServerError) as error:
                cook(c)
    assert error.value.status_code == 502
    assert error.value.code == "upstream_unreachable"


def test_an_upstream_that_says_nothing_is_504(serve: Any, token: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        upstream = Upstream(url=f"http://127.0.0.1:{silent.getsockname()[1]}/v1", read_seconds=0.1)
        with openai.OpenAI(base_url=f"{serve(upstream=upstream)}/v1", api_key=token(), max_retries=0) as c:
            with pytest.raises(openai.InternalServerError) as error:
                cook(c)
    assert error.value.status_code == 504
    assert error.value.code == "upstream_timeout"


def test_a_client_that_leaves_ends_the_reply_of_the_upstream(
    serve: Any, token: Any, http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:

        def answer_without_end() -> bytes:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(10)
                while b"messages" not in connection.recv(1 << 16):
                    pass
                start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                connection.sendall(start + b"6\r\ndata: \r\n")
                return connection.recv(1)

        rest = pool.submit(answer_without_end)
        url = serve(upstream=Upstream(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1"))
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "user": BEN, "stream": True}
        headers = {"Authorization": f"Bearer {token()}"}
        with http.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as response:
            assert next(response.iter_raw()) == b"data: "
        assert rest.result(10) == b""
    assert not [row for row in caplog.records if row.levelno >= logging.ERROR]


def test_a_large_request_is_passed_on_whole(client: Any, model: Any) -> None:
    model.body = WHOLE
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (3 << 20)}}
    messages = [{"role": "user", "content": [image]}]
    cook(client, messages=messages)
    assert model.asked[0][2]["messages"][-1:] == messages


def test_without_an_upstream_chat_says_how_to_get_one(serve: Any, token: Any) -> None:
    with openai.OpenAI(base_url=f"{serve(upstream=None)}/v1", api_key=token(), max_retries=0) as client:
        with pytest.raises(openai.InternalServerError, match="--upstream"):
            cook(client)


@pytest.mark.parametrize("stream", [False, True])
def test_record_stores_the_turn_once(
    stream: bool, serve: Any, token: Any, model: Any, store: UserStore
) -> None:
    model.body, model.headers = (STREAM, SSE) if stream else (WHOLE, {"Content-Type": "application/json"})
    with openai.OpenAI(base_url=f"{serve(record=True)}/v1", api_key=token(), max_retries=0) as client:
        reply = cook(client, stream=stream)
        if stream:
            list(reply)
    newest = _wait_for(store, ANA, 3)[-1]
    assert (newest.query, newest.metadata) == ("What shall I cook?", {"source": "chat"})
    assert newest.response == ("D\u00e4l, Ana." if stream else "Dal, Ana.")


def test_a_turn_is_stored_if_the_client_leaves_at_the_last_event(
    serve: Any, token: Any, model: Any, store: UserStore
) -> None:
    model.body, model.headers, model.ends = STREAM, SSE, threading.Event()
    with openai.OpenAI(base_url=f"{serve(record=True)}/v1", api_key=token(), max_retries=0) as client:
        list(cook(client, stream=True))  # it does not read what follows [DONE]
    assert _wait_for(store, ANA, 3)[-1].response == "D\u00e4l, Ana."
    model.ends.set()


def _wait_for(store: UserStore, user_id: str, count: int) -> list[Any]:
    """A turn is stored after its last byte was sent."""
    end = time.monotonic() + 60
    while len(rows := store.interactions(user_id)) < count and time.monotonic() < end:
        time.sleep(0.01)
    assert len(rows) == count
    return rows


def test_a_key_that_cannot_write_records_nothing(
    serve: Any, token: Any, model: Any, store: UserStore, http: httpx.Client
) -> None:
    model.body = WHOLE
    url = serve(record=True)
    with openai.OpenAI(base_url=f"{url}/v1", api_key=token(None, "read"), max_retries=0) as client:
        cook(client)
        with pytest.raises(openai.NotFoundError):
            cook(client, extra_headers={"X-PersonaAgent-User": "new"})
    assert len(store.interactions(ANA)) == 2
    assert "new" not in [user.user_id for user in store.users()]


def test_recording_adds_a_new_user(serve: Any, token: Any, model: Any, store: UserStore) -> None:
    model.body = WHOLE
    with openai.OpenAI(base_url=f"{serve(record=True)}/v1", api_key=token(), max_retries=0) as client:
        cook(client, extra_headers={"X-PersonaAgent-User": "new"})
    assert _wait_for(store, "new", 1)[0].response == "Dal, Ana."
    assert "ANASECRET" not in json.dumps(model.asked)


def test_a_stream_that_breaks_off_is_not_recorded(
    serve: Any, token: Any, model: Any, store: UserStore
) -> None:
    model.body, model.headers, model.breaks = chunk("Dal"), SSE, True
    with openai.OpenAI(base_url=f"{serve(record=True)}/v1", api_key=token(), max_retries=0) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            list(cook(client, stream=True))
    assert len(store.interactions(ANA)) == 2


def test_no_text_and_no_user_id_is_logged(client: Any, model: Any, caplog: pytest.LogCaptureFixture) -> None:
    model.body = WHOLE
    with caplog.at_level(logging.DEBUG):
        cook(client)
        with pytest.raises(openai.NotFoundError):
            cook(client, extra_headers={"X-PersonaAgent-User": "nobody-at-all"})
    lines = [row.fields for row in caplog.records if row.name == "personaagent.program.serve"]
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/v1/chat/completions", 200),
        ("/v1/chat/completions", 404),
    ]
    ours = [
        f"{row.getMessage()} {vars(row).get('fields')}"
        for row in caplog.records
        if not row.name.startswith(("openai", "httpcore"))
    ]
    for secret in ("cook", "ana", "nobody", "Likes", "Dal", "pa_"):
        assert not [line for line in ours if secret in line.replace("personaagent", "")]


def test_users_at_once_get_nothing_of_each_other(
    serve: Any, token: Any, model: Any, store: UserStore
) -> None:
    model.body = WHOLE
    for number in range(20):
        store.add_user(f"u{number}", task="free-text")
        store.observe(f"u{number}", query="What shall I cook?", response=f"CANARY{number}.")
    with openai.OpenAI(base_url=f"{serve()}/v1", api_key=token(), max_retries=0) as client:
        with ThreadPoolExecutor(8) as pool:
            users = [f"u{number % 20}" for number in range(60)]
            list(
                pool.map(
                    lambda user: cook(client, extra_headers={"X-PersonaAgent-User": user}, user=user), users
                )
            )
    assert len(model.asked) == 60
    for _, _, body in model.asked:
        text = json.dumps(body["messages"])
        assert text.count("CANARY") == 1
        assert f"CANARY{body['user'][1:]}." in text


def test_a_forgotten_user_is_gone_from_the_next_prompt(client: Any, model: Any, store: UserStore) -> None:
    model.body = WHOLE
    cook(client)
    store.forget(ANA)
    with pytest.raises(openai.NotFoundError):
        cook(client)
    store.readmit(ANA)
    store.add_user(ANA, task="free-text")
    for number in range(3):
        store.observe(ANA, query="What shall I cook?", response=f"Rice {number}")
    cook(client)
    text = json.dumps(model.asked[-1][2])
    assert "Rice" in text
    assert "ANASECRET" not in text
    assert "pulses" not in text


def test_a_new_interaction_and_persona_reach_the_next_prompt(
    client: Any, model: Any, store: UserStore
) -> None:
    model.body = WHOLE
    cook(client)
    store.observe(ANA, query="What shall I cook on Sunday?", response="NEWANSWER")
    store.add_persona(ANA, "NEWPERSONA", source="edit", why="test")
    cook(client)
    text = json.dumps(model.asked[-1][2])
    assert "NEWANSWER" in text
    assert "NEWPERSONA" in text


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_nodes_fetch_reads_a_stream(serve: Any, token: Any, model: Any) -> None:
    model.body, model.headers = STREAM, SSE
    script = """
const [url, key] = process.argv.slice(1);
const messages = [{role: "user", content: "Hi"}];
const body = JSON.stringify({model: "m", stream: true, user: "ben", messages});
const headers = {authorization: `Bearer ${key}`, "content-type": "application/json"};
const reply = await fetch(url, {method: "POST", body, headers});
process.stdout.write(Buffer.from(await reply.arrayBuffer()));
"""
    url = f"{serve()}/v1/chat/completions"
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script, url, token()],
        capture_output=True,
        check=True,
        timeout=20,
    )
    assert done.stdout == STREAM


def test_a_context_is_never_longer_than_asked(store: UserStore) -> None:
    lines = ["- " + "long " * 50, "- short", "- " + "\u6241" * 50]
    for most in (1, 40, 60, 100, 1000):
        context = build_context(lines, store.interactions(ANA), max_tokens=most)
        assert count_tokens(context.text) == context.tokens <= most
        assert len(context.persona) + len(context.memories) + context.left_out == 5


@pytest.mark.parametrize("content", [None, 3, [], [None, {"type": "image_url"}], {"text": "x"}])
def test_a_message_without_text_has_no_query(content: Any) -> None:
    assert last_request("chat/completions", {"messages": [{"role": "user", "content": content}, "x"]}) == ""


def test_a_reply_that_is_too_long_or_unreadable_is_not_kept() -> None:
    reply = ReplyText("chat/completions", streams=False, most=10)
    reply.feed(WHOLE)
    assert reply.finish() is None
    for body in (
        b"",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": null}}]}',
        b"\xff",
    ):
        reply = ReplyText("chat/completions", streams=False)
        reply.feed(body)
        assert reply.finish() is None


def test_a_reply_of_the_responses_api_is_collected() -> None:
    events = [
        {"type": "response.output_text.delta", "delta": "Da"},
        {"type": "response.reasoning.delta", "delta": "hidden"},
        {"type": "response.output_text.delta", "delta": "l"},
        {"type": "response.completed"},
    ]
    reply = ReplyText("responses", streams=True)
    for event in events:
        reply.feed(f"event: {event['type']}\r\ndata: {json.dumps(event)}\r\n\r\n".encode())
    assert reply.finish() == "Dal"
    whole = ReplyText("responses", streams=False)
    part = {"type": "output_text", "text": "Dal"}
    whole.feed(
        json.dumps({"output": [{"type": "reasoning"}, {"type": "message", "content": [part]}]}).encode()
    )
    assert whole.finish() == "Dal"
