"""A run folder: what is in it, and the typed way to read it.

    RUN/manifest.json    every setting that changes the result, and how the run was started
    RUN/queries.jsonl    one line for each query that is to be answered: user, query, gold
    RUN/prepare.jsonl    one line for each attempt to prepare a method for a user
    RUN/answers.jsonl    one line for each attempt to answer a query with a method
    SWEEP/sweep.json     names a setting, its values and the run folder of each value

The three ``.jsonl`` files only grow. A line that a killed process left half written is ignored
by readers and cut off before the next line is written. Of several attempts the last one counts; the
cost of all of them was paid (`Run.cost`). Lines hold user ids and texts: a report shows neither
without a pseudonym.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from eval.contracts import Failed
from program.errors import DataError
from program.usage import Usage

SCHEMA = 1
"""Version of the folder's layout; a reader refuses a newer one."""

MANIFEST, QUERIES, PREPARE, ANSWERS, SWEEP = (
    "manifest.json",
    "queries.jsonl",
    "prepare.jsonl",
    "answers.jsonl",
    "sweep.json",
)


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One method of a run.

    Attributes:
        name: The method's own name, ``rag``; its label in the run may carry settings: ``rag:k=8``.
        settings: Every setting that changes its result, as plain data.
        floor: Whether it needs no model at all.
        source: Hash of the file of a method that is not ours.
    """

    name: str
    settings: Mapping[str, Any]
    floor: bool = False
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was run. All fields but ``command`` and ``started_at`` change the result.

    Attributes:
        task: What `get_task` finds the task by: its name, or ``module:ATTRIBUTE``.
        official: Whether the data are LaMP's own files. If not, no number of the run may be called
            a LaMP number.
        data: The data set's own manifest (`eval.data.dataset.DataSet`): files, checksums, selection.
        model: Name and settings of the model that answers, without keys and addresses; empty where
            no method needs one.
        methods: By label, in the order of the tables.
        seed: Of everything random in a method.
        versions: Of the packages that decide the result.
        command: The command line that made the run, to do it again.
        started_at: When it was started first, ISO 8601 in UTC.
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
    """A query that every method of the run is to answer."""

    user_id: str
    query_id: str
    gold: str | None

    @property
    def key(self) -> tuple[str, str]:
        """What tells queries apart: query ids are unique within a user only."""
        return self.user_id, self.query_id


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """What every attempt has.

    Attributes:
        method: The method's label in the run.
        usage: Model calls, tokens and money of this attempt, by stage.
        seconds: Wall time of this attempt; with several threads it includes waiting for one another.
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
        total = Usage()
        for usage in self.usage.values():
            total.add(usage)
        return total


@dataclass(frozen=True, kw_only=True)
class PrepareRecord(_Attempt):
    """One attempt to prepare a method for a user.

    Attributes:
        learned: What ``prepare`` returned, as plain data; ``None`` where it failed. Methods with a
            persona put there ``persona_initial`` and ``persona`` (texts) and, where one was made,
            ``alignment`` (`optimizers.record.AlignmentRecord` as plain data).
    """

    learned: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class AnswerRecord(_Attempt):
    """One attempt to answer a query.

    Attributes:
        text: As it will be scored; ``None`` where ``failed`` says why there is no answer.
        valid: Whether the model's output fitted the task's type.
        steps: What was done on the way, as plain data.
        probabilities: Label to probability, where the model gives them.
    """

    query_id: str
    text: str | None = None
    valid: bool = True
    steps: Sequence[Mapping[str, Any]] = ()
    probabilities: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What attempts cost together."""

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
    """Runs that differ in one setting, ``over``, in the order they were asked for."""

    over: str
    runs: Sequence[SweepEntry]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Run:
    """A run folder, read. Everything is sorted, so it does not depend on the order of work.

    Attributes:
        queries: By user id, then query id.
        prepared: Last attempt for each method and user, in that order.
        answers: Last attempt for each method, user and query, in that order. A query that was not
            attempted has no record: it is as missing as a failed one.
    """

    path: Path
    manifest: Manifest
    queries: Sequence[QueryRecord]
    prepared: Mapping[tuple[str, str], PrepareRecord]
    answers: Mapping[tuple[str, str, str], AnswerRecord]
    _attempts: Sequence[_Attempt] = field(repr=False, default=())

    @property
    def labels(self) -> tuple[str, ...]:
        """The methods' labels, in the order of the tables."""
        return tuple(self.manifest.methods)

    def answer(self, method: str, query: QueryRecord) -> AnswerRecord | None:
        """Return the last attempt of a method at a query; ``None`` where there was none."""
        return self.answers.get((method, *query.key))

    def missing(self, method: str) -> int:
        """Return how many queries the method has no answer to."""
        found = (self.answer(method, query) for query in self.queries)
        return sum(record is None or record.failed is not None for record in found)

    def cost(self, method: str, kind: Literal["prepare", "answer"]) -> Cost:
        """Return what all attempts of a method cost, failed ones included."""
        wanted = PrepareRecord if kind == "prepare" else AnswerRecord
        made = [a for a in self._attempts if a.method == method and isinstance(a, wanted)]
        usage = Usage()
        for attempt in made:
            usage.add(attempt.total())
        return Cost(usage=usage, seconds=sum(a.seconds for a in made), attempts=len(made))

    def spent(self) -> Usage:
        """Return what the whole folder has cost."""
        usage = Usage()
        for attempt in self._attempts:
            usage.add(attempt.total())
        return usage


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: No run folder, one of a newer version, or a damaged line; names file and line.
    """
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
    """Read a run folder's manifest; raises as `read_run`."""
    content = _json_file(path / MANIFEST, "a run folder; make one with `personaagent eval run --out`")
    try:
        methods = {label: MethodEntry(**entry) for label, entry in content["methods"].items()}
        return Manifest(**{**content, "methods": methods})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"`{path / MANIFEST}` is no manifest of a run: {error}") from error


def read_sweep(path: Path) -> SweepManifest | None:
    """Read a sweep folder's list of runs; ``None`` where the folder is no sweep."""
    if not (path / SWEEP).exists():
        return None
    content = _json_file(path / SWEEP, "a sweep folder")
    try:
        return SweepManifest(**{**content, "runs": [SweepEntry(**entry) for entry in content["runs"]]})
    except (KeyError, TypeError) as error:
        raise DataError(f"`{path / SWEEP}` is no list of runs: {error}") from error


def write_json(path: Path, content: Any) -> None:
    """Write plain data or a dataclass as readable JSON, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    plain = content if isinstance(content, Mapping) else asdict(content)
    part.write_text(json.dumps(plain, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def line_of(record: QueryRecord | PrepareRecord | AnswerRecord) -> str:
    """Return a record as the line that is written for it, line end included."""
    return json.dumps(asdict(record), ensure_ascii=False) + "\n"


R = TypeVar("R", QueryRecord, PrepareRecord, AnswerRecord)


def _records(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the whole lines of a file; a last line without its end is no line yet."""
    if not path.exists():
        return
    known = {field.name for field in fields(kind)}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                content = json.loads(line)
                yield kind(**{name: _typed(name, content[name]) for name in content.keys() & known})
            except (ValueError, TypeError, AttributeError) as error:
                raise DataError(f"`{path}`, line {number}: not a {kind.__name__} ({error})") from error


def _typed(name: str, value: Any) -> Any:
    if name == "failed" and value is not None:
        return Failed(**value)
    if name == "usage":
        return {stage: Usage(**usage) for stage, usage in value.items()}
    return value


def _json_file(path: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"`{path.parent}` is not {what} (no `{path.name}`)") from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read `{path}`: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"`{path}` must hold an object, got {type(content).__name__}")
    if content.get("schema", 0) > SCHEMA:
        raise DataError(
            f"`{path}` has schema {content['schema']!r}, this program knows {SCHEMA}: update personaagent"
        )
    return content
