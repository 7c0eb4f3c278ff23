"""Everything that changes the outcome of an alignment, in one place, and what it will cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from program.errors import ConfigError
from program.loop import AgentSettings
from program.persona import MAX_CHARS

BatchChoice = Literal["latest", "balanced", "hardest"]
GateChoice = Literal["always", "best"]

POOL_FACTOR = 4
"""`hardest` looks for its batch among this many times `batch_size` of the latest interactions."""


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Settings of one alignment. The defaults are the paper's Algorithm 1.

    Attributes:
        steps: Iterations E; 0 leaves the persona as it is.
        batch_size: Interactions n that are simulated in each step.
        batch: Which ones: the latest (paper), the latest balanced over responses, or those that
            the current persona answers worst.
        skip_right: Make no feedback where the simulated answer already was the user's.
        gate: Keep every rewrite (paper), or only one that scores better than its parent on the
            validation set, or on the batch where there is none.
        max_chars: Longest persona that is accepted, in characters.
        seed: For every random choice (alignment pairs of LaMP-1).
    """

    steps: int = 1
    batch_size: int = 3
    batch: BatchChoice = "latest"
    skip_right: bool = False
    gate: GateChoice = "always"
    max_chars: int = MAX_CHARS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"`steps` must be 0 or more, got {self.steps!r}")
        if self.batch_size < 1:
            raise ConfigError(f"`batch_size` must be 1 or more, got {self.batch_size!r}")
        if self.batch not in ("latest", "balanced", "hardest"):
            raise ConfigError(f"`batch` must be 'latest', 'balanced' or 'hardest', got {self.batch!r}")
        if self.gate not in ("always", "best"):
            raise ConfigError(f"`gate` must be 'always' or 'best', got {self.gate!r}")
        if self.max_chars < 200:
            raise ConfigError(f"`max_chars` must be 200 or more, got {self.max_chars!r}")


PAPER = AlignmentConfig()
"""Algorithm 1 with the paper's n = 3 and E = 1."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an alignment will do, known before it starts.

    Agent runs are exact for the gate `always`; loss and update calls are exact where nothing is
    skipped and every answer can be read (each unreadable one is asked for once more). An agent run
    makes between ``calls_per_run[0]`` and ``calls_per_run[1]`` model calls.
    """

    agent_runs: int
    loss_calls: int
    update_calls: int
    calls_per_run: tuple[int, int]

    @property
    def calls(self) -> tuple[int, int]:
        """Fewest and most model calls, without repeats of unreadable answers."""
        low, high = self.calls_per_run
        other = self.loss_calls + self.update_calls
        return self.agent_runs * low + other, self.agent_runs * high + other


def plan(
    config: AlignmentConfig,
    agent: AgentSettings,
    *,
    trainset: int,
    valset: int = 0,
    has_tools: bool = True,
    always_concludes: bool = False,
) -> Plan:
    """Return the plan of an alignment over ``trainset`` interactions.

    Args:
        config: The alignment's settings.
        agent: The agent's settings.
        trainset: Number of interactions that can be learned from.
        valset: Number of validation interactions; used by the gate `best` only.
        has_tools: Whether the agent has tools; without them a run is one call.
        always_concludes: Whether the answer is asked for on its own, which takes one more call.
    """
    n = min(config.batch_size, trainset)
    pool = min(POOL_FACTOR * config.batch_size, trainset) if config.batch == "hardest" else 0
    runs = config.steps * n
    if config.batch == "hardest" and config.steps:
        runs += pool - n
    if config.gate == "best" and config.steps:
        # The parent's batch was simulated by the step itself; an accepted rewrite's is then reused.
        runs = (config.steps + 1) * valset + config.steps * n if valset else n + config.steps * n
        runs += max(pool - n, 0)
    low = agent.min_actions + 1 + int(always_concludes) if has_tools else 1
    high = agent.max_steps + 1 if has_tools else 1
    return Plan(
        agent_runs=runs,
        loss_calls=config.steps * n,
        update_calls=config.steps,
        calls_per_run=(low, high),
    )
