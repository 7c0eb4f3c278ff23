"""Grounded alignment: the product's own preset, with every part as a setting."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from eval.contracts import UserView
from eval.methods.personaagent import PersonaAgentMethod
from eval.records import read_run
from optimizers.betting import fit_prior
from optimizers.config import GROUNDED, AlignmentConfig
from optimizers.trials import Past
from program.errors import ConfigError
from program.task import Task


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
        prior: The folder of an earlier run. What its tests of this method showed for other users is what the
            gate expects; empty: nothing is known of others.
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
    prior: str = ""

    def check(self, task: Task) -> None:
        """Accept every task if the run of ``prior`` has tests of this method on it."""
        super().check(task)
        if self.prior and not _read_trials(self.prior, task.name, self._key()):
            raise ConfigError(
                f"`prior`: the run `{self.prior}` has no tests of `{self.name}` with these settings"
            )

    def _past(self, user: UserView) -> Past:
        if not self.prior:
            return Past()
        trials = _read_trials(self.prior, user.task.name, self._key())
        return Past(prior=fit_prior(gains for other, gains in trials if other != user.user_id))

    def _key(self) -> str:
        return json.dumps({**self.settings(), "prior": ""}, sort_keys=True)

    def _config(self, seed: int) -> AlignmentConfig:
        return replace(
            super()._config(seed),
            evidence=self.evidence,
            edits=self.edits,
            candidates=self.candidates,
            graded=self.graded,
            replay=self.replay,
        )


@lru_cache(maxsize=8)
def _read_trials(folder: str, task: str, settings: str) -> tuple[tuple[str, tuple[float, float]], ...]:
    """Return the user, and gains and losses, of each candidate that a method of these settings tested.

    Settings that the run does not name are younger than the run.
    """
    run, own = read_run(Path(folder)), json.loads(settings)
    labels = {
        label
        for label, entry in run.manifest.methods.items()
        if entry.name == Grounded.name
        and all(own.get(name) == value for name, value in entry.settings.items())
    }
    return tuple(
        (user_id, (numbers.get("n_plus", 0.0), numbers.get("n_minus", 0.0)))
        for (label, user_id), record in run.prepared.items()
        if label in labels and run.manifest.task == task
        for step in record.alignment_steps
        for check in step["checks"]
        for numbers in [check["decision"]["numbers"]]
    )
