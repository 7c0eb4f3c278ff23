"""Reads the nested data that a run folder stores, as far as reports show it; other fields are ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from eval.data.defects import check_summary
from eval.records import MANIFEST, PREPARE, PrepareRecord, Run
from program.errors import DataError
from program.plain import FieldError, decode


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file of a data set."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class StoredData:
    """The manifest of a data set."""

    files: Sequence[StoredFile] = ()
    selection: Mapping[str, Any] = field(default_factory=dict)
    defects_in_files: Sequence[Any] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StoredRollout:
    """An `optimizers.record.Rollout`."""

    interaction_id: str
    query: str
    truth: str
    answer: str | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredFeedback:
    """An `optimizers.record.Feedback`."""

    interaction_id: str
    text: str | None = None
    skipped: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredDecision:
    """An `optimizers.contracts.Decision`."""

    accept: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class StoredStep:
    """An `optimizers.record.AlignmentStep`."""

    persona_before: str
    candidate: str
    simulations: Sequence[StoredRollout]
    feedback: Sequence[StoredFeedback]
    decision: StoredDecision
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredAlignment:
    """An `optimizers.record.AlignmentRecord`."""

    steps: Sequence[StoredStep] = ()


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What ``prepare`` returned for a method with a persona."""

    persona: str | None = None
    persona_initial: str | None = None
    alignment: StoredAlignment | None = None
    agent_runs: int = 0


def read_learned(run: Run, record: PrepareRecord) -> Learned:
    """Return what a method learned about a user; raises `DataError` if it is damaged."""
    location = f"`{run.path / PREPARE}`, method {record.method!r} and user {record.user_id!r}"
    with _explain(f"{location}: in `learned`"):
        return decode(Learned, record.learned or {})


def read_data(run: Run) -> StoredData:
    """Return the run's manifest of its data; raises `DataError` if it is damaged."""
    file = run.path / MANIFEST
    with _explain(f"`{file}`: in `data`"):
        data = decode(StoredData, run.manifest.data)
    check_summary(data.defects_in_files, f"`{file}`")
    return data


@contextmanager
def _explain(location: str) -> Iterator[None]:
    try:
        yield
    except FieldError as error:
        raise DataError(
            f"{location}: {error}; restore the file from a copy, or run again into another folder"
        ) from error
