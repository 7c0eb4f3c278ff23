"""What the personas became: how alike they are, and where they lie."""

from __future__ import annotations

from eval.report import jaccard, persona_map
from eval.report.analysis import Analysis
from eval.report.data import MethodRun
from eval.report.section import Section


def section(analysis: Analysis, embed: persona_map.Embed | None = None) -> Section | None:
    """Return matrix and map of one method's personas; ``None`` where fewer than two users have one."""
    method = with_personas(analysis)
    if method is None or len(method.personas) < 2:
        return None
    changed = sum(persona.initial != persona.final for persona in method.personas)
    figures = [jaccard.figure(method), persona_map.figure(method, embed)]
    return Section(
        id="personas",
        title="The personas",
        text=[
            f"Personas of {method.name}: {len(method.personas)} users, of which {changed} ended with another "
            "text than they began with. A persona that only repeats the template cannot help; one that "
            "is unlike all others is not for that reason right."
        ],
        figures=[figure for figure in figures if figure],
    )


def with_personas(analysis: Analysis) -> MethodRun | None:
    """Return the method whose personas are shown: the reference, else the first that has some."""
    return next((method for method in analysis.methods if method.personas), None)
