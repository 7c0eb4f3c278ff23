"""Gates: which rewritten personas an alignment keeps (see `optimizers.contracts`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from optimizers.contracts import Decision, Gate
from program.plugins import Registry

GATES = Registry(
    kind="gate",
    group="personaagent.gates",
    built_in={"always": "optimizers.gates:Always", "best": "optimizers.gates:Best"},
    members=("needs_scores", "decide"),
)
"""Every gate that can be named."""


@dataclass(frozen=True)
class Always(Gate):
    """Keeps every rewrite (paper, Algorithm 1)."""

    needs_scores: ClassVar[bool] = False

    def decide(self, parent: Sequence[float], candidate: Sequence[float]) -> Decision:
        """Accept."""
        return Decision(accept=True, reason="every rewrite is kept")


@dataclass(frozen=True)
class Best(Gate):
    """Keeps a rewrite if its mean agreement is higher than its parent's. Ties keep the parent.

    Example:
        >>> Best().decide([0.0, 1.0], [1.0, 1.0]).reason
        'agreement rose from 0.50 to 1.00'
        >>> Best().decide([1.0], [1.0]).accept
        False
    """

    needs_scores: ClassVar[bool] = True

    def decide(self, parent: Sequence[float], candidate: Sequence[float]) -> Decision:
        """Compare the means."""
        if not parent or not candidate:
            return Decision(accept=False, reason="no interaction could be scored under both personas")
        before, after = fmean(parent), fmean(candidate)
        accept = after > before
        change = "rose from" if accept else "did not rise:"
        return Decision(
            accept=accept,
            reason=f"agreement {change} {before:.2f} to {after:.2f}",
            numbers={"before": before, "after": after, "n": float(len(candidate))},
        )
