"""PersonaAgent: a persona made from the user's history and aligned once, before the queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import dspy

from eval.contracts import UserView
from eval.methods.agent import OptimizedAgentMethod, persona_as_dict
from optimizers.alignment import PersonaAlignment
from optimizers.config import PAPER, AlignmentConfig
from optimizers.trials import Past
from program.agent import PersonaAgent
from program.errors import AlignmentFailedError


@dataclass(frozen=True, kw_only=True)
class PersonaAgentMethod(OptimizedAgentMethod):
    """The paper's method. Defaults are the paper's, or ours if the paper does not state a value.

    Attributes:
        steps: Iterations E of the alignment.
        batch: Interactions n of each iteration; ``batch_size`` of `optimizers.AlignmentConfig`.
        choice: Which interactions: a batch rule by name or ``module:Class`` (see `optimizers.batches`);
            ``batch`` of `optimizers.AlignmentConfig`.
        gate: Which rewrites are kept: a gate by name or ``module:Class`` (see `optimizers.gates`).
        skip_right: Make no feedback for an interaction whose rollout gave the user's own answer.
    """

    name: ClassVar[str] = "personaagent"
    steps: int = PAPER.steps
    batch: int = PAPER.batch_size
    choice: str = PAPER.as_dict()["batch"]
    gate: str = PAPER.as_dict()["gate"]
    skip_right: bool = PAPER.skip_right

    def __post_init__(self) -> None:
        super().__post_init__()
        self._config(seed=0)

    def _optimize(
        self, agent: PersonaAgent, trainset: Sequence[dspy.Example], user: UserView
    ) -> dict[str, Any]:
        prompt_model = self._load_prompt_model(user.seed)
        config = self._config(user.seed)
        optimizer = PersonaAlignment(config, prompt_model=prompt_model, past=self._past(user))
        try:
            aligned = optimizer.compile(agent, trainset=trainset)
        except AlignmentFailedError as error:
            # Unreadable rollouts are this method's own failure: it answers with the initial persona.
            return {"agent_runs": error.n_rollouts, "note": str(error)}
        record = aligned.alignment
        return {
            **persona_as_dict(aligned),
            "agent_runs": record.n_rollouts,
            "alignment": record.as_dict(),
        }

    def _past(self, user: UserView) -> Past:
        return Past()

    def _config(self, seed: int) -> AlignmentConfig:
        return AlignmentConfig(
            steps=self.steps,
            batch_size=self.batch,
            batch=self.choice,
            gate=self.gate,
            skip_right=self.skip_right,
            seed=seed,
        )
