"""MIPROv2 on the same agent (Opsahl-Ong et al. 2024, arXiv 2406.11695), instructions only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import dspy

from eval.contracts import UserView
from eval.methods.dspy_optimizer import DspyOptimizerMethod
from optimizers.dspy_optimizers import OptimizableAgent, persona_metric
from program.errors import ConfigError
from program.task import Task

_CANDIDATES = 3


@dataclass(frozen=True, kw_only=True)
class MiproV2(DspyOptimizerMethod):
    """Proposes personas and searches among them, without adding examples to the prompt."""

    name: ClassVar[str] = "miprov2"
    least_batches: ClassVar[int] = 4
    traced: ClassVar[bool] = False

    def check(self, task: Task) -> None:
        """Accept every task if the prompt model can be loaded and optuna is installed."""
        super().check(task)
        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise ConfigError("`miprov2` needs optuna: run `pip install optuna`") from error

    def _compile(
        self, optimizable: OptimizableAgent, latest: list[dspy.Example], user: UserView, prompt_model: Any
    ) -> str:
        # Its proposer bootstraps on at most two batches; the initial persona takes one.
        trials = self.runs // len(latest) - 3
        optimizer = dspy.MIPROv2(
            persona_metric(user.task),
            auto=None,
            num_candidates=_CANDIDATES,
            prompt_model=prompt_model,
            max_bootstrapped_demos=0,
            max_labeled_demos=0,
            num_threads=1,
            # MIPROv2 replaces a seed of 0 by its default.
            seed=user.seed + 1,
            track_stats=False,
        )
        return optimizable.compile(
            optimizer,
            trainset=latest,
            valset=latest,
            num_trials=trials,
            minibatch=False,
            # Otherwise the prompt holds the agent's source code, too long for a small model.
            program_aware_proposer=False,
        )
