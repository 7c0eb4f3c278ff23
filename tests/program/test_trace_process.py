"""Tests with whole processes: network use, kills, exits, and the HTTP server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from program.tracing.server.http_server import TraceServer
from program.tracing.server.trace_store import TraceStore
from program.tracing.setup import LOCAL_PROJECT, open_tracer, store_path

ROOT = Path(__file__).parents[2]
KEY = "k" * 40

RECORD_CONNECTIONS = """
    import atexit, json, socket, sys
    calls = []
    def record(name):
        real = getattr(socket, name)
        def recorded(*a, **k):
            calls.append(name)
            return real(*a, **k)
        setattr(socket, name, recorded)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        record(name)
    class RecordedSocket(socket.socket):
        def connect(self, *a):
            calls.append("connect")
            return super().connect(*a)
        connect_ex = connect
    socket.socket = RecordedSocket
    atexit.register(lambda: print(json.dumps(calls)))
"""


def script(body: str) -> str:
    return textwrap.dedent(body)


def run(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "WEAVE"))}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**clean, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def served(path: Path) -> Iterator[tuple[TraceServer, TraceStore]]:
    store = TraceStore(path)
    with TraceServer(store, key=KEY) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server, store
        finally:
            server.shutdown()
            thread.join()
            store.close()


TRACED = """
    import sys
    from pathlib import Path
    import dspy
    from program.models.scripted import scripted_lm
    from program.spans import about, span
    from program.tracing.setup import open_tracer
    lm = scripted_lm(lambda system, user: "[[ ## answer ## ]]\\nyes\\n\\n[[ ## completed ## ]]")
    with open_tracer(sys.argv[1], home=Path(sys.argv[2])), dspy.context(lm=lm), about(user_id="ana"):
        with span("align"), span("step", number=1) as trace:
            dspy.Predict("question -> answer")(question="a question")
            trace.output(step={"persona_before": "You are A", "persona_after": "You are B", "simulations": [
                {"interaction_id": "i1", "query": "q", "truth": "t"}]})
"""


def test_local_tracing_opens_no_connection_and_resolves_no_name(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    netrc.chmod(0o600)
    empty = tmp_path / "empty"
    empty.mkdir()
    process = run(
        f"import os; os.chdir({str(empty)!r})\n" + script(RECORD_CONNECTIONS) + script(TRACED),
        "local",
        str(tmp_path / "home"),
        NETRC=str(netrc),
        HOME=str(tmp_path / "user"),
        DSPY_CACHEDIR=str(tmp_path / "cache"),
        TMPDIR=str(temporary),
    )
    assert process.returncode == 0, process.stderr
    assert (json.loads(process.stdout), process.stderr) == ([], "")
    with_weave = [path for path in temporary.iterdir() if "weave" in path.name]
    assert (with_weave, list(empty.iterdir()), (tmp_path / "user").exists()) == ([], [], False)
    store = TraceStore(store_path(tmp_path / "home"))
    assert store.count(LOCAL_PROJECT) == 3
    store.close()


def test_importing_tracing_does_not_import_weave() -> None:
    code = "import sys, program.tracing, program.usage; print('weave' in sys.modules)"
    assert run(code).stdout == "False\n"


def test_killed_process_keeps_finished_spans_and_interrupts_open_ones(tmp_path: Path) -> None:
    code = script(
        """
        import sys, time
        from pathlib import Path
        from program.spans import span
        from program.tracing.setup import open_tracer
        with open_tracer("local", home=Path(sys.argv[1])):
            with span("align"), span("step", number=1):
                for n in range(1_000_000):
                    with span("simulate", n=n):
                        pass
                    print(n, flush=True)
        """
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        finished = [int(process.stdout.readline()) for _ in range(40)][-1]
        process.send_signal(signal.SIGKILL)
        finished = max([finished, *(int(line) for line in process.stdout.read().split()[:-1])])
    with open_tracer("local", home=tmp_path):
        pass
    store = TraceStore(store_path(tmp_path))
    calls = store.calls(LOCAL_PROJECT)
    store.close()
    complete = {
        c["inputs"]["n"] for c in calls if c["ended_at"] and not c["exception"] and "n" in c["inputs"]
    }
    assert complete >= set(range(finished + 1))
    kinds = [json.loads(call["exception"])["type"] for call in calls[:2]]
    assert kinds == ["Interrupted", "Interrupted"]
    assert all(call["ended_at"] for call in calls)


def test_process_with_an_open_tracer_exits_at_once(tmp_path: Path) -> None:
    code = script(
        """
        import sys
        from pathlib import Path
        from program.spans import span
        from program.tracing.setup import open_tracer
        opened = open_tracer(sys.argv[1], home=Path(sys.argv[2]))
        opened.__enter__()
        span("align").__enter__()
        sys.exit(3)
        """
    )
    with served(tmp_path / "t.db") as (server, _):
        env = {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": KEY}
        for destination in ("local", "wandb:me/mine"):
            process = run(code, destination, str(tmp_path / "home"), **env)
            assert (process.returncode, process.stderr) == (3, "")


def test_wandb_receives_the_same_trace_as_the_local_store(tmp_path: Path) -> None:
    with served(tmp_path / "remote.db") as (server, store):
        env = {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": KEY}
        process = run(script(TRACED), "wandb:me/mine", str(tmp_path / "home"), **env)
        assert (process.returncode, process.stderr) == (0, "")
        remote = store.calls("me/mine")
    assert not store_path(tmp_path / "home").exists()
    process = run(script(TRACED), "local", str(tmp_path / "home"))
    local_store = TraceStore(store_path(tmp_path / "home"))
    local = local_store.calls(LOCAL_PROJECT)
    local_store.close()

    def comparable(calls: list[dict[str, Any]]) -> list[Any]:
        places = {call["id"]: n for n, call in enumerate(calls)}
        return [
            (
                call["summary"]["weave"]["trace_name"],
                places.get(call["parent_id"]),
                call["attributes"]["user_id"],
                call["inputs"].get("messages"),
                # A dataset names its table with the project, so its digest differs.
                re.sub('interactions-(.*):.*?"', "", json.dumps(call["output"])).replace(
                    "me/mine", LOCAL_PROJECT
                ),
                call["summary"]["weave"]["status"],
            )
            for call in calls
        ]

    assert comparable(remote) == comparable(local)
    assert len(remote) == 3


def test_wandb_without_a_key_is_rejected_before_any_request(tmp_path: Path) -> None:
    process = run(
        script(RECORD_CONNECTIONS) + script(TRACED), "wandb:me/mine", str(tmp_path), HOME=str(tmp_path)
    )
    assert "ConfigError: 'wandb:me/mine' needs a key: set WANDB_API_KEY" in process.stderr
    assert json.loads(process.stdout) == []


def test_unreachable_wandb_warns_once_and_traces_locally(tmp_path: Path) -> None:
    env = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": KEY}
    process = run(script(TRACED), "wandb:me/mine", str(tmp_path), **env)
    assert process.returncode == 0
    assert process.stderr.count("W&B cannot be reached") == 1
    store = TraceStore(store_path(tmp_path))
    assert store.count(LOCAL_PROJECT) == 3
    store.close()


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, "/call/read", 401),
        ({"Authorization": "Bearer wrong"}, "/call/read", 401),
        ({"Authorization": "Basic %%%"}, "/call/read", 401),
        ({"Authorization": f"Bearer {KEY}"}, "/call/read", 200),
        ({"Authorization": f"Bearer {KEY}", "Host": "evil.example"}, "/call/read", 403),
        ({}, "/view/users", 401),
    ],
)
def test_server_requires_the_key_and_a_loopback_host_name(
    tmp_path: Path, headers: dict[str, str], path: str, status: int
) -> None:
    import httpx

    with served(tmp_path / "t.db") as (server, _), httpx.Client(trust_env=False) as client:
        body = json.dumps({"project_id": "a/b", "id": "x"}).encode()
        method = "GET" if path.startswith("/view") else "POST"
        sent = {"content-type": "application/json", **headers}
        assert client.request(method, server.address + path, content=body, headers=sent).status_code == status


def test_dying_server_neither_stops_the_run_nor_delays_its_exit(tmp_path: Path) -> None:
    serving = script(
        """
        import sys
        from pathlib import Path
        from program.tracing.server.http_server import TraceServer
        from program.tracing.server.trace_store import TraceStore
        server = TraceServer(TraceStore(Path(sys.argv[1])), key=sys.argv[2])
        print(server.address, flush=True)
        server.serve_forever()
        """
    )
    code = script(
        """
        import sys, time
        from pathlib import Path
        from program.spans import about, span
        from program.tracing.setup import open_tracer
        with open_tracer("wandb:me/mine", home=Path(sys.argv[1])), about(user_id="ana"):
            with span("align"):
                print("ready", flush=True)
                sys.stdin.readline()
                for n in range(100):
                    with span("step", number=n) as trace:
                        trace.output(step={"persona_before": f"a{n}", "persona_after": f"b{n}"})
        """
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", serving, str(tmp_path / "t.db"), KEY]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        env |= {"WANDB_BASE_URL": server.stdout.readline().strip(), "WANDB_API_KEY": KEY}
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", code, str(tmp_path / "home")]
        with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as traced:
            assert traced.stdout is not None
            assert traced.stdout.readline() == "ready\n"
            server.kill()
            server.wait()
            _, errors = traced.communicate("go\n", timeout=180)
    assert traced.returncode == 0
    assert errors.count("tracing failed (APIConnectionError); the run goes on without its trace") == 1
    assert "Traceback" not in errors
