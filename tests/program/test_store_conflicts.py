"""PostgreSQL: transactions that conflict run again, and a server without a free connection is asked again."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, create_engine, make_url
from sqlalchemy.exc import OperationalError

from program.errors import StoreError, StoreUnavailableError
from program.memory.interaction import Interaction
from program.store import UserStore, retries

WRITERS = 24


def interaction(name: str) -> Interaction:
    return Interaction(id=name, user_id="ann", query="q", response="r")


@pytest.fixture
def url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def store(url: str) -> Iterator[UserStore]:
    with UserStore(url, pool_size=WRITERS) as store:
        store.add_user("ann", task="free-text")
        store.add_user("bob", task="free-text")
        yield store


@pytest.fixture
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "TRIES", 3)
    monkeypatch.setattr(retries, "_LONGEST_WAIT", 0.02)


def set_default(url: str, setting: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{make_url(url).database}" SET {setting}')
    engine.dispose()


def write_together(store: UserStore) -> Counter[str]:
    """Let many threads append to one user; return how many succeeded, or failed with which error."""
    start = threading.Barrier(WRITERS)

    def write(number: int) -> str:
        start.wait()
        try:
            for n in range(3):
                store.append("ann", [interaction(f"{number}-{n}")])
        except Exception as error:  # noqa: BLE001 - the test counts every kind
            return f"{type(error).__name__}: {error}"
        return "stored"

    with ThreadPoolExecutor(WRITERS) as pool:
        return Counter(pool.map(write, range(WRITERS)))


def test_writers_succeed_on_a_server_whose_default_is_serializable(url: str) -> None:
    set_default(url, "default_transaction_isolation TO 'serializable'")
    with UserStore(url, pool_size=WRITERS) as store:
        store.add_user("ann", task="free-text")
        assert write_together(store) == {"stored": WRITERS}
        assert store.user("ann").interactions == 3 * WRITERS
        assert len(store.interactions("ann")) == 3 * WRITERS


@pytest.mark.parametrize("default", ["serializable", "read committed"])
def test_isolation_is_the_one_that_the_store_was_written_for(url: str, default: str) -> None:
    set_default(url, f"default_transaction_isolation TO '{default}'")
    with UserStore(url) as store:
        with store._database.read() as connection:
            reads = connection.exec_driver_sql("SHOW transaction_isolation").scalar()
        with store._database.write() as connection:
            writes = connection.exec_driver_sql("SHOW transaction_isolation").scalar()
    assert (reads, writes) == ("repeatable read", "read committed")


def test_serialization_failures_are_run_again_and_lose_no_update(store: UserStore) -> None:
    database = store._database
    database._writer = database.engine.execution_options(isolation_level="SERIALIZABLE")
    tries = Counter[str]()

    met = threading.Barrier(8)

    def append(connection: Connection, name: str) -> None:
        tries[name] += 1
        rows = connection.exec_driver_sql("SELECT settled FROM pa_users WHERE user_id = 'ann'").scalar_one()
        if tries[name] == 1:
            met.wait(timeout=60)  # all have read before one writes
        connection.exec_driver_sql("UPDATE pa_users SET settled = %s WHERE user_id = 'ann'", (rows + 1,))

    def write(number: int) -> None:
        database.change(lambda connection: append(connection, str(number)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT settled FROM pa_users WHERE user_id = 'ann'").scalar() == 8
    assert sum(tries.values()) >= 8 + 7


def lock_both(store: UserStore, met: threading.Barrier, first: str, second: str) -> int:
    runs = 0

    def work(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        connection.exec_driver_sql("SELECT 1 FROM pa_users WHERE user_id = %s FOR UPDATE", (first,))
        if runs == 1:
            met.wait(timeout=60)
        connection.exec_driver_sql("SELECT 1 FROM pa_users WHERE user_id = %s FOR UPDATE", (second,))
        return runs

    return store._database.change(work)


def test_transaction_that_ends_in_a_deadlock_is_run_again(store: UserStore) -> None:
    met = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(lock_both, store, met, "ann", "bob")
        two = pool.submit(lock_both, store, met, "bob", "ann")
        assert sorted((one.result(timeout=30), two.result(timeout=30))) == [1, 2]


def conflicting(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE pa_users SET settled = settled + 1")
    connection.exec_driver_sql("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$")


@pytest.mark.usefixtures("few_tries")
def test_endless_conflict_ends_in_one_clear_error_and_stores_nothing(store: UserStore) -> None:
    with pytest.raises(
        StoreUnavailableError, match=r"in the way \(a serialization failure.*nothing was stored, try again"
    ):
        store._database.change(conflicting)
    with store._database.read() as connection:
        assert connection.exec_driver_sql("SELECT sum(settled) FROM pa_users").scalar() == 0


def test_iterator_is_consumed_once_and_a_list_is_read_again(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from program.store import interactions

    runs = 0
    append = interactions.append

    def in_the_way(connection: Connection, *arguments: object) -> int:
        nonlocal runs
        runs += 1
        number = append(connection, *arguments)  # type: ignore[arg-type]
        if runs == 1:
            conflicting(connection)
        return number

    monkeypatch.setattr(interactions, "append", in_the_way)
    with pytest.raises(StoreUnavailableError, match="in the way"):
        store.append("ann", iter([interaction("1"), interaction("2")]))
    assert store.interactions("ann") == []
    runs = 0
    assert store.append("ann", [interaction("1"), interaction("2")]) == 2
    assert runs == 2


@pytest.mark.parametrize(
    ("statement", "error", "message"),
    [
        pytest.param(
            "INSERT INTO pa_users SELECT * FROM pa_users WHERE user_id = 'ann'",
            StoreError,
            "duplicate key",
            id="no conflict",
        ),
        pytest.param(
            "SELECT pg_terminate_backend(pg_backend_pid())",
            StoreUnavailableError,
            "is the database server running",
            id="lost connection, because the write may be stored",
        ),
    ],
)
def test_other_errors_are_not_run_again(
    store: UserStore, statement: str, error: type[StoreError], message: str
) -> None:
    runs = 0

    def work(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        connection.exec_driver_sql(statement)

    with pytest.raises(error, match=message):
        store._database.change(work)
    assert runs == 1
    assert store.user("ann").task == "free-text", "the store goes on with a new connection"


def test_read_sees_one_snapshot_and_cannot_write(store: UserStore) -> None:
    with store._database.read() as connection:
        count = "SELECT count(*) FROM pa_users"
        assert connection.exec_driver_sql(count).scalar() == 2
        store.add_user("cho", task="free-text")
        assert connection.exec_driver_sql(count).scalar() == 2
        with pytest.raises(Exception, match="read-only transaction"):
            connection.exec_driver_sql("DELETE FROM pa_users")


@pytest.fixture
def role(url: str) -> Iterator[str]:
    """The URL of the store's database for a user who gets two connections."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    name = f"personaagent_test_few_{os.getpid()}"  # roles are those of the whole server
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 2 PASSWORD 'few'")
        connection.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
        yield make_url(url).set(username=name, password="few").render_as_string(hide_password=False)
        connection.exec_driver_sql(f"DROP OWNED BY {name}")
        connection.exec_driver_sql(f"DROP ROLE {name}")
    engine.dispose()


def test_stores_that_are_more_than_the_server_takes_wait_for_each_other(store: UserStore, role: str) -> None:
    def use(number: int) -> None:
        with UserStore(role) as one:
            one.append("ann", [interaction(str(number))])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert store.user("ann").interactions == 8


def test_server_without_a_free_connection_is_one_clear_error(store: UserStore, role: str) -> None:
    engine = create_engine(role)
    with engine.connect(), engine.connect():
        with pytest.raises(StoreUnavailableError, match=r"too many connections.*`pool_size`") as caught:
            UserStore(role, pool_timeout=0.2)
        assert isinstance(caught.value.__cause__, OperationalError)
        assert "few@" not in str(caught.value)
    engine.dispose()


def test_store_without_a_free_connection_is_one_clear_error(url: str) -> None:
    with UserStore(url, pool_size=1, max_overflow=0, pool_timeout=0.05) as store:
        with (
            store._database.read(),
            pytest.raises(StoreUnavailableError, match=r"in use for 0.05 s; .*`pool_size`"),
        ):
            store.add_user("ann", task="free-text")
        store.add_user("ann", task="free-text")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"database": "nowhere"}, "does not exist; create it first"),
        ({"host": "127.0.0.1", "port": 1, "query": {}}, "is the database server running"),
    ],
)
def test_server_or_database_that_is_not_there_says_what_to_do(
    url: str, change: dict[str, object], line: str
) -> None:
    location = make_url(url).set(**change)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailableError, match=line):
        UserStore(location.render_as_string(hide_password=False))


def test_name_of_a_server_store_hides_passwords_also_as_parameters(url: str) -> None:
    secret = make_url(url).update_query_dict({"password": "hunter2"}).set(password="hunter3")
    with UserStore(secret.render_as_string(hide_password=False)) as store:
        assert "hunter" not in repr(store)
        assert str(make_url(url).database) in repr(store)
