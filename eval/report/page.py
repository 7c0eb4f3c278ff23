"""One self-contained HTML page: no script, no address, nothing fetched, every picture inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from eval.report.section import Section


def page(title: str, lead: str, how: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the page as HTML; all text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader("eval.report"), autoescape=True, undefined=StrictUndefined)
    environment.filters["data_uri"] = _data_uri
    css = (Path(__file__).with_name("templates") / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.jinja").render(
        title=title,
        lead=lead,
        how=how,
        sections=sections,
        css=Markup(css),
        css_hash=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
    )


def _data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
