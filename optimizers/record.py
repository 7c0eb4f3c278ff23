"""What an alignment did: every step, kept with the program and in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from optimizers.config import AlignmentConfig, Plan
from optimizers.contracts import Decision
from optimizers.trials import Check, Pending, Refusal
from program.renamed import RenamedAttributes
from program.text import counted
from program.usage import Usage


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """The agent's answer to one past interaction, given as if it were new (the paper: simulate).

    Attributes:
        interaction_id: The interaction that was answered again.
        query: What the agent was asked.
        truth: What the user really answered.
        answer: What the agent answered; empty if ``error`` is set.
        score: Agreement in [0, 1]; ``None`` if there is no answer. It is never 0 for a failure.
        likelihood: Of the user's true answer, in [0, 1]: the probability of a label, or the mean one of a
            text's tokens; ``None`` unless scores are graded and the model gives it.
        error: Why there is no answer: the model's output could not be read.
        tools: The tool calls, each as ``name(argument)``.

    Example:
        >>> rollout = Rollout(interaction_id="7", query="A heist.", truth="action", error="not a label")
        >>> rollout.score is None
        True
    """

    interaction_id: str
    query: str
    truth: str
    answer: str = ""
    score: float | None = None
    error: str = ""
    tools: Sequence[str] = ()
    likelihood: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the rollout as plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """The textual loss of one rollout.

    Attributes:
        interaction_id: The interaction that the feedback is about.
        text: The feedback; empty if ``skipped`` is set.
        skipped: Why there is no feedback.

    Example:
        >>> Feedback(interaction_id="7", skipped="the answer was right").text
        ''
    """

    interaction_id: str
    text: str = ""
    skipped: str = ""


def mean_score(scores: Sequence[float | None]) -> float | None:
    """Return the mean of the scores that there are; ``None`` if there are none."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True, kw_only=True)
class AlignmentStep(RenamedAttributes):
    """One iteration of Algorithm 1.

    Attributes:
        number: Counts from 1.
        persona_before: The persona of the rollouts.
        candidate: The rewrite; equal to ``persona_before`` if there is none.
        persona_after: The persona at the end of the step.
        rollouts: One for each interaction of the batch.
        feedback: One for each rollout that has an answer.
        decision: What the gate decided.
        note: What went wrong without stopping the step; empty otherwise.
        usage: Cost of this step by stage.
        parts: The parts of ``persona_after`` as JSON data; ``None`` for a text without parts.
        checks: One for each candidate that was tested on older interactions.
        refusals: Edits that code refused.

    Example:
        >>> right = Rollout(interaction_id="1", query="A heist.", truth="action", answer="action", score=1.0)
        >>> wrong = Rollout(interaction_id="2", query="A ghost.", truth="horror", answer="drama", score=0.0)
        >>> AlignmentStep(
        ...     number=1, persona_before="Be brief.", candidate="Be exact.", persona_after="Be exact.",
        ...     rollouts=[right, wrong], feedback=[], decision=Decision(accept=True, reason="kept"),
        ... ).score
        0.5
    """

    _renamed: ClassVar[Mapping[str, str]] = {"simulations": "rollouts"}

    number: int
    persona_before: str
    candidate: str
    persona_after: str
    rollouts: Sequence[Rollout]
    feedback: Sequence[Feedback]
    decision: Decision
    note: str = ""
    usage: Mapping[str, Usage] = field(default_factory=dict)
    parts: Mapping[str, Any] | None = None
    checks: Sequence[Check] = field(default_factory=list)
    refusals: Sequence[Refusal] = field(default_factory=list)

    @property
    def rejected(self) -> list[str]:
        """Edits that were refused or did not help, as the next update reads them."""
        checks = [check for check in self.checks if not check.decision.accept]
        return [*map(str, self.refusals), *(check.label for check in checks)]

    @property
    def score(self) -> float | None:
        """Mean agreement of the rollouts that have an answer; ``None`` if none has."""
        return mean_score([rollout.score for rollout in self.rollouts])

    def as_dict(self) -> dict[str, Any]:
        """Return the step as plain data, under the names that stored records use."""
        step = asdict(self)
        return {("simulations" if name == "rollouts" else name): value for name, value in step.items()}


@dataclass(frozen=True, kw_only=True)
class AlignmentRecord(RenamedAttributes):
    """A whole alignment. It prints as one line.

    Attributes:
        config: Every setting that changed the outcome.
        plan: What was predicted before the run.
        steps: The iterations, in order.
        n_rollouts: How often the agent answered a past interaction.
        usage: Cost by stage.
        seconds: Wall time.
        model: The agent's model.
        prompt_model: The model of feedback and update.
        review: What later interactions said of the persona that the alignment started from; ``None`` if
            it was not tested further.
        pending: What the next alignment needs to test the persona further; ``None`` if it is not.
        versions: Versions of the packages that decide the outcome.

    Example:
        >>> from optimizers.config import PAPER, make_plan
        >>> plan = make_plan(PAPER, trainset=50, calls_per_rollout=(3, 6))
        >>> print(AlignmentRecord(config=PAPER, plan=plan, n_rollouts=3, model="scripted"))
        0 steps, 3 rollouts, 0 calls, 0 tokens, $0.0000, 0.0 s (scripted)
    """

    _renamed: ClassVar[Mapping[str, str]] = {"agent_runs": "n_rollouts"}

    config: AlignmentConfig
    plan: Plan
    steps: Sequence[AlignmentStep] = ()
    n_rollouts: int = 0
    usage: Mapping[str, Usage] = field(default_factory=dict)
    seconds: float = 0.0
    model: str = ""
    prompt_model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    review: Decision | None = None
    pending: Pending | None = None

    @property
    def reason(self) -> str:
        """Why the persona is what it is now, in a few words."""
        kept = [step.decision for step in self.steps if step.decision.accept]
        if kept:
            return kept[-1].reason
        if self.review is not None and self.review.outcome == "rolled back":
            return self.review.reason
        return self.steps[-1].decision.reason if self.steps else "no step"

    def __str__(self) -> str:
        scores = [step.score for step in self.steps]
        agreement = ", ".join("-" if score is None else f"{score:.2f}" for score in scores)
        kept = sum(step.decision.accept for step in self.steps)
        steps = counted(len(scores), "step")
        if scores:
            steps += f" (agreement {agreement}; {counted(kept, 'rewrite')} kept)"
        total = Usage()
        for usage in self.usage.values():
            total.add(usage)
        return f"{steps}, {counted(self.n_rollouts, 'rollout')}, {total}, {self.seconds:.1f} s ({self.model})"

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain data, under the names that stored records use."""
        return {
            "config": self.config.as_dict(),
            "plan": self.plan.as_dict(),
            "steps": [step.as_dict() for step in self.steps],
            "agent_runs": self.n_rollouts,
            "usage": {stage: asdict(usage) for stage, usage in self.usage.items()},
            "seconds": self.seconds,
            "model": self.model,
            "prompt_model": self.prompt_model,
            "versions": dict(self.versions),
            "review": None if self.review is None else asdict(self.review),
            "rejected": [text for step in self.steps for text in step.rejected],
            "pending": None if self.pending is None else asdict(self.pending),
        }
