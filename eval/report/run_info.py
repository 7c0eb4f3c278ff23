"""Title, introduction and reading guide of a report, and the section with the facts to reproduce it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from eval.metrics import get_metric
from eval.report.compare import MAX_MISSING_GAP, SETTINGS
from eval.report.data import ReportRun, Study
from eval.report.section import Section
from eval.report.table import Row, Table, heading, key_column, percent, show
from program.text import counted


@dataclass(frozen=True, kw_only=True)
class Introduction:
    """The top of a report: title, one line about its size and model, and how to read it."""

    title: str
    lead: str
    guide: Sequence[str]


def make_introduction(study: Study) -> Introduction:
    """Return the top of a study's report."""
    run = study.any_run
    return Introduction(
        title=f"{run.label}: {'method comparison' if study.run else 'sweep'}",
        lead=_lead(study),
        guide=_guide(run),
    )


def reproduction_section(study: Study) -> Section:
    """Return command, data, model, versions, every method's settings, and known defects of the data."""
    run = study.any_run
    facts: list[Row] = [{"what": label, "value": value} for label, value in run.facts]
    facts += [
        {"what": f"{sweep.setting}={point.value}", "value": f"Manifest {dict(point.run.facts)['Manifest']}"}
        for sweep in study.sweeps
        for point in sweep.points
    ]
    settings: list[Row] = [
        {
            "method": method.name,
            "settings": ", ".join(f"{k}={json.dumps(v)}" for k, v in sorted(method.settings.items())),
        }
        for method in run.methods
    ]
    return Section(
        id="reproduce",
        title="How to reproduce it",
        text=[f"The data files have defects: {'; '.join(run.defects)}."] if run.defects else [],
        tables=[
            Table(
                name="facts",
                title="The run",
                rows=facts,
                columns=[
                    key_column("what", "Fact", number=False),
                    key_column("value", "Value", number=False),
                ],
            ),
        ],
        folded_tables=[
            Table(
                name="methods",
                title="Settings of every method",
                rows=settings,
                columns=[
                    key_column("method", "Method", number=False),
                    key_column("settings", "Settings", number=False),
                ],
            )
        ],
    )


def _lead(study: Study) -> str:
    run = study.any_run
    if study.run is None and study.sweeps[0].setting in ("model", "users", "queries"):
        sweep = study.sweeps[0]
        return f"{len(sweep.points)} runs that differ in `{sweep.setting}`: see the table."
    users, queries = len(run.users), len(run.methods[0].answers)
    size = f"{counted(users, 'user')}, {counted(queries, 'query', 'queries')}"
    return f"{size}. Model: {run.model or 'none, trivial baselines only'}."


def _guide(run: ReportRun) -> list[str]:
    """Return what a reader must know before the first number."""
    metrics = "; ".join(heading(get_metric(name)) for name in run.task.metrics)
    lines = [
        f"Scores: {metrics}. They follow the rules of LaMP's scorer.",
        "Log-likelihood: mean natural logarithm of the probability of the true answer, 0 at best. It tells "
        "methods apart that give the same answers. Only methods that give probabilities have it.",
        f"Brackets are {percent(SETTINGS.confidence)} intervals from {show(SETTINGS.resamples)} resamples of "
        "users, because users, not queries, are the sample. With few users the intervals are wide.",
        "A method is called better only if the interval of the paired difference excludes zero. Everything "
        "else is undecided, however large the difference looks.",
        "Missing answers (outages, stopped runs) are never scored as wrong. Two methods are not compared if "
        f"their shares of missing answers are more than {percent(MAX_MISSING_GAP)} apart. Invalid answers "
        "are scored.",
        "Trivial baselines, marked “floor” in the tables, need no model. A method that does not beat them "
        "has shown nothing.",
    ]
    if run.lamp_like:
        lines.insert(
            0,
            "The data are LaMP-like: they are not LaMP's own, and no number here may be compared with a "
            "published LaMP number.",
        )
    return lines
