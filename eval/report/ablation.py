"""What each part of PersonaAgent is worth: the full method against itself with one part removed."""

from __future__ import annotations

from eval.report.analysis import FULL_METHOD, Analysis
from eval.report.differences import difference_figure
from eval.report.section import Section


def section(analysis: Analysis) -> Section | None:
    """Return the ablation; ``None`` where the reference is not the full method or no part was removed."""
    if analysis.reference.family != FULL_METHOD:
        return None
    removed = {m.name for m in analysis.methods if m.family.startswith(f"{FULL_METHOD}-")}
    comparisons = [c for c in analysis.against_reference if c.b in removed]
    if not comparisons:
        return None
    return Section(
        id="ablation",
        title="Ablation: what each part is worth",
        text=[
            "Each row removes one part from the full method (single removals, not cumulative); a part is "
            "worth something where the difference excludes zero. All variants share one output "
            "instruction, and the invalid rate in the main table shows whether format plays a role."
        ],
        figures=[difference_figure("ablation", analysis, comparisons)],
    )
