"""Renders a report as one Markdown file and as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from eval.report.escape import escape_markdown
from eval.report.run_info import Introduction
from eval.report.section import CaseStudy, Section
from eval.report.table import to_markdown
from program.csp import csp_hash


def render_markdown(introduction: Introduction, sections: Sequence[Section]) -> str:
    """Return the report as Markdown, without persona texts and with links instead of folded tables."""
    guide = "\n".join(
        ["How to read this:", "", *(f"- {escape_markdown(line)}" for line in introduction.guide)]
    )
    blocks = [f"# {escape_markdown(introduction.title)}", escape_markdown(introduction.lead), guide]
    for section in sections:
        blocks.append(f"## {escape_markdown(section.title)}")
        blocks.extend(map(escape_markdown, section.text))
        blocks.extend(to_markdown(table) for table in section.tables)
        for figure in section.figures:
            name = figure.numbers.name
            blocks.append(f"![{escape_markdown(figure.alt)}](figures/{name}.svg)")
            blocks.append(
                f"{escape_markdown(figure.caption)} Numbers: [figures/{name}.csv](figures/{name}.csv)."
            )
            if figure.open:
                blocks.append(to_markdown(figure.numbers))
        blocks.extend(_case(case) for case in section.cases)
        blocks.extend(
            f"{escape_markdown(table.title)}: [tables/{table.name}.csv](tables/{table.name}.csv)"
            for table in section.folded_tables
        )
    return "\n\n".join(block.strip("\n") for block in blocks) + "\n"


def render_page(introduction: Introduction, sections: Sequence[Section]) -> str:
    """Return the report as HTML: all text escaped, all charts embedded, no scripts, no network access."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader("eval.report"), autoescape=True, undefined=StrictUndefined)
    environment.filters["data_uri"] = _data_uri
    css = (Path(__file__).with_name("templates") / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.jinja").render(
        introduction=introduction,
        sections=sections,
        css=Markup(css),
        css_hash=csp_hash(css),
    )


def _case(case: CaseStudy) -> str:
    steps = [f"- {escape_markdown(f'{step.title}, {step.decision}')}" for step in case.steps]
    return "\n".join([f"### {escape_markdown(case.title)}", "", *(steps or ["- not updated"])])


def _data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
