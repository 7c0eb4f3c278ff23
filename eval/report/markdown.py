"""The report as one Markdown file, with its figures beside it."""

from __future__ import annotations

from collections.abc import Sequence

from eval.report.section import Case, Section
from eval.report.table import to_markdown


def markdown(title: str, lead: str, how: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the report; folded tables and persona texts are left to the page and the CSV files."""
    parts = [f"# {title}", lead, "\n".join(["How to read this:", "", *(f"- {line}" for line in how)])]
    for section in sections:
        parts.append(f"## {section.title}")
        parts.extend(section.text)
        parts.extend(to_markdown(table) for table in section.tables)
        for figure in section.figures:
            name = figure.numbers.name
            parts.append(f"![{figure.alt}](figures/{name}.svg)")
            parts.append(f"{figure.caption} Numbers: [figures/{name}.csv](figures/{name}.csv).")
            if figure.open:
                parts.append(to_markdown(figure.numbers))
        parts.extend(_case(case) for case in section.cases)
        parts.extend(
            f"{table.title}: [tables/{table.name}.csv](tables/{table.name}.csv)" for table in section.more
        )
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _case(case: Case) -> str:
    steps = [f"- {step.title}, {step.decision}" for step in case.steps] or ["- not rewritten"]
    return "\n".join([f"### {case.title}", "", *steps])
