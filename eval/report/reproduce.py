"""What it takes to make the numbers again."""

from __future__ import annotations

import json

from eval.report.data import Study
from eval.report.section import Section
from eval.report.table import Row, Table, plain


def section(study: Study) -> Section:
    """Return command, data, model, versions, settings of every method, and known defects of the data."""
    run = study.any_run
    facts: list[Row] = [{"what": what, "value": value} for what, value in run.facts]
    facts += [
        {"what": f"{sweep.over}={point.value}", "value": f"Manifest {dict(point.run.facts)['Manifest']}"}
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
    defects = [f"The data files have defects: {'; '.join(run.defects)}."] if run.defects else []
    return Section(
        id="again",
        title="How to make it again",
        text=defects,
        tables=[
            Table(
                name="facts",
                title="The run",
                rows=facts,
                columns=[plain("what", "What", number=False), plain("value", "Value", number=False)],
            ),
        ],
        more=[
            Table(
                name="methods",
                title="Settings of every method",
                rows=settings,
                columns=[
                    plain("method", "Method", number=False),
                    plain("settings", "Settings", number=False),
                ],
            )
        ],
    )
