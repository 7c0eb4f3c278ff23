"""GEPA on the same agent (Agrawal et al. 2025, arXiv 2507.19457), as shipped with DSPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import dspy

from eval.contracts import UserView
from eval.methods.dspy_optimizer import DspyOptimizerMethod
from optimizers.dspy_optimizers import OptimizableAgent, PersonaProposer, persona_metric


@dataclass(frozen=True, kw_only=True)
class Gepa(DspyOptimizerMethod):
    """Reflective evolution of the persona; feedback names the user's true response."""

    name: ClassVar[str] = "gepa"
    least_batches: ClassVar[int] = 4

    def _compile(
        self, optimizable: OptimizableAgent, latest: list[dspy.Example], user: UserView, prompt_model: Any
    ) -> str:
        # One iteration runs a minibatch under parent and child, and the valset if the child is kept.
        iteration = 3 * len(latest)

        def out_of_rollouts(state: Any) -> bool:
            return optimizable.rollouts.count + iteration > self.runs

        optimizer = dspy.GEPA(
            persona_metric(user.task),
            # GEPA counts some metric calls twice, so the stopper below keeps the rollout budget.
            max_metric_calls=10 * self.runs,
            reflection_minibatch_size=len(latest),
            instruction_proposer=PersonaProposer(on_refused=optimizable.rollouts.end_compile),
            reflection_lm=prompt_model,
            use_merge=False,
            num_threads=1,
            seed=user.seed,
            gepa_kwargs={"stop_callbacks": [out_of_rollouts]},
        )
        return optimizable.compile(optimizer, trainset=latest, valset=latest)
