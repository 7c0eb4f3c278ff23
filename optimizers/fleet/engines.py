"""Which engine runs alignments: durable if dbos is installed, else in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from optimizers.contracts import Journal
from optimizers.journal import MemoryJournal
from program.errors import ConfigError
from program.store import UserStore


class FleetEngine(Protocol):
    """Runs alignments with a journal each."""

    async def run(self, user_id: str, key: str, work: Callable[[Journal], Awaitable[None]]) -> None:
        """Run an attempt with the pieces of those before it at the same work; the user's lock is held."""
        ...


class MemoryEngine:
    """Keeps the pieces of attempts that failed for as long as it is open."""

    def __init__(self) -> None:
        self._journals: dict[tuple[str, str], MemoryJournal] = {}

    async def run(self, user_id: str, key: str, work: Callable[[Journal], Awaitable[None]]) -> None:
        """Run an attempt."""
        journal = self._journals.setdefault((user_id, key), MemoryJournal())
        await work(journal)
        del self._journals[user_id, key]


def is_durable() -> bool:
    """Return whether dbos is installed."""
    return find_spec("dbos") is not None


def check_durable() -> None:
    """Raise if dbos is not installed.

    Raises:
        ConfigError: It is not.
    """
    if not is_durable():
        raise ConfigError("durable alignments need the extra `fleet`: pip install 'personaagent[fleet]'")


@contextmanager
def open_engine(store: UserStore, home: Path) -> Iterator[FleetEngine]:
    """Open the best engine there is."""
    if not is_durable():
        yield MemoryEngine()
        return
    from optimizers.fleet.engine import open_durable

    with open_durable(store, home) as engine:
        yield engine


@contextmanager
def open_tables(store: UserStore, home: Path) -> Iterator[Any]:
    """Open the tables of the durable engine, to read them or to delete from them.

    Raises:
        ConfigError: dbos is not installed.
    """
    check_durable()
    from optimizers.fleet.engine import open_durable

    with open_durable(store, home) as engine:
        yield engine
