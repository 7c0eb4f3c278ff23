"""Reads a run or sweep folder for a report, and replaces user ids by pseudonyms."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import records
from eval.report.data import (
    AnswerRow,
    MethodRun,
    Persona,
    PersonaUpdate,
    ReportRun,
    RolloutFeedback,
    Study,
    Sweep,
    SweepPoint,
)
from eval.report.stored import Learned, StoredData, StoredFeedback, StoredStep, read_data, read_learned
from program.errors import DataError
from program.task import get_task
from program.text import counted

_NOT_RUN = "not attempted"

_MOST_PROBABILITY = 1.01
"""Largest sum of one answer's probabilities; a model may have rounded them."""


def load(path: Path) -> Study:
    """Read a run folder, a sweep folder, or a run folder with sweep folders in it.

    Raises:
        DataError: The folder does not exist, is damaged, or has no query with a gold.
    """
    subfolders = sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []
    sweeps = {folder: sweep for folder in [path, *subfolders] if (sweep := records.read_sweep(folder))}
    sweep_runs = {
        folder: [(entry.value, records.read_run(folder / entry.run)) for entry in sweep.runs]
        for folder, sweep in sweeps.items()
    }
    is_run = not sweeps or (path / records.MANIFEST).exists()
    run = records.read_run(path) if is_run else None
    all_runs = [*([run] if run else []), *(point for points in sweep_runs.values() for _, point in points)]
    pseudonyms = _pseudonyms(all_runs)
    return Study(
        run=_report_run(run, pseudonyms) if run else None,
        sweeps=[
            Sweep(
                name=f"sweep-{sweep.over if folder == path else folder.name.removeprefix('sweep-')}",
                setting=sweep.over,
                points=[
                    SweepPoint(value=value, run=_report_run(point, pseudonyms))
                    for value, point in _sort_numbers(sweep_runs[folder])
                ],
            )
            for folder, sweep in sweeps.items()
        ],
    )


def _pseudonyms(runs: Sequence[records.Run]) -> dict[str, str]:
    """Return a pseudonym for each user id, the same in every run of the report."""
    user_ids = sorted({query.user_id for run in runs for query in run.queries})
    width = max(2, len(str(len(user_ids))))
    return {user_id: f"user-{number:0{width}d}" for number, user_id in enumerate(user_ids, 1)}


def _sort_numbers(points: Sequence[tuple[str, records.Run]]) -> Sequence[tuple[str, records.Run]]:
    """Sort by value if all values are numbers; otherwise keep the order."""
    try:
        return sorted(points, key=lambda point: float(point[0]))
    except ValueError:
        return points


def _report_run(run: records.Run, pseudonyms: Mapping[str, str]) -> ReportRun:
    manifest = run.manifest
    data = read_data(run)
    queries = [query for query in run.queries if query.gold is not None]
    if not queries:
        raise DataError(f"`{run.path}` has no query with a gold, so there is nothing to score")
    return ReportRun(
        task=get_task(manifest.task),
        lamp_like=not manifest.official,
        model=str(manifest.model.get("name", "")),
        methods=[_method_run(run, label, queries, pseudonyms) for label in run.labels],
        facts=_facts(run, data, len(queries)),
        defects=[
            f"{defect['kind']}: {counted(defect['count'], 'time')} ({defect['meaning']})"
            for defect in data.defects_in_files
        ],
    )


def _method_run(
    run: records.Run, label: str, queries: Sequence[records.QueryRecord], pseudonyms: Mapping[str, str]
) -> MethodRun:
    entry = run.manifest.methods[label]
    prepared = {user: record for (method, user), record in run.prepared.items() if method == label}
    learned = {user: read_learned(run, record) for user, record in prepared.items()}
    return MethodRun(
        name=label,
        family=entry.name,
        trivial=entry.floor,
        settings=entry.settings,
        answers=[_answer_row(run, label, query, pseudonyms) for query in queries],
        personas=[
            _persona(pseudonyms[user], persona, result)
            for user, result in learned.items()
            if user in pseudonyms and (persona := result.persona)
        ],
        prepare=run.cost(label, "prepare"),
        answer=run.cost(label, "answer"),
        prepared_users=len(prepared),
        given_answers=sum(
            method == label and record.failed is None for (method, _, _), record in run.answers.items()
        ),
        rollouts=sum(result.agent_runs for result in learned.values()),
    )


def _answer_row(
    run: records.Run, label: str, query: records.QueryRecord, pseudonyms: Mapping[str, str]
) -> AnswerRow:
    record = run.answer(label, query)
    failed = record.failed if record else None
    return AnswerRow(
        user=pseudonyms[query.user_id],
        key=query.key,
        gold=query.gold or "",
        prediction=record.text if record and not failed else None,
        valid=record is None or record.valid,
        probabilities=_probabilities(run, record) if record and not failed else None,
        failure=f"{failed.stage}: {failed.kind}" if failed else "" if record else _NOT_RUN,
    )


def _probabilities(run: records.Run, record: records.AnswerRecord) -> Mapping[str, float] | None:
    """Return an answer's probabilities; ``None`` if it has none. Raises `DataError` if they are not."""
    given = record.probabilities or {}
    location = (
        f"`{run.path / records.ANSWERS}`, method {record.method!r}, user {record.user_id!r}, "
        f"query {record.query_id!r}: field `probabilities`"
    )
    advice = "correct the method, and run again into another folder"
    for name, value in given.items():
        if not 0.0 <= value <= 1.0:
            raise DataError(f"{location} has {value!r} for {name[:80]!r}, not a number from 0 to 1; {advice}")
    total = math.fsum(given.values())
    if total > _MOST_PROBABILITY:
        raise DataError(f"{location} sums to {total:.3g}, more than 1; {advice}")
    return given or None


def _persona(user: str, final: str, learned: Learned) -> Persona:
    steps = learned.alignment.steps if learned.alignment else ()
    return Persona(
        user=user,
        initial=learned.persona_initial or final,
        final=final,
        updates=[_persona_update(step) for step in steps],
    )


def _persona_update(step: StoredStep) -> PersonaUpdate:
    entries = {entry.interaction_id: entry for entry in step.feedback}
    feedback = []
    for rollout in step.simulations:
        entry = entries.get(rollout.interaction_id, StoredFeedback(interaction_id=rollout.interaction_id))
        feedback.append(
            RolloutFeedback(
                query=rollout.query,
                truth=rollout.truth,
                answer=rollout.answer or "no answer",
                feedback=entry.text or f"no feedback: {entry.skipped or rollout.error}",
            )
        )
    return PersonaUpdate(
        before=step.persona_before,
        candidate=step.candidate,
        accepted=step.decision.accept,
        reason=step.note or step.decision.reason,
        feedback=feedback,
    )


def _facts(run: records.Run, data: StoredData, queries_with_gold: int) -> list[tuple[str, str]]:
    manifest = run.manifest
    facts = [
        ("Command", manifest.command),
        ("Task", manifest.task),
        ("Data", "LaMP's own files" if manifest.official else "LaMP-like: not LaMP's own files"),
        *((f"File {file.name}", f"SHA-256 {file.sha256}") for file in data.files),
        ("Selection", _flat(data.selection)),
        ("Users", str(len({query.user_id for query in run.queries}))),
        ("Queries", f"{queries_with_gold} with a gold, of {len(run.queries)}"),
        ("Model", _flat(manifest.model) or "none: floors only"),
        ("Seed", str(manifest.seed)),
        ("Versions", _flat(manifest.versions)),
        ("Started", manifest.started_at),
        ("Manifest", "SHA-256 " + hashlib.sha256((run.path / records.MANIFEST).read_bytes()).hexdigest()),
    ]
    return [(label, value) for label, value in facts if value]


def _flat(values: Mapping[str, Any]) -> str:
    """Return ``a=1, b=text``, without ``None`` values."""
    return ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
        if value is not None
    )
