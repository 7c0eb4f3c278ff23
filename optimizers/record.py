"""What an alignment did: every step, kept with the program and in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from optimizers.config import AlignmentConfig, Plan
from optimizers.gate import Decision
from program.ledger import Usage


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """One past interaction, answered again.

    Attributes:
        interaction_id: Which one.
        query: What the agent was asked.
        truth: What the user really answered.
        answer: What the agent answered; empty where ``error`` is set.
        score: Agreement in [0, 1]; ``None`` where there is no answer. It is never 0 for a failure.
        error: Why there is no answer: the model's output could not be read.
        tools: The tool calls made, as ``name(argument)``.
    """

    interaction_id: str
    query: str
    truth: str
    answer: str = ""
    score: float | None = None
    error: str = ""
    tools: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """The textual loss of one simulation; ``skipped`` says why there is none."""

    interaction_id: str
    text: str = ""
    skipped: str = ""


@dataclass(frozen=True, kw_only=True)
class AlignmentStep:
    """One iteration of Algorithm 1.

    Attributes:
        number: Counts from 1.
        persona_before: The persona that was simulated.
        candidate: The rewrite; equal to ``persona_before`` where none was made.
        persona_after: What the step ended with.
        simulations: One for each interaction of the batch.
        feedback: One for each simulation that has an answer.
        decision: What the gate said.
        note: What went wrong without stopping the step; empty otherwise.
        usage: Cost of this step by stage.
    """

    number: int
    persona_before: str
    candidate: str
    persona_after: str
    simulations: Sequence[Simulation]
    feedback: Sequence[Feedback]
    decision: Decision
    note: str = ""
    usage: Mapping[str, Usage] = field(default_factory=dict)

    @property
    def score(self) -> float | None:
        """Mean agreement of the simulations that have an answer; ``None`` where none has."""
        scores = [s.score for s in self.simulations if s.score is not None]
        return sum(scores) / len(scores) if scores else None

    def as_dict(self) -> dict[str, Any]:
        """Return the step as plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class AlignmentRecord:
    """A whole alignment.

    Attributes:
        config: Every setting that changed the outcome.
        plan: What was predicted before the run.
        steps: The iterations, in order.
        agent_runs: How often the agent answered a past interaction again.
        usage: Cost by stage.
        seconds: Wall time.
        model: The agent's model.
        prompt_model: The model of feedback and update.
        versions: Of the packages that decide the outcome.
    """

    config: AlignmentConfig
    plan: Plan
    steps: Sequence[AlignmentStep] = ()
    agent_runs: int = 0
    usage: Mapping[str, Usage] = field(default_factory=dict)
    seconds: float = 0.0
    model: str = ""
    prompt_model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)
