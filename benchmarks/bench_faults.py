"""Fault campaign: every kind of bad reply against every command that calls a model.

    .venv/bin/python benchmarks/bench_faults.py [--kinds null,html] [--commands ask,align] [--markdown]

A loopback server speaks OpenAI's chat API and answers each request with one kind of fault; the real
command line runs against it in a home of its own. For each pair the script checks: no traceback, no
hang, a documented exit code, no unusable text in the store or in the scored answers, an intact store,
and a count of calls that is the server's. It ends with status 1 if any check fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMAND = str(Path(sys.executable).with_name("personaagent"))
LONGEST = 60.0
"""Seconds after which a command counts as hanging."""
PERSONA = "You help someone who likes tea. Use two tools before you answer."
FEEDBACK = "Mention tea, and keep the answer to one word."
PROFILE = "This user likes tea."
MARKS = (
    "<think>",
    "</think>",
    "<html",
    "<!doctype",
    "I cannot help",
    "\x00",
    "\ud83d",
    "```",
    "\ufffd\ufffd",
    "\x1b",
)
"""What no stored or scored text may hold."""


@dataclass(frozen=True)
class Reply:
    """What the server sends: a status, headers, and a body, or raw bytes after which it hangs up."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    delay: float = 0.0


def asked_for(body: dict[str, Any]) -> str:
    """Return what a request wants: persona, feedback, profile, step or answer."""
    text = str(body["messages"][-1]["content"])
    for words, name in (
        ("write the new system prompt", "persona"),
        ("write the feedback", "feedback"),
        ("write the profile", "profile"),
        ("[[ ## tools ## ]]", "step"),
    ):
        if words in text:
            return name
    return "answer"


def good(body: dict[str, Any], answer: str = "tea") -> str:
    """Return a good reply in the form that the request asks for."""
    wanted = asked_for(body)
    texts = {"persona": PERSONA, "feedback": FEEDBACK, "profile": PROFILE}
    if wanted in texts:
        return texts[wanted]
    action = {"thought": "t", "action": {"tool": "finish", "answer": answer}}
    fields = {"answer": answer} if wanted == "answer" else action
    if "response_format" in body:
        return json.dumps(fields)
    if "[[ ##" not in str(body["messages"]) or "Now write the answer" in str(body["messages"]):
        return answer
    parts = [
        f"[[ ## {name} ## ]]\n{value if isinstance(value, str) else json.dumps(value)}"
        for name, value in fields.items()
    ]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


USAGE = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}


def chat(content: Any, *, finish: str = "stop", usage: Any = USAGE, **message: Any) -> Reply:
    """Return a reply of OpenAI's chat API."""
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": content, **message},
    }
    data = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return Reply(data if usage is None else {**data, "usage": usage})


def error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """Return an error in OpenAI's form."""
    kind = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Reply({"error": kind}, status, {name.replace("_", "-"): value for name, value in headers.items()})


Kind = Callable[[dict[str, Any], int], Reply]
"""From a request and its number to the reply."""


def always(reply: Reply) -> Kind:
    """Return a kind that sends the same reply each time."""
    return lambda body, number: reply


def wrapped(around: str) -> Kind:
    """Return a kind that puts ``around`` around a good reply (``@`` stands for it)."""
    return lambda body, number: chat(around.replace("@", good(body)))


def refuse_if(broken: Callable[[dict[str, Any]], bool], reply: Reply) -> Kind:
    """Return a kind that refuses some requests and answers the others well."""
    return lambda body, number: reply if broken(body) else chat(good(body))


def schema(body: dict[str, Any]) -> bool:
    return (body.get("response_format") or {}).get("type") == "json_schema"


HTML = "<!DOCTYPE html><html><head><title>502</title></head><body><h1>Bad gateway</h1></body></html>"
KINDS: dict[str, Kind] = {
    "good": lambda body, number: chat(good(body)),
    "null content": always(chat(None)),
    "empty content": always(chat("")),
    "blank content": always(chat(" \n\t ")),
    "no message": always(Reply({"id": "c", "object": "chat.completion", "choices": [{"index": 0}]})),
    "no choices": always(Reply({"id": "c", "object": "chat.completion", "choices": []})),
    "choices missing": always(Reply({"id": "c", "object": "chat.completion"})),
    "choices null": always(Reply({"id": "c", "object": "chat.completion", "choices": None})),
    "body is a list": always(Reply([1, 2, 3])),
    "body is a number": always(Reply(7)),
    "body is empty": always(Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")),
    "body is HTML": always(
        Reply(
            raw=f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n"
            f"content-length: {len(HTML)}\r\n\r\n{HTML}".encode()
        )
    ),
    "body is cut": always(Reply(raw=b'HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"id": "c", "choi')),
    "hangs up": always(Reply(raw=b"")),
    "garbage on the line": always(Reply(raw=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")),
    "wrong encoding": always(
        Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd")
    ),
    "redirect": always(Reply({}, 302, {"location": "http://127.0.0.1:9/elsewhere"})),
    "event stream": always(
        Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: [DONE]\n\n")
    ),
    "500": always(error(500, "internal error")),
    "502 HTML": always(
        Reply(raw=f"HTTP/1.1 502 Bad Gateway\r\ncontent-length: {len(HTML)}\r\n\r\n{HTML}".encode())
    ),
    "503 for an hour": always(error(503, "overloaded", retry_after="3600")),
    "429 once": lambda body, number: (
        error(429, "slow down", "rate_limit_exceeded", retry_after="1") if number == 0 else chat(good(body))
    ),
    "429 for an hour": always(error(429, "slow down", "rate_limit_exceeded", retry_after="3600")),
    "401": always(error(401, "Incorrect API key provided: sk-lo***ack", "invalid_api_key")),
    "402": always(error(402, "insufficient credit", "insufficient_quota")),
    "403": always(error(403, "forbidden", "forbidden")),
    "404 model": always(error(404, "The model `m` does not exist", "model_not_found")),
    "400 too long": always(
        error(400, "This model's maximum context length is 8192 tokens", "context_length_exceeded")
    ),
    "400 filtered": always(error(400, "filtered due to the content management policy", "content_filter")),
    "400 other": always(error(400, "messages: invalid", "invalid_value")),
    "schema refused": refuse_if(schema, error(400, "This response_format type is unavailable now")),
    "any format refused": refuse_if(
        lambda body: "response_format" in body, error(400, "'response_format' is not supported by this model")
    ),
    "temperature refused": refuse_if(
        lambda body: body.get("temperature") not in (None, 1),
        error(
            400, "Unsupported value: 'temperature' does not support 0.7 with this model.", "unsupported_value"
        ),
    ),
    "max_tokens refused": refuse_if(
        lambda body: "max_tokens" in body,
        error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
    ),
    "cut by length": lambda body, number: chat(good(body)[:8], finish="length"),
    "filtered finish": always(chat(None, finish="content_filter")),
    "refusal field": always(chat(None, refusal="I cannot help with that request.")),
    "refusal text": always(chat("I cannot help with that request.")),
    "thoughts before": wrapped("<think>The user wants something.</think>\n\n@"),
    "thoughts unclosed": always(chat("<think>The user wants something, let me think about")),
    "thoughts apart": lambda body, number: chat(good(body), reasoning_content="The user wants something."),
    "only thoughts apart": always(chat(None, reasoning_content="The user wants something.")),
    "fenced": wrapped("```\n@\n```"),
    "fenced with chat": wrapped(
        "Sure! Here is the answer:\n\n```json\n@\n```\n\nLet me know if you need more."
    ),
    "HTML content": always(chat(HTML)),
    "JSON error content": always(chat('{"error": {"message": "overloaded", "code": 529}}')),
    "the word None": always(chat("None")),
    "NUL bytes": wrapped("\x00@\x00"),
    "half surrogate": lambda body, number: chat(good(body, answer="I like \ud83d cakes")),
    "terminal escapes": lambda body, number: chat(good(body, answer="\x1b]52;c;aGk=\x07tea\x1b[2J")),
    "noise": always(chat("\ufffd\ufffd}}}}]]]\ufffd&&&&")),
    "one word for ever": always(chat("tea " * 3000)),
    "a megabyte": always(chat("lorem ipsum " * 90_000)),
    "deep JSON": always(chat("[" * 60_000)),
    "content is a number": always(chat(7)),
    "content is an object": always(chat({"text": "tea"})),
    "content in parts": lambda body, number: chat([{"type": "text", "text": good(body)}]),
    "tool calls instead": always(
        chat(None, tool_calls=[{"id": "1", "type": "function", "function": {"name": "x", "arguments": "{"}}])
    ),
    "unknown tool": always(chat('{"thought": "t", "action": {"tool": "launch", "target": "moon"}}')),
    "wrong arguments": always(chat('{"thought": "t", "action": {"tool": "search_memory", "query": [1]}}')),
    "markers in a thought": lambda body, number: chat(
        '[[ ## thought ## ]]\nsee [[ ## action ## ]]\n{"tool": "none"}\n[[ ## action ## ]]\n' + good(body)
    ),
    "no usage": lambda body, number: chat(good(body), usage=None),
    "null usage": lambda body, number: chat(
        good(body), usage={"prompt_tokens": None, "completion_tokens": None}
    ),
    "negative usage": lambda body, number: chat(
        good(body), usage={"prompt_tokens": -5, "completion_tokens": -5, "total_tokens": -10}
    ),
    "usage of words": lambda body, number: chat(
        good(body), usage={"prompt_tokens": "many", "completion_tokens": "few", "total_tokens": "some"}
    ),
    "every second reply bad": lambda body, number: chat(good(body) if number % 2 else None),
}
COMMANDS = ("ask", "align", "first align", "eval run")


class Server:
    """A provider on loopback that answers with one kind of reply and counts its requests."""

    def __init__(self, kind: Kind) -> None:
        self.requests = 0
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
                with lock:
                    number, outer.requests = outer.requests, outer.requests + 1
                reply = kind(body, number)
                time.sleep(reply.delay)
                with contextlib.suppress(OSError):
                    if reply.raw is not None:
                        self.wfile.write(reply.raw)
                        self.close_connection = True
                        return
                    content = json.dumps(reply.body).encode()
                    self.send_response(reply.status)
                    for name, value in {"content-type": "application/json", **reply.headers}.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@dataclass
class Outcome:
    """What a command did under one kind of fault."""

    kind: str
    command: str
    code: int | None
    seconds: float
    requests: int
    problems: list[str]
    line: str


def run(
    home: Path, *arguments: object, address: str = "http://127.0.0.1:9/v1"
) -> tuple[int | None, str, str]:
    """Run the command line; the exit code is ``None`` if it hangs."""
    environment = {
        **os.environ,
        "PERSONAAGENT_HOME": str(home),
        "OPENAI_API_BASE": address,
        "OPENAI_BASE_URL": address,
        "OPENAI_API_KEY": "sk-loopback",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    try:
        done = subprocess.run(
            [COMMAND, *map(str, arguments)],
            env=environment,
            capture_output=True,
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, "", ""
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def arguments_of(command: str, folder: Path) -> tuple[object, ...]:
    """Return the command line of a command."""
    model = ("--model", "openai/gpt-4o-mini")
    if command == "eval run":
        where = ("--task", "LaMP-4", "--data", folder / "data", "--method", "direct,personaagent")
        return ("eval", "run", *where, "--out", folder / "run", "--set", "wikipedia=false", *model)
    words = ("ask", "ana", "a drink?") if command == "ask" else ("align", "ana")
    return (*words, "--no-wikipedia", *model)


def make_template(folder: Path, command: str) -> None:
    """Make the folder that every run of a command starts from: a home with one user, and data."""
    home = folder / "home"
    home.mkdir(parents=True)
    rows = [{"user_id": "ana", "query": f"drink {n}?", "response": "tea"} for n in range(4)]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, _, err = run(home, "users", "import", folder / "history.jsonl")
    if code != 0:
        raise SystemExit(f"cannot prepare the store: {err}")
    profile = [{"id": f"1{n}", "title": "Milk is dear", "text": "Milk costs more."} for n in range(3)]
    ask = "Generate a headline for the following article: Bread is dear."
    data = folder / "data"
    data.mkdir()
    questions = [{"id": f"{n}0", "input": ask, "profile": profile} for n in (1, 2)]
    golds = {"task": "LaMP_4", "golds": [{"id": f"{n}0", "output": "Bread costs more"} for n in (1, 2)]}
    (data / "dev_questions.json").write_text(json.dumps(questions), encoding="utf-8")
    (data / "dev_outputs.json").write_text(json.dumps(golds), encoding="utf-8")
    if command == "align":
        # A persona and a profile exist already, from a healthy provider.
        server = Server(KINDS["good"])
        run(home, *arguments_of("ask", folder), address=server.address)
        server.close()


def texts_of(home: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield every text of a model that was stored or scored."""
    path = home / "users.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        for table, column in (("personas", "text"), ("profiles", "profile"), ("steps", "data")):
            for (value,) in db.execute(f"SELECT {column} FROM pa_{table}"):
                yield from ((table, text) for text in _strings(value))
    answers = folder / "run" / "answers.jsonl"
    if answers.exists():
        for line in answers.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record.get("text") is not None:
                yield "scored answer", record["text"]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            loaded = json.loads(value)
            if not isinstance(loaded, str | int | float):
                yield from _strings(loaded)
                return
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def attempt(kind: str, command: str, template: Path) -> Outcome:
    """Run one command under one kind of fault and check what it left."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "copy"
        shutil.copytree(template, folder)
        home, arguments = folder / "home", arguments_of(command, folder)
        server = Server(KINDS[kind])
        started = time.perf_counter()
        code, out, err = run(home, *arguments, address=server.address)
        seconds = time.perf_counter() - started
        server.close()
        problems = []
        if code is None:
            problems.append("hangs")
        elif code not in (0, 1, 2, 3, 4):
            problems.append(f"exit code {code}")
        if "Traceback (most recent call last)" in out + err:
            problems.append("traceback")
        if any(control in out + err for control in ("\x1b]", "\x1b[2J", "\x07")):
            problems.append("controls on the terminal")
        with contextlib.closing(sqlite3.connect(home / "users.db")) as db:
            if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                problems.append("store damaged")
            if db.execute("SELECT count(*) FROM pa_interactions").fetchone() != (4,):
                problems.append("interactions lost")
            if db.execute("SELECT count(*) FROM pa_alignments WHERE status = 'running'").fetchone() != (0,):
                problems.append("alignment left running")
        for place, text in texts_of(home, folder):
            low = text.lower()
            if any(mark.lower() in low for mark in MARKS) or (
                place not in ("steps", "profiles") and low.strip() in ("", "none")
            ):
                problems.append(f"unusable text in {place}: {text[:40]!r}")
                break
        lines = [line for line in err.strip().splitlines() if line.strip()]
        return Outcome(
            kind, command, code, seconds, server.requests, problems, lines[-1][:150] if lines else ""
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--markdown", action="store_true", help="print a table of all outcomes")
    options = parser.parse_args()
    pairs = [(kind, command) for kind in options.kinds.split(",") for command in options.commands.split(",")]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.workers) as pool:
        templates = {command: Path(name) / command for command in options.commands.split(",")}
        for command, template in templates.items():
            make_template(template, command)
        if options.markdown:
            print("| reply | command | exit | requests | seconds | problems | last line |")
            print("|---|---|--:|--:|--:|---|---|", flush=True)
        outcomes = []
        for o in pool.map(lambda pair: attempt(pair[0], pair[1], templates[pair[1]]), pairs):
            outcomes.append(o)
            if options.markdown:
                line = o.line.replace("|", "/")
                print(
                    f"| {o.kind} | {o.command} | {o.code} | {o.requests} | {o.seconds:.1f} "
                    f"| {'; '.join(o.problems) or '-'} | {line} |",
                    flush=True,
                )
    for o in outcomes:
        if o.problems:
            print(f"PROBLEM {o.kind} x {o.command}: {'; '.join(o.problems)} (exit {o.code}; {o.line})")
    bad = sum(bool(o.problems) for o in outcomes)
    slowest = max(outcomes, key=lambda o: o.seconds)
    print(
        f"{len(KINDS)} kinds of replies, {len(outcomes)} runs, {bad} with problems, "
        f"{sum(o.code is None for o in outcomes)} hangs, slowest {slowest.seconds:.0f} s "
        f"({slowest.kind} x {slowest.command}), {time.perf_counter() - started:.0f} s in all"
    )
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
