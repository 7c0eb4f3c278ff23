"""The settings of an alignment, and the plan of what it will cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from optimizers.batches import BATCH_RULES
from optimizers.contracts import BatchSelector, CheckingGate, Gate
from optimizers.gates import GATES
from program.errors import ConfigError
from program.limits import MANY, MOST_STEPS, check_at_most
from program.persona import MAX_CHARS


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Every setting that changes the outcome of an alignment. The defaults are the paper's Algorithm 1.

    Attributes:
        steps: Iterations E, 0 or more; 0 leaves the persona unchanged.
        batch_size: Interactions n that are answered again in each step, 1 or more; ``--batch`` on the
            command line.
        batch: Which interactions: a batch rule, or its name (see `optimizers.batches`); ``--choice`` on the
            command line.
        skip_right: Make no feedback for an interaction whose rollout gave the user's own answer.
        gate: Which rewrites are kept: a gate, or its name (see `optimizers.gates`).
        edits: Edit single lines of the persona, each with the interactions that it rests on, instead of
            rewriting the whole text. If the model of feedback and update cannot write (its ``summarises``
            is false), the edits show other facts, without a call.
        candidates: Most such edits that are tested in one step, 1 or more.
        max_edits: Most lines that one step changes, 1 or more.
        evidence: Show facts from code (`program.evidence`) to feedback and update.
        graded: Score rollouts by the likelihood of the user's true answer if the model gives it, and by
            agreement otherwise. Only gates with `check_items` use these scores.
        replay: Score a candidate on an older interaction from the tool calls of its parent, with one call.
            Otherwise the agent chooses its tools again.
        max_chars: Longest persona that is accepted, in characters, 200 or more.
        seed: Seed of every random choice (LaMP-1 draws its wrong options).

    Raises:
        ConfigError: A value is out of range, or a rule cannot be loaded.

    Example:
        >>> config = AlignmentConfig(steps=2, gate="best", batch="hardest:pool_factor=6")
        >>> config.as_dict()["batch"]
        'hardest:pool_factor=6'
    """

    steps: int = 1
    batch_size: int = 3
    batch: str | BatchSelector = "latest"
    skip_right: bool = False
    gate: str | Gate = "always"
    edits: bool = False
    candidates: int = 4
    max_edits: int = 3
    evidence: bool = False
    graded: bool = False
    replay: bool = False
    max_chars: int = MAX_CHARS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("steps", 0, MOST_STEPS),
            ("batch_size", 1, MANY),
            ("candidates", 1, MANY),
            ("max_edits", 1, MANY),
            ("max_chars", 200, MANY),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"`{name}` must be {least} or more, got {getattr(self, name)!r}")
            check_at_most(name, getattr(self, name), most)
        # Load both now, so that a wrong name costs no model call.
        _ = self.batch_rule, self.gate_rule

    @cached_property
    def batch_rule(self) -> BatchSelector:
        """The batch rule itself."""
        rule: BatchSelector = BATCH_RULES.make(self.batch) if isinstance(self.batch, str) else self.batch
        return rule

    @cached_property
    def gate_rule(self) -> Gate:
        """The gate itself."""
        gate: Gate = GATES.make(self.gate) if isinstance(self.gate, str) else self.gate
        return gate

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain data; rules become the specs that make them again."""
        return {
            **{name: value for name, value in vars(self).items() if name in self.__dataclass_fields__},
            "batch": BATCH_RULES.spec_of(self.batch_rule),
            "gate": GATES.spec_of(self.gate_rule),
        }


PAPER = AlignmentConfig()
"""Algorithm 1 with the paper's n = 3 and E = 1."""

GROUNDED = AlignmentConfig(
    skip_right=True, gate="evidence", edits=True, evidence=True, graded=True, replay=True
)
"""Edits that rest on interactions, facts from code, and a gate with error rates."""

PRESETS = {"paper": PAPER, "grounded": GROUNDED}
"""Name to settings."""


def preset_named(name: str) -> AlignmentConfig:
    """Return the settings of ``--preset``.

    Raises:
        ConfigError: There are none of this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"`--preset` must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def checking_gate(gate: Gate) -> CheckingGate | None:
    """Return a gate that tests candidates on older interactions as such; ``None`` for any other."""
    return cast(CheckingGate, gate) if hasattr(gate, "judge") else None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an alignment will do, known before it starts.

    The number of rollouts is exact if the gate needs no scores. Loss and update calls are exact if
    nothing is skipped and every reply can be read; each unreadable one is asked for once more.

    Attributes:
        n_rollouts: How often the agent answers a past interaction.
        loss_calls: Model calls for feedback.
        update_calls: Model calls for rewrites.
        calls_per_rollout: Fewest and most model calls of one rollout.
        n_checks: Most answers that test candidates on older interactions. They are rollouts, or one call
            each (see `AlignmentConfig.replay`).
        calls_per_check: Fewest and most model calls of one of them.

    Example:
        >>> Plan(n_rollouts=3, loss_calls=3, update_calls=1, calls_per_rollout=(3, 6)).calls
        (13, 22)
    """

    n_rollouts: int
    loss_calls: int
    update_calls: int
    calls_per_rollout: tuple[int, int]
    n_checks: int = 0
    calls_per_check: tuple[int, int] = (0, 0)

    @property
    def calls(self) -> tuple[int, int]:
        """Fewest and most model calls, not counting repeats of unreadable replies.

        A test of candidates may end early: the fewest are those without it.
        """
        low, high = self.calls_per_rollout
        other = self.loss_calls + self.update_calls
        checks = self.n_checks * self.calls_per_check[1]
        return self.n_rollouts * low + other, self.n_rollouts * high + other + checks

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, under the names that stored records use."""
        return {
            "agent_runs": self.n_rollouts,
            "loss_calls": self.loss_calls,
            "update_calls": self.update_calls,
            "calls_per_run": list(self.calls_per_rollout),
            "n_checks": self.n_checks,
            "calls_per_check": list(self.calls_per_check),
        }


def make_plan(
    config: AlignmentConfig,
    *,
    trainset: int,
    valset: int = 0,
    calls_per_rollout: tuple[int, int],
    calls_per_score: int = 0,
    writes: bool = True,
) -> Plan:
    """Return the plan of an alignment.

    Args:
        config: The alignment's settings.
        trainset: Number of interactions that can be learned from.
        valset: Number of validation interactions; only a gate that needs scores uses them.
        calls_per_rollout: Fewest and most model calls of one rollout, without its score.
        calls_per_score: Model calls that score the true answer of a rollout, if scores are graded.
        writes: Whether the model of feedback and update can write; only edits ask.

    Example:
        >>> make_plan(PAPER, trainset=50, calls_per_rollout=(3, 6)).calls
        (13, 22)
    """
    score = calls_per_score if config.graded else 0
    calls_per_rollout = calls_per_rollout[0] + score, calls_per_rollout[1] + score
    n = min(config.batch_size, trainset)
    pool = min(config.batch_rule.pool_size(config.batch_size), trainset) if config.steps else 0
    asks = writes or not config.edits
    rollouts, n_checks = config.steps * n, 0
    if (gate := checking_gate(config.gate_rule)) is not None:
        items = valset or min(gate.check_items, trainset - n)
        candidates = config.candidates if config.edits and not writes else 1
        # The parent answers each check item once, from its own tool calls.
        rollouts += min(config.steps, 1) * items
        n_checks = config.steps * candidates * items
    elif config.gate_rule.needs_scores and config.steps:
        # The step itself scores the parent on the batch, and a kept rewrite is the next parent.
        rollouts += (config.steps + 1) * valset if valset else n
    return Plan(
        # The pool holds the first batch.
        n_rollouts=rollouts + max(pool - n, 0),
        loss_calls=config.steps * n * asks,
        update_calls=config.steps * asks,
        calls_per_rollout=calls_per_rollout,
        n_checks=n_checks,
        calls_per_check=(1 + score, 1 + score) if config.replay else calls_per_rollout,
    )
