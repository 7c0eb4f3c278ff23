"""SIMBA on the same agent (as shipped with DSPy), rules only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import dspy

from eval.contracts import UserView
from eval.methods.dspy_optimizer import Rival
from optimizers.dspy_optimizers import OptimizableAgent, persona_metric

_CANDIDATES = 2


@dataclass(frozen=True, kw_only=True)
class Simba(Rival):
    """Appends rules to the persona, made by contrasting good and bad runs; it adds no examples."""

    name: ClassVar[str] = "simba"
    least_batches: ClassVar[int] = 2 * _CANDIDATES + 3

    def _compile(
        self, optimizable: OptimizableAgent, latest: list[dspy.Example], user: UserView, prompt_model: Any
    ) -> str:
        n = len(latest)
        optimizer = dspy.SIMBA(
            metric=persona_metric(user.task),
            bsize=n,
            num_candidates=_CANDIDATES,
            max_steps=_steps(self.runs // n),
            max_demos=0,
            prompt_model=prompt_model,
            num_threads=1,
        )
        return optimizable.compile(optimizer, trainset=latest, seed=user.seed)


def _steps(batches: int) -> int:
    """Return the most steps that ``batches`` allow: samples and candidates in each, winners at the end."""
    steps = 1
    while (steps + 1) * (2 * _CANDIDATES + 1) + min(steps + 2, _CANDIDATES + 1) <= batches:
        steps += 1
    return steps
