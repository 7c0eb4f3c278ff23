"""The base class of methods that optimize the persona with one of DSPy's optimizers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import dspy
from dspy.utils.exceptions import AdapterParseError

from eval.contracts import UserView
from eval.methods.agent import OptimizedAgentMethod
from optimizers.dspy_optimizers import OptimizableAgent
from program.agent import PersonaAgent
from program.errors import ConfigError, PersonaError
from program.usage import current_tracker, track_lm


@dataclass(frozen=True, kw_only=True)
class DspyOptimizerMethod(OptimizedAgentMethod):
    """A DSPy optimizer that learns from the same interactions as `personaagent`, with a rollout budget.

    For an equal comparison give `personaagent` the same number: ``steps`` times ``batch`` rollouts.

    Attributes:
        runs: Most agent rollouts for one user.
        batch: The latest interactions, used as trainset and valset.
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

    def _optimize(
        self, agent: PersonaAgent, trainset: Sequence[dspy.Example], user: UserView
    ) -> dict[str, Any]:
        latest = list(trainset[-self.batch :])
        optimizable = OptimizableAgent(agent, traced=self.traced)
        try:
            persona = self._compile(optimizable, latest, user, self._tracked_prompt_model(user.seed))
        except (PersonaError, AdapterParseError) as error:
            # A proposal that cannot be used is the optimizer's own failure: the first persona stays.
            return {"agent_runs": optimizable.rollouts.count, "note": str(error)}
        return {"persona": persona, "agent_runs": optimizable.rollouts.count}

    def _tracked_prompt_model(self, seed: int) -> Any:
        """Return the prompt model with its calls counted; ``None`` means the model that answers."""
        model, tracker = self._load_prompt_model(seed), current_tracker()
        return model if model is None or tracker is None else track_lm(model, tracker)

    @abstractmethod
    def _compile(
        self, optimizable: OptimizableAgent, latest: list[dspy.Example], user: UserView, prompt_model: Any
    ) -> str:
        """Return the best persona.

        Args:
            optimizable: The agent to compile.
            latest: The ``batch`` latest interactions, oldest first; fewer if the history is shorter.
            user: Gives the task and the seed.
            prompt_model: The model of proposals; ``None`` means the model that answers.

        Raises:
            PersonaError: The optimizer's text cannot be a persona; the initial one stays.
        """
