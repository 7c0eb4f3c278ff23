"""The MCP server, with the SDK's own client over HTTP and over standard input and output."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from program.home import home
from program.serve.keys import Keys
from program.store import UserStore

ANA, BEN = "team/ana é", "ben"
TOOLS = {"search_memory", "observe", "read_profile", "why", "forget"}


@asynccontextmanager
async def connected(url: str, key: str, **headers: str) -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}", **headers}, trust_env=False, timeout=60
        )
        await stack.enter_async_context(http)
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        client = await stack.enter_async_context(Client(transport))
        # As every application does; a forgotten user's key could not ask for them any more.
        await client.list_tools()
        yield client


def text(result: Any) -> str:
    return "\n".join(part.text for part in result.content)


async def test_the_persona_is_a_resource_and_a_prompt(serve: Any, token: Any) -> None:
    async with connected(serve(), token(ANA)) as client:
        [resource] = (await client.list_resources()).resources
        assert str(resource.uri) == "persona://me/current"
        [content] = (await client.read_resource("persona://me/current")).contents
        [prompt] = (await client.list_prompts()).prompts
        [message] = (await client.get_prompt(prompt.name)).messages
    assert "- Likes pulses." in content.text
    assert message.content.text == content.text
    assert "BEN" not in content.text


async def test_tools_search_observe_and_explain(serve: Any, token: Any, store: UserStore) -> None:
    async with connected(serve(), token(ANA)) as client:
        found = await client.call_tool("search_memory", {"query": "What shall I cook?", "k": 1})
        assert text(found).endswith("response: Lentils, ANASECRET. | What shall I cook?")
        profile = text(await client.call_tool("read_profile", {}))
        assert "2" in profile
        [line] = json.loads(text(await client.call_tool("why", {})))["lines"]
        assert line["evidence"][0]["response"] == "Lentils, ANASECRET."
        assert "recorded" in text(await client.call_tool("observe", {"query": "Tea?", "response": "Mint."}))
    assert store.interactions(ANA)[-1].response == "Mint."
    assert len(store.interactions(BEN)) == 1


async def test_no_tool_takes_a_user_and_forget_is_marked_destructive(serve: Any, token: Any) -> None:
    async with connected(serve(), token(ANA)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == TOOLS
    arguments = {name: set(tool.input_schema["properties"]) for name, tool in tools.items()}
    assert not [name for name, given in arguments.items() if any("user" in each for each in given)]
    destructive = {name for name, tool in tools.items() if tool.annotations.destructive_hint}
    read_only = {name for name, tool in tools.items() if tool.annotations.read_only_hint}
    assert (destructive, read_only) == ({"forget"}, {"search_memory", "read_profile", "why"})


async def test_an_argument_cannot_name_another_user(serve: Any, token: Any) -> None:
    async with connected(serve(), token(ANA)) as client:
        for more in ({"user": BEN}, {"user_id": BEN}):
            result = await client.call_tool("search_memory", {"query": "cook", **more})
            assert "BEN" not in text(result)


async def test_forget_asks_first_and_then_leaves_nothing(serve: Any, token: Any, store: UserStore) -> None:
    key = token(ANA)
    async with connected(serve(), key) as client:
        asked = await client.call_tool("forget", {"confirm": False})
        assert asked.is_error
        assert store.user(ANA).interactions == 2
        done = await client.call_tool("forget", {"confirm": True})
        assert not done.is_error, text(done)
    assert [user.user_id for user in store.users()] == [BEN]
    assert Keys(home()).find(key) is None


@pytest.mark.parametrize(
    ("right", "works"),
    [("read", {"search_memory", "read_profile", "why"}), ("write", {"observe"}), ("admin", {"forget"})],
)
async def test_each_tool_needs_its_right(right: str, works: set[str], serve: Any, token: Any) -> None:
    arguments: dict[str, dict[str, Any]] = {
        "search_memory": {"query": "q"},
        "observe": {"query": "q", "response": "r"},
        "forget": {"confirm": True},
    }
    async with connected(serve(), token(ANA, right)) as client:
        # A persona is gone once the user is forgotten.
        names = [*sorted(TOOLS - {"forget"}), "forget"]
        results = {name: await client.call_tool(name, arguments.get(name, {})) for name in names}
    assert {name for name, result in results.items() if not result.is_error} == works
    assert all("lacks the right" in text(result) for result in results.values() if result.is_error)


async def test_clients_at_once_get_their_own_user(serve: Any, token: Any) -> None:
    url = serve(rate=0)

    async def ask(user: str) -> None:
        async with connected(url, token(user)) as client:
            for _ in range(5):
                found = text(await client.call_tool("search_memory", {"query": "What shall I cook?"}))
                assert f"{'ANA' if user == ANA else 'BEN'}SECRET" in found
                assert f"{'BEN' if user == ANA else 'ANA'}SECRET" not in found

    await asyncio.gather(*(ask(user) for user in (ANA, BEN) * 3))


async def test_a_key_for_all_users_names_one_in_a_header(serve: Any, token: Any) -> None:
    async with connected(serve(), token(), **{"X-PersonaAgent-User": "ben"}) as client:
        assert "BENSECRET" in text(await client.call_tool("search_memory", {"query": "cook"}))


@pytest.mark.parametrize("key", ["", "Bearer pa_wrong", "Basic x"])
def test_without_a_key_there_is_no_answer(key: str, serve: Any, http: httpx.Client, token: Any) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Authorization": key} if key else {}
    url = serve()
    response = http.post(f"{url}/mcp", json=body, headers=headers)
    assert response.status_code == 401
    unbound = http.post(f"{url}/mcp", json=body, headers={"Authorization": f"Bearer {token()}"})
    assert unbound.status_code == 400
    evil = http.post(f"{url}/mcp", json=body, headers={"Origin": "https://evil.example"})
    assert evil.status_code == 403


async def test_an_unknown_user_and_a_crash_say_little_and_log_no_text(
    serve: Any,
    token: Any,
    store: UserStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = serve()
    with caplog.at_level(logging.DEBUG):
        async with connected(url, token("nobody")) as client:
            result = await client.call_tool("search_memory", {"query": "QUERYSECRET"})
            assert result.is_error
            assert "there is no such user" in text(result)

        def crash(*arguments: Any, **options: Any) -> Any:
            raise ValueError("TEXTSECRET")

        monkeypatch.setattr("program.serve.recall.Recall.memory", crash)
        async with connected(url, token(ANA)) as client:
            result = await client.call_tool("search_memory", {"query": "QUERYSECRET"})
            assert result.is_error
    assert "SECRET" not in text(result)
    server_lines = [
        row for row in caplog.records if not row.name.startswith(("httpcore", "httpx", "mcp.client"))
    ]
    assert not [row for row in server_lines if "SECRET" in f"{row.getMessage()} {row.exc_text}"]


async def test_standard_input_and_output_speak_for_one_user(store: UserStore) -> None:
    options = ["serve", "--mcp", "stdio", "--user", ANA]
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "personaagent", *options],
        env={**os.environ, "PERSONAAGENT_HOME": str(home())},
    )
    async with Client(stdio_client(parameters)) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        found = text(await client.call_tool("search_memory", {"query": "What shall I cook?"}))
        assert "ANASECRET" in found
        assert "BENSECRET" not in found
        refused = await client.call_tool("forget", {"confirm": True})
        assert "lacks the right" in text(refused)
        await client.call_tool("observe", {"query": "Tea?", "response": "Mint."})
    assert store.interactions(ANA)[-1].response == "Mint."
