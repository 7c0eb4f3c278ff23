"""Fuzz campaign: mutated files against every importer and loader.

    .venv/bin/python benchmarks/bench_fuzz.py [--files 20000] [--seed 0] [--seconds 3600] [--only run,store]

Each file is valid once and then damaged one to three times: cut, bits flipped, bytes inserted, keys
doubled or dropped, values of another type, deep nesting, huge values, byte-order marks and UTF-16. A
reader may load it or raise one of this package's errors; anything else is raw. Readers run in child
processes, one for each batch, so that the peak of memory belongs to one kind of file. Ends with status 1
if an error was raw, a child died or hung, or memory grew by 300 MB or more.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import io
import json
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OLD = ROOT / "tests" / "fixtures" / "v0_1"
MAX_BYTES = 1 << 20
"""Size of the largest file."""
MAX_GROWTH = 300
"""MB that a child may grow beyond its imports."""
BATCH = 250
BATCH_SECONDS = 300
_MAX_RAW = 60

_VALUE = re.compile(rb'(?<=[:,\[])\s*("(?:[^"\\]|\\.){0,200}"|-?\d+(?:\.\d+)?|null|true|false|\[\]|\{\})')
_PAIR = re.compile(rb'"\w+"\s*:\s*("(?:[^"\\]|\\.){0,200}"|-?\d+(?:\.\d+)?|null|true|false)')
_WRONG = (
    b"null",
    b"true",
    b"NaN",
    b"Infinity",
    b"-7",
    b"7.5",
    b"1e999",
    b"9" * 5000,
    b"[]",
    b"{}",
    b'""',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\\ufeff"',
    b"[[1], {}]",
    b'{"a": {"b": null}}',
    b'"2025-13-45T99:00"',
)

Mutation = Callable[[bytes, random.Random], bytes]


def _cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _flip(data: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(dice.choice((1, 1, 3, 20)) if damaged else 0):
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def _insert(data: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(data) + 1)
    extra = dice.choice(
        (dice.randbytes(dice.randrange(1, 40)), b"\0", b'"', b"\n", b"{", b"]", b",", b"\xff\xfe")
    )
    return data[:place] + extra + data[place:]


def _drop_bytes(data: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(data) + 1)
    return data[:place] + data[place + dice.choice((1, 10, 100, 4096)) :]


def _repeat_bytes(data: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(data) + 1)
    return data[:place] + data[place - dice.choice((1, 10, 100)) :]


def _replace(
    pattern: re.Pattern[bytes], data: bytes, dice: random.Random, new: Callable[[bytes], bytes]
) -> bytes:
    matches = [match.span() for match in pattern.finditer(data, 0, 200_000)]
    if not matches:
        return _insert(data, dice)
    start, end = dice.choice(matches)
    return data[:start] + new(data[start:end]) + data[end:]


def _double_key(data: bytes, dice: random.Random) -> bytes:
    def double(pair: bytes) -> bytes:
        return pair + b", " + pair.partition(b":")[0] + b": " + dice.choice(_WRONG)

    return _replace(_PAIR, data, dice, double)


def _drop_key(data: bytes, dice: random.Random) -> bytes:
    return _replace(_PAIR, data, dice, lambda pair: b'"other": 1')


def _wrong_type(data: bytes, dice: random.Random) -> bytes:
    return _replace(_VALUE, data, dice, lambda value: dice.choice(_WRONG))


def _nest(data: bytes, dice: random.Random) -> bytes:
    opening, closing = dice.choice(((b"[", b"]"), (b'{"a":', b"}")))
    depth = dice.choice((90, 120, 1100, 60_000, 150_000))
    closed = dice.random() < 0.5
    return _replace(
        _VALUE, data, dice, lambda value: opening * depth + (b"1" + closing * depth if closed else b"")
    )


def _huge(data: bytes, dice: random.Random) -> bytes:
    unit = dice.choice((b"x", b"\\u00e9", b'", "', b"[],", b'{"a":0},', b"1,"))
    return _replace(_VALUE, data, dice, lambda value: b'"' + unit * ((MAX_BYTES - 65536) // len(unit)) + b'"')


def _mark(data: bytes, dice: random.Random) -> bytes:
    mark = dice.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0"))
    return mark + data


def _wide(data: bytes, dice: random.Random) -> bytes:
    encoding = dice.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32"))
    return data.decode("utf-8", "replace").encode(encoding)


TEXT: tuple[Mutation, ...] = (
    _cut,
    _flip,
    _insert,
    _drop_bytes,
    _repeat_bytes,
    _double_key,
    _drop_key,
    _wrong_type,
    _wrong_type,
    _nest,
    _huge,
    _mark,
    _wide,
)
BINARY: tuple[Mutation, ...] = (_cut, _flip, _flip, _insert, _drop_bytes, _repeat_bytes)


@dataclass(frozen=True)
class Target:
    """One reader: its valid files by path, those that are damaged, and how it reads them."""

    files: dict[str, bytes]
    read: Callable[[Path], object]
    mutations: tuple[Mutation, ...] = TEXT
    packed: bool = False
    damaged: tuple[str, ...] = ()


LEAD = (
    "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
    "further explanation. tags: [sci-fi, based on a book, comedy, action, twist ending, dystopia, "
    "dark comedy, classic, psychology, fantasy, romance, thought-provoking, social commentary, violence, "
    "true story] description: "
)


def targets(work: Path) -> dict[str, Target]:
    """Return all readers. Imports happen here, before memory is measured."""
    from eval.data.dataset import open_data, to_datasets
    from eval.records import read_run
    from eval.report.load import load
    from eval.submission import score_files
    from program import PersonaAgent, ToolSet, UserStore, get_task
    from program.files import read_lines
    from program.memory.episodic import EpisodicMemory
    from program.store.importers import import_users
    from program.tracing.server.trace_store import TraceStore
    from program.tracing.view import reader

    movies, free = get_task("LaMP-2M"), get_task("free-text")
    store = UserStore(work / "users.db")
    rows = [
        {
            "user_id": f"u{number % 5}",
            "id": f"i{number}",
            "query": f"dinner {number}?",
            "response": "lentils",
            "timestamp": 1753376400 + number,
            "tags": ["tea", 2],
            "metadata": {"model": {"name": "m"}, "kept": True},
        }
        for number in range(20)
    ]
    profile = [
        {"id": f"1{n}", "tag": "comedy", "description": f"Film {n}.", "date": "2011-05-01"} for n in range(5)
    ]
    people = [
        {
            "user_id": str(n),
            "profile": profile,
            "query": [{"id": f"{n}00", "input": f"{LEAD}A baker.", "gold": "comedy"}],
        }
        for n in range(4)
    ]
    questions = [{"id": f"{n}0", "input": f"{LEAD}A cook {n}.", "profile": profile} for n in range(4)]
    golds = {"task": "LaMP_2", "golds": [{"id": f"{n}0", "output": "comedy"} for n in range(4)]}
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, ("user_id", "id", "query", "response", "timestamp"), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    agent = PersonaAgent(
        task=free, memory=EpisodicMemory("ana", []), tools=ToolSet([]), persona="You know ana."
    )

    def add(path: Path, task: str = "free-text") -> None:
        import_users(store, path, task=task, skip_bad=path.stat().st_size % 2 == 0)

    def read_users(path: Path) -> None:
        with UserStore(path) as opened:
            for user in opened.users():
                opened.interactions(user.user_id)
                opened.profile(user.user_id)
                opened.persona_history(user.user_id)
                opened.alignments(user.user_id)

    def read_traces(path: Path) -> None:
        opened = TraceStore(path)
        try:
            reader.list_traces(opened, user_id=None, run_id=None, name=None, failed=False, limit=30)
        finally:
            opened.close()

    def read_folder(path: Path) -> None:
        read_run(path)
        load(path)

    def read_data(path: Path) -> list[Any]:
        return list(open_data(path, movies))

    whole = json.dumps(people).encode()
    arrow_source = work / "people.json"
    arrow_source.write_bytes(whole)
    to_datasets(open_data(arrow_source, movies), work / "arrow")
    run = {file.name: file.read_bytes() for file in (OLD / "run").iterdir()}
    answers = json.dumps(golds).encode()
    readers = {
        "import jsonl": Target({"a.jsonl": lines}, lambda folder: add(folder / "a.jsonl")),
        "import json list": Target(
            {"a.json": json.dumps(rows).encode()}, lambda folder: add(folder / "a.json")
        ),
        "import csv": Target({"a.csv": table.getvalue().encode()}, lambda folder: add(folder / "a.csv")),
        "import gzip": Target({"a.gz": lines}, lambda folder: add(folder / "a.gz"), packed=True),
        "import oppu": Target({"a.json": whole}, lambda folder: add(folder / "a.json", "LaMP-2M")),
        "data oppu": Target({"a.json": whole}, lambda folder: read_data(folder / "a.json")),
        "data lamp": Target(
            {"dev_questions.json": json.dumps(questions).encode(), "dev_outputs.json": answers}, read_data
        ),
        "data arrow": Target(
            {file.name: file.read_bytes() for file in (work / "arrow").iterdir()}, read_data, BINARY
        ),
        "lines": Target(
            {"a.txt": b"A Paper On Bread\nTea\n"}, lambda folder: list(read_lines(folder / "a.txt"))
        ),
        "predictions": Target(
            {"p.json": answers, "g.json": answers},
            lambda folder: score_files(folder / "p.json", folder / "g.json", movies),
        ),
        "saved program": Target(
            {"a.json": (OLD / "agent.json").read_bytes()},
            lambda folder: agent.deepcopy().load(folder / "a.json"),
        ),
        "run folder": Target(run, read_folder),
        "store": Target(
            {"users.db": (OLD / "users.db").read_bytes()},
            lambda folder: read_users(folder / "users.db"),
            BINARY,
        ),
        "traces": Target(
            {"traces.db": (OLD / "traces.db").read_bytes()},
            lambda folder: read_traces(folder / "traces.db"),
            BINARY,
        ),
    }
    with contextlib.suppress(ImportError):
        readers["data parquet"] = Target(
            {"a.parquet": _parquet(questions, profile)},
            lambda folder: read_data(folder / "a.parquet"),
            BINARY,
        )
    return readers


def _parquet(questions: list[dict[str, Any]], profile: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {
            "task": "LaMP_2M",
            "qid": q["id"],
            "input": q["input"],
            "gold": "comedy",
            "profile_json": json.dumps(profile),
        }
        for q in questions
    ]
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def write_files(folder: Path, target: Target, dice: random.Random) -> None:
    """Write a target's files, one of them damaged."""
    victim = dice.choice(sorted(target.files))
    for name, data in target.files.items():
        if name == victim:
            outside = target.packed and dice.random() < 0.5
            mutations = BINARY if outside else target.mutations
            data = gzip.compress(data) if outside else data
            for _ in range(dice.choice((1, 1, 2, 3))):
                data = dice.choice(mutations)(data, dice)[:MAX_BYTES]
            data = gzip.compress(data) if target.packed and not outside else data
        elif target.packed:
            data = gzip.compress(data)
        (folder / name).write_bytes(data)


def run_batch(name: str, seed: int, first: int, count: int) -> None:
    """Read damaged files in this process, and print the outcomes as JSON."""
    import logging
    import warnings

    from program.errors import PersonaAgentError

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    raw: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        target = targets(Path(home))[name]
        before = _peak_mb()
        for number in range(first, first + count):
            folder = Path(home) / "case"
            folder.mkdir()
            write_files(folder, target, random.Random(f"{seed}/{name}/{number}"))
            begun = time.monotonic()
            try:
                target.read(folder)
                outcomes["loaded"] += 1
            except PersonaAgentError:
                outcomes["refused"] += 1
            except Exception as error:  # noqa: BLE001 - counts every kind
                outcomes["raw"] += 1
                frame = next(
                    (
                        f
                        for f in reversed(traceback.extract_tb(error.__traceback__))
                        if str(ROOT) in f.filename and ".venv" not in f.filename
                    ),
                    None,
                )
                at = f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}" if frame else "?"
                raw.append(f"{name} #{number}: {type(error).__name__} at {at}: {str(error)[:90]!r}")
            slowest = max(slowest, time.monotonic() - begun)
            shutil.rmtree(folder)
    print(
        json.dumps(
            {
                "outcomes": outcomes,
                "raw": raw,
                "grown": _peak_mb() - before,
                "peak": _peak_mb(),
                "slowest": slowest,
            }
        )
    )


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


@dataclass
class Row:
    """The outcomes of one reader."""

    outcomes: Counter[str] = field(default_factory=Counter)
    raw: list[str] = field(default_factory=list)
    grown: float = 0.0
    slowest: float = 0.0

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        counts = (self.outcomes[name] for name in ("loaded", "refused", "raw", "lost"))
        return (
            str(self.outcomes.total()),
            *map(str, counts),
            f"{self.grown:.0f}",
            f"{self.slowest:.1f}",
        )

    def add(self, reply: dict[str, Any]) -> None:
        """Add one batch."""
        self.outcomes.update(reply["outcomes"])
        self.raw += reply["raw"]
        self.grown = max(self.grown, reply["grown"])
        self.slowest = max(self.slowest, reply["slowest"])


def start_batch(name: str, seed: int, first: int, count: int) -> dict[str, Any]:
    """Run one batch in a child process and return its outcomes."""
    command = [sys.executable, __file__, "--batch", name, str(seed), str(first), str(count)]
    lost = {"raw": [], "grown": 0.0, "slowest": 0.0}
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=BATCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {**lost, "outcomes": {"lost": count}, "raw": [f"{name} #{first}: the batch did not end"]}
    if child.returncode:
        reason = child.stderr.strip().splitlines()[-1:] or [f"status {child.returncode}"]
        return {**lost, "outcomes": {"lost": count}, "raw": [f"{name} #{first}: the batch died: {reason[0]}"]}
    reply: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return reply


def main() -> int:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600, help="start no batch after this time")
    parser.add_argument("--only", default="", help="names of readers, with commas between")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch:
        name, *numbers = options.batch
        run_batch(name, *map(int, numbers))
        return 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        choices = list(targets(Path(home)))
    names = [name for name in choices if not options.only or name in options.only.split(",")]
    if not names:
        parser.error(f"no such reader; use {', '.join(choices)}")
    each = -(-options.files // len(names))
    # All readers take their turn, so that a run cut short has some of each.
    batches = [(name, first) for first in range(0, each, BATCH) for name in names]
    table = {name: Row() for name in names}
    stop = time.monotonic() + options.seconds

    def work(batch: tuple[str, int]) -> None:
        name, first = batch
        if time.monotonic() < stop:
            table[name].add(start_batch(name, options.seed, first, min(BATCH, each - first)))

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(work, batches))
    print(_line("reader", ("files", "loaded", "refused", "raw", "lost", "MB grown", "slowest s")))
    total: Counter[str] = Counter()
    for name, row in table.items():
        total.update(row.outcomes)
        print(_line(name, row.cells()))
    grown = max(row.grown for row in table.values())
    slowest = max(row.slowest for row in table.values())
    print(_line("all", Row(total, grown=grown, slowest=slowest).cells()))
    raw = [line for row in table.values() for line in row.raw]
    print("\n".join(raw[:_MAX_RAW]))
    return 1 if raw or grown >= MAX_GROWTH else 0


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:18}" + "".join(f"{cell:>10}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
