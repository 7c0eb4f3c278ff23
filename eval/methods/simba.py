"""SIMBA on the same agent (as shipped with DSPy), rules only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import dspy

from eval.contracts import UserView
from eval.methods.dspy_optimizer import DspyOptimizerMethod
from optimizers.dspy_optimizers import OptimizableAgent, persona_metric

_CANDIDATES = 2


@dataclass(frozen=True, kw_only=True)
class Simba(DspyOptimizerMethod):
    """Appends rules to the persona by contrasting good and bad rollouts; adds no examples."""

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
            max_steps=_max_steps(self.runs // n),
            max_demos=0,
            prompt_model=prompt_model,
            num_threads=1,
        )
        return optimizable.compile(optimizer, trainset=latest, seed=user.seed)


def _max_steps(batches: int) -> int:
    """Return the most steps, at least 1, that ``batches`` of rollouts allow.

    A step runs 2 * `_CANDIDATES` + 1 batches. The best programs of all steps run once more at the end.
    """
    steps = 1
    while (steps + 1) * (2 * _CANDIDATES + 1) + min(steps + 2, _CANDIDATES + 1) <= batches:
        steps += 1
    return steps
