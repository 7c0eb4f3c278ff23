"""A store of many users: import, reading a persona with its latest interactions, and memory.

    python benchmarks/bench_store.py [--users 1000] [--interactions 50] [--reads 2000]
        [--database sqlite,postgresql] [--url URL] [--folder FOLDER] [--fill import|sql]

Each case runs in a process of its own: it imports a file of ``users x interactions`` rows with
`import_users`, gives a thousand users three persona versions, opens the store again and reads a random one's
persona and latest 3 interactions, one reader. Without ``--url`` PostgreSQL is a server of the extra ``dev``
with its default settings. "cpu" counts the seconds of this process alone, which other work on the machine
changes less. ``--fill sql`` lets the database make the rows, which is the faster way to a large store to read
from, and measures no import. Goals: p99 of a read at most 5 ms, import at least 20,000 rows a second. Ends
with status 1 if one is missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from bench_writers import database, server
from sqlalchemy import text

from program.store import UserStore
from program.store.importers import import_users

WORDS = "tea soup lentils bread rain film book train garden river night letter song paper window".split()
START = datetime(2024, 1, 1, tzinfo=timezone.utc)
PERSONA = "You answer as this user would.\n" + "\n".join(
    f"{n}. Prefers {word}." for n, word in enumerate(WORDS)
)


def user_id(number: int) -> str:
    return f"user-{number:08d}"


def write_file(path: Path, users: int, interactions: int) -> None:
    """Write interactions of about 200 characters, user after user."""
    dice = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(users):
            for index in range(interactions):
                time_of = START + timedelta(hours=index * 7 + number % 5)
                record = {
                    "user_id": user_id(number),
                    "id": f"i{index}",
                    "query": " ".join(dice.choices(WORDS, k=24)),
                    "response": " ".join(dice.choices(WORDS, k=8)),
                    "timestamp": time_of.isoformat(),
                }
                file.write(json.dumps(record) + "\n")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def resident_mb() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


FILL = {
    "sqlite": """
WITH RECURSIVE a(u) AS (SELECT 0 UNION ALL SELECT u + 1 FROM a WHERE u < :users - 1),
    b(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM b WHERE i < :interactions - 1)
INSERT INTO pa_interactions SELECT printf('user-%08d', u), 'i' || i, i + 1,
    '2024-01-01T00:00:00.' || (100000 + i) || '+00:00', hex(randomblob(75)), hex(randomblob(25)), '{}'
FROM a CROSS JOIN b""",
    "postgresql": """
INSERT INTO pa_interactions SELECT 'user-' || lpad(u::text, 8, '0'), 'i' || i, i + 1,
    '2024-01-01T00:00:00.' || (100000 + i) || '+00:00',
    repeat(md5(random()::text), 5), md5(random()::text) || ' tea with lentils', '{}'
FROM generate_series(0, :users - 1) AS u CROSS JOIN generate_series(0, :interactions - 1) AS i""",
}
"""Makes interactions with texts of 200 characters in the database itself."""


def fill(store: UserStore, users: int, interactions: int) -> None:
    for start in range(0, users, 500):
        names = [user_id(number) for number in range(start, min(users, start + 500))]
        store.append_many({name: () for name in names}, task="free-text")
    kind = "sqlite" if store._database.is_sqlite else "postgresql"
    with store._database.write() as connection:
        connection.execute(text(FILL[kind]), {"users": users, "interactions": interactions})
        connection.execute(text("UPDATE pa_users SET interactions = :n"), {"n": interactions})
        connection.execute(text("ANALYZE"))


def case(location: str, path: Path, given: argparse.Namespace, results: object) -> None:
    users, interactions, reads = given.users, given.interactions, given.reads
    dice = random.Random(1)
    before = resident_mb()
    with UserStore(location) as store:
        began, worked = time.perf_counter(), time.process_time()
        if given.fill == "sql":
            fill(store, users, interactions)
        else:
            report = import_users(store, path)
            assert report.new == users * interactions, report
        seconds, work = time.perf_counter() - began, time.process_time() - worked
        for number in range(0, users, max(1, users // 1000)):
            for _ in range(3):
                store.add_persona(user_id(number), PERSONA, source="edit", why="a benchmark")
    importing = resident_mb()
    with UserStore(location) as store:
        chosen = [user_id(dice.randrange(0, users, max(1, users // 1000))) for _ in range(reads)]
        times: list[float] = []
        cpu: list[float] = []
        for name in chosen:
            began, worked = time.perf_counter(), time.process_time()
            persona = store.persona(name)
            latest = store.interactions(name, latest=3)
            times.append(1e3 * (time.perf_counter() - began))
            cpu.append(1e3 * (time.process_time() - worked))
            assert persona is not None
            assert persona.version == 3
            assert len(latest) == min(3, interactions)
    results.put(  # type: ignore[attr-defined]
        {
            "rows_s": users * interactions / seconds,
            "rows_cpu_s": users * interactions / work,
            "cpu_p50": percentile(cpu, 0.5),
            "cpu_p99": percentile(cpu, 0.99),
            "p50": percentile(times, 0.5),
            "p99": percentile(times, 0.99),
            "max": max(times),
            "mb": importing - before,
        }
    )


def run(kind: str, location: str, path: Path, given: argparse.Namespace) -> bool:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=case, args=(location, path, given, results))
    process.start()
    while True:
        try:
            row = results.get(timeout=1)
            break
        except Exception:  # noqa: BLE001 - nothing yet
            if not process.is_alive():
                sys.exit(f"{kind}: the process ended with {process.exitcode}")
    process.join()
    print(
        f"{kind:11} {given.users:>9,} users x {given.interactions}  {given.fill} {row['rows_s']:>8,.0f} "
        f"rows/s ({row['rows_cpu_s']:,.0f} by cpu, +{row['mb']:.0f} MB)  persona, latest 3: p50 "
        f"{row['p50']:.2f} ms  p99 {row['p99']:.2f} ms  max {row['max']:.1f} ms  "
        f"(cpu: p50 {row['cpu_p50']:.2f}, p99 {row['cpu_p99']:.2f} ms)",
        flush=True,
    )
    return bool((row["rows_s"] >= 20_000 or given.fill == "sql") and row["p99"] <= 5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--interactions", type=int, default=50)
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--database", default="sqlite,postgresql")
    parser.add_argument("--url", help="A PostgreSQL server; by default one of its own.")
    parser.add_argument("--fill", choices=("import", "sql"), default="import")
    parser.add_argument("--folder", help="Where the files go; by default a temporary folder.")
    given = parser.parse_args()
    kinds, good = given.database.split(","), True
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "history.jsonl"
        if given.fill == "import":
            write_file(path, given.users, given.interactions)
        if "sqlite" in kinds:
            good &= run("sqlite", str(Path(folder) / "users.db"), path, given)
        if "postgresql" in kinds:
            with server(given.url) as url, database(url, "read committed") as location:
                good &= run("postgresql", location, path, given)
    sys.exit(not good)


if __name__ == "__main__":
    main()
