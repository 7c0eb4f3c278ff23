"""What DSPy's optimizers share as rivals: the same agent, the same interactions, a budget of agent runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import dspy

from eval.contracts import UserView
from eval.methods.agent import LearningMethod
from optimizers.dspy_optimizers import OptimizableAgent
from program.agent import PersonaAgent
from program.errors import ConfigError, PersonaError
from program.usage import current_tracker, track_lm


@dataclass(frozen=True, kw_only=True)
class Rival(LearningMethod):
    """An optimizer that may let the agent answer past interactions ``runs`` times.

    For an equal comparison give `personaagent` as many: ``steps`` times ``batch`` runs.

    Attributes:
        runs: Most agent runs for one user.
        batch: The latest interactions it learns from and selects on.
    """

    least_batches: ClassVar[int]
    traced: ClassVar[bool] = True
    runs: int = 24
    batch: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 1 or self.runs < self.least_batches * self.batch:
            raise ConfigError(
                f"`{self.name}` needs `batch` of 1 or more and `runs` of at least {self.least_batches} times "
                f"that, got {self.batch!r} and {self.runs!r}"
            )

    def _learn(self, agent: PersonaAgent, trainset: Sequence[dspy.Example], user: UserView) -> dict[str, Any]:
        latest = list(trainset[-self.batch :])
        optimizable = OptimizableAgent(agent, traced=self.traced)
        try:
            persona = self._compile(optimizable, latest, user, self._metered_model(user.seed))
        except PersonaError as error:
            return {"agent_runs": optimizable.runs.count, "note": str(error)}
        return {"persona": persona, "agent_runs": optimizable.runs.count}

    def _metered_model(self, seed: int) -> Any:
        """Return the model that proposes, its calls counted like all others; ``None``: the agent's."""
        model, tracker = self._model_of_prompts(seed), current_tracker()
        return model if model is None or tracker is None else track_lm(model, tracker)

    @abstractmethod
    def _compile(
        self, optimizable: OptimizableAgent, latest: list[dspy.Example], user: UserView, prompt_model: Any
    ) -> str:
        """Return the best persona found."""
