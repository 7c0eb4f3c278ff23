"""Weave's own client gets the same answers in process and over HTTP, on every route that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from program.tracing.server.http_server import TraceServer
from program.tracing.server.routes import Response
from program.tracing.server.trace_store import TraceStore

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("trace_contract_script.py")
KEY = "k" * 40
EXPECTED = {
    "calls": {
        "count": 6,
        "names": ["by-hand", "leaf", "leaf", "leaf", "leaf", "tree"],
        "below": [[0, "success"], [1, "success"], [2, "error"], [3, "success"]],
        "same trace": True,
        "attributes": ["u1", "user:u1", 1],
        "root": ["the tree", 3, "descendant_error"],
        "usage": {"requests": 3, "prompt_tokens": 40, "completion_tokens": 3},
        "cost": 20.0,
        "error": "two is too many",
        "failed": [2],
        "high": [0.5],
        "sorted": [3, 2, 1, 0],
        "columns": [{"score": 0.5}],
        "text": True,
        "feedback": ["custom", "wandb.note.1", "wandb.reaction.1"],
        "costs left": 0,
        "after deletion": 5,
    },
    "evaluation": {
        "right": {"true_count": 1, "true_fraction": 0.5},
        "evaluations": "imperative",
        "scored": 2,
    },
    "objects": {
        "content": ["You are A", "You are B", "You are B", "You are B"],
        "again": True,
        "latest": "You are A",
        "rows": [{"a": n, "q": f"q{n}"} for n in range(3)],
        "row": 1,
        "rows after": 4,
        "big": [1500, 1499],
        "tags": [[], ["best"], ["aligned"]],
        "deleted": True,
    },
}


class RecordingStore(TraceStore):
    """Records the method, path and status of each request."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.requests: list[tuple[str, str, int]] = []

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        response = super().handle(method, path, headers, body)
        self.requests.append((method, path.split("?")[0], response.status))
        return response


@contextmanager
def served(store: TraceStore) -> Iterator[TraceServer]:
    with TraceServer(store, key=KEY) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def run(*arguments: str, **env: str) -> Any:
    process = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    answers = json.loads(process.stdout.splitlines()[-1])
    digests = answers["objects"].pop("digests")
    return answers, digests


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run("in-process", str(tmp_path_factory.mktemp("own") / "t.db"))


def test_in_process_client_reads_back_what_it_wrote(in_process: Any) -> None:
    assert in_process[0] == EXPECTED


def test_http_server_gives_weave_init_the_same_answers(in_process: Any, tmp_path: Path) -> None:
    store = RecordingStore(tmp_path / "t.db")
    with served(store) as server:
        answers = run("http", WANDB_BASE_URL=server.address, WANDB_API_KEY=KEY)
    assert answers == in_process
    # The script reads a deleted object, which the client tries three times.
    assert {entry for entry in store.requests if entry[2] != 200} <= {("POST", "/traces/obj/read", 404)}
    assert len({path for _, path, _ in store.requests}) >= 20
    store.close()
