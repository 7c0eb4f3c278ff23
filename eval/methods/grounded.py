"""Grounded alignment: the product's own preset, with every part as a setting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from eval.methods.personaagent import PersonaAgentMethod
from optimizers.config import GROUNDED, AlignmentConfig


@dataclass(frozen=True, kw_only=True)
class Grounded(PersonaAgentMethod):
    """PersonaAgent with facts from code, edits that rest on interactions, and a gate with error rates.

    ``steps=0`` is the control "first persona", ``persona_of=other`` the control "another user's persona".
    Ablations: ``history=findings``, ``evidence=false``, ``edits=false``, ``gate=always``,
    ``retrieval=bm25``, ``tools=false``.

    Attributes:
        evidence: Show facts from code in the persona, and to feedback and update.
        edits: Edit single lines or facts instead of rewriting the whole text.
        candidates: Most edited personas that are tested in one step.
        graded: Compare personas by the likelihood of the user's true answers if the model gives it.
        replay: Test a persona from the tool calls of its parent, with one call for each interaction.
    """

    name: ClassVar[str] = "grounded"
    min_actions: int = 0
    search_first: bool | None = True
    start: str = "bare"
    gate: str = GROUNDED.as_dict()["gate"]
    skip_right: bool = GROUNDED.skip_right
    evidence: bool = GROUNDED.evidence
    edits: bool = GROUNDED.edits
    candidates: int = GROUNDED.candidates
    graded: bool = GROUNDED.graded
    replay: bool = GROUNDED.replay

    def _config(self, seed: int) -> AlignmentConfig:
        return replace(
            super()._config(seed),
            evidence=self.evidence,
            edits=self.edits,
            candidates=self.candidates,
            graded=self.graded,
            replay=self.replay,
        )
