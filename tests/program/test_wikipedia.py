import json
import logging
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs

import pytest

from program.errors import ConfigError
from program.memory.episodic import EpisodicMemory
from program.memory.semantic import Facts, Profile
from program.tools import ToolContext, ToolSet, WikipediaSearch

CONTEXT = ToolContext(
    memory=EpisodicMemory("ann"), profile=lambda before: Profile(facts=Facts(interactions=0))
)
USER = {"id": 0, "name": "127.0.0.1", "anon": True}
PAGES = {
    "batchcomplete": True,
    "query": {
        "userinfo": USER,
        "pages": [
            {"pageid": 2, "ns": 0, "title": "Android", "index": 2, "extract": "An android is a robot."},
            {"pageid": 1, "ns": 0, "title": "Blade Runner", "index": 1, "extract": "A 1982\nfilm by Scott."},
        ],
    },
}
NO_PAGES = {"batchcomplete": True, "query": {"userinfo": USER}}


@dataclass
class Reply:
    """One scripted reply of the wiki."""

    body: object = field(default_factory=lambda: PAGES)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass
class Wiki:
    """A MediaWiki on loopback that answers from a script and repeats its last entry."""

    url: str
    script: list[Reply] = field(default_factory=lambda: [Reply()])
    requests: list[dict[str, str]] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def wiki(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wiki]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            state.paths.append(self.path)
            state.agents.append(self.headers["User-Agent"])
            state.requests.append({name: values[0] for name, values in parse_qs(body).items()})
            reply = state.script.pop(0) if len(state.script) > 1 else state.script[0]
            time.sleep(reply.delay)
            text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server(("127.0.0.1", 0), Handler)
    state = Wiki(f"http://127.0.0.1:{server.server_port}/w/api.php")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


Look = Callable[..., tuple[str, bool]]


@pytest.fixture
def look(wiki: Wiki, tmp_path: Path) -> Look:
    """Search through the tool, as an agent does; returns the observation's text and whether it failed."""
    tool_sets: list[ToolSet] = []

    def search(query: str = "blade runner", **settings: float) -> tuple[str, bool]:
        if settings or not tool_sets:
            tool_sets.append(ToolSet([WikipediaSearch(tmp_path, wiki.url, **settings).tool]))  # type: ignore[arg-type]
        observation = tool_sets[-1].run(tool_sets[-1].call("search_wikipedia", query=query), CONTEXT)
        return observation.text, observation.failed

    return search


def test_summaries_are_shown_best_first(look: Look) -> None:
    assert look() == ("- Blade Runner: A 1982 film by Scott.\n- Android: An android is a robot.", False)


def test_request_searches_for_plain_text_introductions(look: Look, wiki: Wiki) -> None:
    look("  blade\n runner ")
    (requests,) = wiki.requests
    expected = {
        "action": "query",
        "generator": "search",
        "gsrsearch": "blade runner",
        "gsrlimit": "3",
        "prop": "extracts",
        "exintro": "1",
        "explaintext": "1",
        "format": "json",
        "formatversion": "2",
    }
    assert {name: requests[name] for name in expected} == expected
    assert wiki.agents[0].startswith("personaagent/")


def test_query_is_not_in_addresses_logs_or_cache_files(
    look: Look, wiki: Wiki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wiki.script = [Reply(status=503, headers={"Retry-After": "0"}), Reply()]
    look("zebraword")
    assert len(wiki.requests) == 2
    assert wiki.paths == ["/w/api.php"] * 2
    assert "zebraword" not in caplog.text
    assert "/w/api.php" in caplog.text
    stored = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert stored
    assert not any(b"zebraword" in path.read_bytes() for path in stored)


def test_query_of_any_script_is_sent_even_with_half_a_surrogate_pair(look: Look, wiki: Wiki) -> None:
    assert not look("зелёный чай 🍵")[1]
    assert not look("tea \ud83d")[1]
    assert [request["gsrsearch"] for request in wiki.requests] == ["зелёный чай 🍵", "tea \ufffd"]


def test_repeated_search_makes_no_request(look: Look, wiki: Wiki) -> None:
    assert look() == look()
    assert look("  blade runner ") == look()
    assert len(wiki.requests) == 1


def test_cache_is_shared_by_later_objects(look: Look, wiki: Wiki) -> None:
    first = look()
    assert look(timeout=4.0) == first
    assert len(wiki.requests) == 1


def test_expired_replies_are_requested_again(look: Look, wiki: Wiki) -> None:
    look(keep=0.01)
    time.sleep(0.02)
    look()
    assert len(wiki.requests) == 2


def test_cache_folder_is_private(look: Look, tmp_path: Path) -> None:
    look()
    assert stat.S_IMODE((tmp_path / "wikipedia").stat().st_mode) == 0o700


def test_articles_share_the_length_limit_and_long_queries_are_cut(look: Look, wiki: Wiki) -> None:
    pages = [{"title": f"T{n}", "index": n, "extract": "long " * 500} for n in (1, 2, 3)]
    wiki.script = [Reply({"query": {"pages": pages}})]
    text, _ = look("word " * 200, max_chars=90)
    assert [len(line) for line in text.splitlines()] == [29, 29, 29]
    assert len(wiki.requests[0]["gsrsearch"]) == 300


def test_empty_search_says_so_and_is_cached(look: Look, wiki: Wiki) -> None:
    wiki.script = [Reply(NO_PAGES)]
    assert look() == ("Wikipedia has no article on that.", False)
    look()
    assert len(wiki.requests) == 1


def test_empty_query_makes_no_request(look: Look, wiki: Wiki) -> None:
    assert look(" \n") == ("The Wikipedia search needs at least one word.", True)
    assert wiki.requests == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_server_is_retried(look: Look, wiki: Wiki, status: int) -> None:
    wiki.script = [Reply("busy", status, {"Retry-After": "0"}), Reply("busy", status), Reply()]
    assert look()[1] is False
    assert len(wiki.requests) == 3


def test_retries_are_limited(look: Look, wiki: Wiki) -> None:
    wiki.script = [Reply("busy", 503, {"Retry-After": "0"})]
    text, failed = look()
    assert text == "Wikipedia could not be reached (it answered with status 503). Go on without it."
    assert failed
    assert len(wiki.requests) == 3


def test_long_retry_after_is_not_waited_for(look: Look, wiki: Wiki) -> None:
    wiki.script = [Reply("busy", 429, {"Retry-After": "120"})]
    started = time.perf_counter()
    assert "status 429" in look()[0]
    assert time.perf_counter() - started < 30
    assert len(wiki.requests) == 1


def test_slow_reply_times_out(look: Look, wiki: Wiki) -> None:
    wiki.script = [Reply(delay=0.6)]
    started = time.perf_counter()
    text, failed = look(timeout=0.2)
    assert text == "Wikipedia could not be reached (no answer in time). Go on without it."
    assert failed
    assert time.perf_counter() - started < 30


@pytest.mark.parametrize("body", ["<html>Please log in</html>", '{"query": {"pages": [', ""])
def test_reply_that_is_not_json_is_a_failure(look: Look, wiki: Wiki, body: str) -> None:
    wiki.script = [Reply(body)]
    assert look() == ("Wikipedia could not be reached (its answer cannot be read). Go on without it.", True)


def test_rejected_search_does_not_block_the_next(look: Look, wiki: Wiki) -> None:
    wiki.script = [Reply({"error": {"code": "srsearch-text-disabled", "info": "no"}}), Reply()]
    assert look() == ("Wikipedia refused the search (srsearch-text-disabled).", True)
    assert look()[1] is False


def test_only_the_first_search_without_a_network_tries_to_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}/w/api.php"
        tools = ToolSet([WikipediaSearch(tmp_path, closed).tool])
        first = tools.run(tools.call("search_wikipedia", query="one"), CONTEXT)
        second = tools.run(tools.call("search_wikipedia", query="two"), CONTEXT)
    assert first.text == "Wikipedia could not be reached (no connection). Go on without it."
    assert re.search(r"not tried again for \d+ s", second.text)
    assert first.failed
    assert second.failed


def test_cache_answers_during_the_pause_and_requests_resume_after_it(
    look: Look, wiki: Wiki, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("program.tools.search_wikipedia.time", clock)
    wiki.script = [Reply(), Reply("", 404), Reply()]
    cached = look("cached", pause=60)
    assert "status 404" in look("new")[0]
    assert "not tried again" in look("new")[0]
    assert look("cached") == cached
    now = 61.0
    assert look("new")[1] is False


async def test_arun_searches_in_a_thread(wiki: Wiki, tmp_path: Path) -> None:
    tools = ToolSet([WikipediaSearch(tmp_path, wiki.url).tool])
    observation = await tools.arun(tools.call("search_wikipedia", query="blade runner"), CONTEXT)
    assert observation.text.startswith("- Blade Runner")
    assert tools.tools["search_wikipedia"].blocking


def test_search_is_thread_safe(wiki: Wiki, tmp_path: Path) -> None:
    tools = ToolSet([WikipediaSearch(tmp_path, wiki.url).tool])
    failed: list[str] = []

    def work(number: int) -> None:
        observation = tools.run(tools.call("search_wikipedia", query=f"film {number % 4}"), CONTEXT)
        if observation.failed:
            failed.append(observation.text)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failed == []
    assert 4 <= len(wiki.requests) <= 12


@pytest.mark.parametrize("url", ["en.wikipedia.org", "ftp://x/w/api.php", "https://en.wikipedia.org/wiki/"])
def test_invalid_base_url_raises_config_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="`base_url` must be"):
        WikipediaSearch(tmp_path, url)


def test_unwritable_cache_folder_is_a_failed_observation(wiki: Wiki, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the place of the folder")
    tools = ToolSet([WikipediaSearch(tmp_path / "cache", wiki.url).tool])
    observation = tools.run(tools.call("search_wikipedia", query="x"), CONTEXT)
    assert observation.failed
    assert observation.text.startswith("search_wikipedia failed: ")
    assert wiki.requests == []


@pytest.mark.parametrize("reply", [{"batchcomplete": True}, {"query": {}}, {"query": {"pages": []}}])
def test_reply_without_pages_is_an_empty_search(look: Look, wiki: Wiki, reply: object) -> None:
    wiki.script = [Reply(reply)]
    assert look() == ("Wikipedia has no article on that.", False)


def test_page_without_an_extract_shows_its_title(look: Look, wiki: Wiki) -> None:
    wiki.script = [Reply({"query": {"pages": [{"title": "Stub", "index": 1}]}})]
    assert look() == ("- Stub:", False)


def test_failed_search_is_not_cached(look: Look, wiki: Wiki) -> None:
    wiki.script = [Reply("busy", 404), Reply()]
    assert look(pause=0.0)[1] is True
    assert look()[1] is False


def test_client_error_is_not_retried(look: Look, wiki: Wiki) -> None:
    wiki.script = [Reply("forbidden", 403)]
    assert "status 403" in look()[0]
    assert len(wiki.requests) == 1


def test_number_of_retries_is_a_setting(look: Look, wiki: Wiki) -> None:
    wiki.script = [Reply("busy", 503, {"Retry-After": "0"})]
    look(retries=0)
    assert len(wiki.requests) == 1


def test_cache_separates_wikis_and_lengths(wiki: Wiki, tmp_path: Path) -> None:
    for max_chars in (100, 200, 100):
        WikipediaSearch(tmp_path, wiki.url, max_chars=max_chars).search_wikipedia("x")
    assert len(wiki.requests) == 2
