"""From a run folder to what a report shows. The only file here that knows the folder, and user ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import records
from eval.report.data import Answered, Lesson, MethodRun, Persona, Point, ReportRun, Rewrite, Study, Sweep
from program.errors import DataError
from program.task import get_task

_NOT_RUN = "not attempted"


def load(path: Path) -> Study:
    """Read a run folder, a sweep folder, or a run folder with sweep folders in it.

    Raises:
        DataError: No such folder, a damaged one, or one without a query that has a gold.
    """
    within = sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []
    sweeps = {folder: sweep for folder in [path, *within] if (sweep := records.read_sweep(folder))}
    points = {
        folder: [(entry.value, records.read_run(folder / entry.run)) for entry in sweep.runs]
        for folder, sweep in sweeps.items()
    }
    alone = not sweeps or (path / records.MANIFEST).exists()
    run = records.read_run(path) if alone else None
    names = _pseudonyms([*([run] if run else []), *(found for row in points.values() for _, found in row)])
    return Study(
        run=_run(run, names) if run else None,
        sweeps=[
            Sweep(
                name=f"sweep-{sweep.over}"
                if folder == path
                else f"sweep-{folder.name.removeprefix('sweep-')}",
                over=sweep.over,
                points=[
                    Point(value=value, run=_run(found, names)) for value, found in _order(points[folder])
                ],
            )
            for folder, sweep in sweeps.items()
        ],
    )


def _pseudonyms(runs: Sequence[records.Run]) -> dict[str, str]:
    """Return a pseudonym for each user id, the same in every run of the report."""
    users = sorted({query.user_id for run in runs for query in run.queries})
    width = max(2, len(str(len(users))))
    return {user: f"user-{number:0{width}d}" for number, user in enumerate(users, 1)}


def _order(points: Sequence[tuple[str, records.Run]]) -> Sequence[tuple[str, records.Run]]:
    try:
        return sorted(points, key=lambda point: float(point[0]))
    except ValueError:
        return points


def _run(run: records.Run, names: Mapping[str, str]) -> ReportRun:
    manifest = run.manifest
    queries = [query for query in run.queries if query.gold is not None]
    if not queries:
        raise DataError(f"`{run.path}` has no query with a gold, so there is nothing to score")
    return ReportRun(
        task=get_task(manifest.task),
        lamp_like=not manifest.official,
        model=str(manifest.model.get("name", "")),
        methods=[_method(run, label, queries, names) for label in run.labels],
        facts=_facts(run, len(queries)),
        defects=[
            f"{defect['kind']}: {defect['count']} times ({defect['meaning']})"
            for defect in manifest.data.get("defects_in_files", ())
        ],
    )


def _method(
    run: records.Run, label: str, queries: Sequence[records.QueryRecord], names: Mapping[str, str]
) -> MethodRun:
    entry = run.manifest.methods[label]
    prepared = [record for (method, _), record in run.prepared.items() if method == label]
    return MethodRun(
        name=label,
        family=entry.name,
        trivial=entry.floor,
        settings=entry.settings,
        answers=[_answered(query, run.answer(label, query), names) for query in queries],
        personas=[
            _persona(names[record.user_id], record.learned)
            for record in prepared
            if record.user_id in names and record.learned and record.learned.get("persona")
        ],
        prepare=run.cost(label, "prepare"),
        answer=run.cost(label, "answer"),
        prepared=len(prepared),
        answered=sum(m == label and found.failed is None for (m, _, _), found in run.answers.items()),
        agent_runs=sum((record.learned or {}).get("agent_runs", 0) for record in prepared),
    )


def _answered(
    query: records.QueryRecord, record: records.AnswerRecord | None, names: Mapping[str, str]
) -> Answered:
    failed = record.failed if record else None
    return Answered(
        user=names[query.user_id],
        key=query.key,
        gold=query.gold or "",
        prediction=record.text if record and not failed else None,
        valid=record is None or record.valid,
        failure=f"{failed.stage}: {failed.kind}" if failed else "" if record else _NOT_RUN,
    )


def _persona(user: str, learned: Mapping[str, Any]) -> Persona:
    steps = (learned.get("alignment") or {}).get("steps", ())
    final = learned["persona"]
    return Persona(
        user=user,
        initial=learned.get("persona_initial") or final,
        final=final,
        rewrites=[_rewrite(step) for step in steps],
    )


def _rewrite(step: Mapping[str, Any]) -> Rewrite:
    """Read one `optimizers.record.AlignmentStep` that was written as plain data."""
    feedback = {entry["interaction_id"]: entry for entry in step["feedback"]}
    lessons = []
    for simulation in step["simulations"]:
        said = feedback.get(simulation["interaction_id"], {})
        lessons.append(
            Lesson(
                query=simulation["query"],
                truth=simulation["truth"],
                answer=simulation["answer"] or "no answer",
                feedback=said.get("text") or f"no feedback: {said.get('skipped') or simulation['error']}",
            )
        )
    return Rewrite(
        before=step["persona_before"],
        candidate=step["candidate"],
        accepted=step["decision"]["accept"],
        reason=step["note"] or step["decision"]["reason"],
        lessons=lessons,
    )


def _facts(run: records.Run, queries: int) -> list[tuple[str, str]]:
    manifest = run.manifest
    data = manifest.data
    facts = [
        ("Command", manifest.command),
        ("Task", manifest.task),
        ("Data", "LaMP's own files" if manifest.official else "LaMP-like: not LaMP's own files"),
        *((f"File {file['name']}", f"SHA-256 {file['sha256']}") for file in data.get("files", ())),
        ("Selection", _flat(data.get("selection", {}))),
        ("Users", str(len({query.user_id for query in run.queries}))),
        ("Queries", f"{queries} with a gold, of {len(run.queries)}"),
        ("Model", _flat(manifest.model) or "none: floors only"),
        ("Seed", str(manifest.seed)),
        ("Versions", _flat(manifest.versions)),
        ("Started", manifest.started_at),
        ("Manifest", "SHA-256 " + hashlib.sha256((run.path / records.MANIFEST).read_bytes()).hexdigest()),
    ]
    return [(label, value) for label, value in facts if value]


def _flat(values: Mapping[str, Any]) -> str:
    shown = ((key, value) for key, value in values.items() if value is not None)
    return ", ".join(f"{key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in shown)
