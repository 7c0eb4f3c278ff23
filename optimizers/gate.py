"""Keep the rewritten persona? Pure rules over what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from optimizers.config import GateChoice


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Agreement with the user on the same interactions, in [0, 1], under both personas.

    Empty where the rule in use does not ask for it.
    """

    parent: Sequence[float] = ()
    candidate: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether the candidate becomes the persona, why, and the numbers behind it."""

    accept: bool
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def decide(rule: GateChoice, parent: str, candidate: str, evidence: Evidence) -> Decision:
    """Apply a rule.

    ``always`` is the paper's: the last rewrite is kept. ``best`` keeps a rewrite whose mean
    agreement is above its parent's; a tie is no evidence for a change.
    """
    if candidate == parent:
        return Decision(accept=False, reason="the rewrite is the same text")
    if rule == "always":
        return Decision(accept=True, reason="every rewrite is kept")
    if not evidence.parent or not evidence.candidate:
        return Decision(accept=False, reason="nothing could be measured")
    before, after = fmean(evidence.parent), fmean(evidence.candidate)
    numbers = {"before": before, "after": after, "n": float(len(evidence.candidate))}
    if after > before:
        return Decision(
            accept=True, reason=f"agreement rose from {before:.2f} to {after:.2f}", numbers=numbers
        )
    return Decision(
        accept=False, reason=f"agreement did not rise: {before:.2f} to {after:.2f}", numbers=numbers
    )
