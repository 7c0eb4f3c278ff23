"""The files of a run folder, and how to read them.

    RUN/manifest.json    every setting that changes the result, and how the run was started
    RUN/queries.jsonl    one line for each query of the data: user, query, gold
    RUN/prepare.jsonl    one line for each attempt to prepare a method for a user
    RUN/answers.jsonl    one line for each attempt to answer a query with a method
    RUN/forgotten.json   hashes of the users who were forgotten; a resumed run leaves them out
    SWEEP/sweep.json     a setting, its values, and the run folder of each value

The three ``.jsonl`` files only grow. Readers ignore a half-written last line, which a killed process may
leave; the next writer cuts it off. The last of several attempts counts; `Run.cost` adds up all of them.
Lines contain user ids and texts, which a report shows only under a pseudonym.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from eval.contracts import Failed
from program import json_text
from program.errors import DataError
from program.plain import FieldError, decode
from program.usage import Usage

SCHEMA = 1
"""Version of the layout; a newer one is refused."""

MANIFEST, QUERIES, PREPARE, ANSWERS, FORGOTTEN, SWEEP = (
    "manifest.json",
    "queries.jsonl",
    "prepare.jsonl",
    "answers.jsonl",
    "forgotten.json",
    "sweep.json",
)


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One method of a run.

    Attributes:
        name: The method's name, such as ``rag``; its label in the run may have settings: ``rag:k=8``.
        settings: Every setting that changes its result, as JSON data.
        floor: Whether it is a trivial baseline (`eval.contracts.Method.trivial`).
        source: Hash of the file of a user's own method; empty for a built-in one.
    """

    name: str
    settings: Mapping[str, Any]
    floor: bool = False
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The settings of a run. All fields but ``command`` and ``started_at`` change the result.

    Attributes:
        task: The argument for `get_task`: the task's name, or ``module:ATTRIBUTE``.
        official: Whether the data are LaMP's own files. If not, results are called LaMP-like.
        data: The manifest of the data set (`eval.data.dataset.DataSet`): files, checksums, selection.
        model: Name and settings of the model that answers, without keys and addresses; empty if no
            method needs one.
        methods: By label, in the order of report tables.
        seed: Seed of every random choice in a method.
        versions: Versions of packages that may change the result, and a hash of our own code.
        command: The command line, to reproduce the run.
        started_at: When the run was first started, ISO 8601 in UTC.
        schema: Version of the folder's layout.
    """

    task: str
    official: bool
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    methods: Mapping[str, MethodEntry]
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    started_at: str = ""
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class QueryRecord:
    """One query of the run; every method answers it."""

    user_id: str
    query_id: str
    gold: str | None

    @property
    def key(self) -> tuple[str, str]:
        """User id and query id; a query id alone is unique only within its user."""
        return self.user_id, self.query_id


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """The fields of every attempt.

    Attributes:
        method: The method's label in the run.
        failed: Why the attempt failed; ``None`` if it succeeded.
        usage: Model calls, tokens and dollars, by stage.
        seconds: Wall time; with several threads it includes waiting for other jobs.
        prompts: A hash of each prompt, in order; 16 hexadecimal digits.
    """

    method: str
    user_id: str
    failed: Failed | None = None
    usage: Mapping[str, Usage] = field(default_factory=dict)
    seconds: float = 0.0
    prompts: Sequence[str] = ()

    def total(self) -> Usage:
        """Return the usage over all stages."""
        return _sum(self.usage.values())


@dataclass(frozen=True, kw_only=True)
class PrepareRecord(AttemptRecord):
    """One attempt to prepare a method for a user.

    Attributes:
        learned: The return value of ``prepare``; ``None`` if it failed. Methods with a persona store
            ``persona_initial`` and ``persona`` (texts), and ``alignment`` if there was one
            (`optimizers.record.AlignmentRecord` as plain data).
    """

    learned: Mapping[str, Any] | None = None

    @property
    def alignment_steps(self) -> Sequence[Mapping[str, Any]]:
        """The steps of the alignment, as `optimizers.AlignmentStep.as_dict` gives them; none without one."""
        return ((self.learned or {}).get("alignment") or {}).get("steps") or ()


@dataclass(frozen=True, kw_only=True)
class AnswerRecord(AttemptRecord):
    """One attempt to answer a query.

    Attributes:
        text: The text that is scored; ``None`` if the attempt failed.
        valid: Whether the model's output fitted the task's type.
        steps: The steps before the answer, as plain data.
        probabilities: Label to probability, if the model reports them.
    """

    query_id: str
    text: str | None = None
    valid: bool = True
    steps: Sequence[Mapping[str, Any]] = ()
    probabilities: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of several attempts together; ``seconds`` is the sum of their wall times."""

    usage: Usage
    seconds: float
    attempts: int


@dataclass(frozen=True, kw_only=True)
class SweepEntry:
    """One run of a sweep: the value of the setting, and the run folder's name in the sweep folder."""

    value: str
    run: str


@dataclass(frozen=True, kw_only=True)
class SweepManifest:
    """Runs that differ in one setting, ``over``, in the order in which they started."""

    over: str
    runs: Sequence[SweepEntry]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Run:
    """The content of a run folder, sorted, so that it does not depend on the order of jobs.

    Attributes:
        queries: Sorted by user id, then query id.
        prepared: The last attempt for each method and user id.
        answers: The last attempt for each method, user id and query id. A query that was never
            attempted has no entry and counts as missing, like a failed one.

    Example: see `read_run`.
    """

    path: Path
    manifest: Manifest
    queries: Sequence[QueryRecord]
    prepared: Mapping[tuple[str, str], PrepareRecord]
    answers: Mapping[tuple[str, str, str], AnswerRecord]
    _attempts: Sequence[AttemptRecord] = field(repr=False, default=())

    @property
    def labels(self) -> tuple[str, ...]:
        """The methods' labels, in the order of report tables."""
        return tuple(self.manifest.methods)

    def answer(self, method: str, query: QueryRecord) -> AnswerRecord | None:
        """Return the last attempt of a method at a query; ``None`` if there was none."""
        return self.answers.get((method, *query.key))

    def missing(self, method: str) -> int:
        """Return the number of queries without an answer of the method."""
        attempts = (self.answer(method, query) for query in self.queries)
        return sum(record is None or record.failed is not None for record in attempts)

    def cost(self, method: str, kind: Literal["prepare", "answer"]) -> Cost:
        """Return the cost of all attempts of a method, including failed ones."""
        record_type = PrepareRecord if kind == "prepare" else AnswerRecord
        attempts = [a for a in self._attempts if a.method == method and isinstance(a, record_type)]
        return Cost(
            usage=_sum(usage for attempt in attempts for usage in attempt.usage.values()),
            seconds=sum(attempt.seconds for attempt in attempts),
            attempts=len(attempts),
        )

    def spent(self) -> Usage:
        """Return the usage of all attempts in the folder."""
        return _sum(usage for attempt in self._attempts for usage in attempt.usage.values())


def read_run(path: str | Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: The folder is not a run folder, has a newer schema, or has a damaged line (names
            file and line).

    Example:
        >>> from eval import evaluate
        >>> from eval.demo import SAMPLE
        >>> _ = evaluate(task="LaMP-2M", data=SAMPLE, methods=["user-majority"], out="run")
        >>> run = read_run("run")
        >>> query = run.queries[0]
        >>> query.gold, run.answer("user-majority", query).text
        ('classic', 'based on a book')
        >>> run.missing("user-majority")
        0
    """
    path = Path(path)
    manifest = read_manifest(path)
    order = {label: number for number, label in enumerate(manifest.methods)}
    prepared = list(_records(path / PREPARE, PrepareRecord))
    answers = list(_records(path / ANSWERS, AnswerRecord))
    last_prepared = {(r.method, r.user_id): r for r in prepared if r.method in order}
    last_answers = {(r.method, r.user_id, r.query_id): r for r in answers if r.method in order}
    return Run(
        path,
        manifest,
        sorted(_records(path / QUERIES, QueryRecord), key=lambda query: query.key),
        dict(sorted(last_prepared.items(), key=lambda item: (order[item[0][0]], *item[0][1:]))),
        dict(sorted(last_answers.items(), key=lambda item: (order[item[0][0]], *item[0][1:]))),
        [*prepared, *answers],
    )


def read_manifest(path: Path) -> Manifest:
    """Read a run folder's manifest; raises `DataError` like `read_run`."""
    file = path / MANIFEST
    content = _read_json(file, "a run folder; make one with `personaagent eval run --out`")
    return _decode(Manifest, content, f"`{file}` is not the manifest of a run", strict=True)


def read_forgotten(path: Path) -> frozenset[str]:
    """Return the hashes of the users who were forgotten in a run folder (`eval.forget`).

    Raises:
        DataError: The file is damaged.
    """
    file = path / FORGOTTEN
    if not file.exists():
        return frozenset()
    users = _read_json(file, "a run folder").get("users")
    if not isinstance(users, list) or not all(isinstance(digest, str) for digest in users):
        raise DataError(f"`{file}`: field `users` must be a list of texts; {_ADVICE}")
    return frozenset(users)


def read_sweep(path: Path) -> SweepManifest | None:
    """Read a sweep folder's list of runs; ``None`` if the folder is not a sweep."""
    file = path / SWEEP
    if not file.exists():
        return None
    content = _read_json(file, "a sweep folder")
    return _decode(SweepManifest, content, f"`{file}` is not the list of runs of a sweep", strict=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain data or a dataclass as indented JSON, atomically."""
    part = path.with_name(f"{path.name}.part")
    plain = content if isinstance(content, Mapping) else asdict(content)
    part.write_text(json.dumps(plain, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def to_line(record: QueryRecord | PrepareRecord | AnswerRecord) -> str:
    """Return a record as one line of JSON, with the line end."""
    return json.dumps(asdict(record), ensure_ascii=False) + "\n"


T = TypeVar("T")
R = TypeVar("R", QueryRecord, PrepareRecord, AnswerRecord)

_ADVICE = "restore the file from a copy, or run again into another folder"


def whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers, from 1, but a last one without its line end."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield number, line


def _records(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the records of a file; a last line without its line end is ignored, like unknown fields."""
    for number, line in whole_lines(path):
        location = f"`{path}`, line {number}: not a {kind.__name__}"
        try:
            content = json_text.parse(line)
        except json_text.JsonError as error:
            raise DataError(f"{location}: it {error}; {_ADVICE}") from error
        yield _decode(kind, content, location)


def _sum(usages: Iterable[Usage]) -> Usage:
    total = Usage()
    for usage in usages:
        total.add(usage)
    return total


def _read_json(path: Path, noun: str) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"`{path.parent}` is not {noun} (no `{path.name}`)")
    content = json_text.read(path)
    if not isinstance(content, dict):
        raise DataError(f"`{path}` must hold an object, got {type(content).__name__}")
    schema = content.get("schema", 0)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema > SCHEMA:
        raise DataError(
            f"`{path}` has schema {schema!r}, but this version reads up to {SCHEMA}: update personaagent"
        )
    return content


def _decode(data_type: type[T], content: object, location: str, *, strict: bool = False) -> T:
    try:
        return decode(data_type, content, strict=strict)
    except FieldError as error:
        raise DataError(f"{location}: {error}; {_ADVICE}") from error
