"""Gates: which rewritten personas an alignment keeps (see `optimizers.contracts`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from optimizers import betting
from optimizers.contracts import CheckingGate, Decision, Gate, Outcome, Trial
from program.errors import ConfigError
from program.limits import MANY, check_at_most
from program.plugins import Registry
from program.text import counted

GATES = Registry(
    kind="gate",
    group="personaagent.gates",
    built_in={
        "always": "optimizers.gates:Always",
        "best": "optimizers.gates:Best",
        "evidence": "optimizers.gates:TwoKeys",
    },
    members=("needs_scores", "decide"),
)
"""Every gate that can be named."""


@dataclass(frozen=True)
class Always(Gate):
    """Keeps every rewrite (paper, Algorithm 1)."""

    needs_scores: ClassVar[bool] = False

    def decide(self, parent: Sequence[float], candidate: Sequence[float]) -> Decision:
        """Accept."""
        return Decision(accept=True, reason="every rewrite is kept")


@dataclass(frozen=True)
class Best(Gate):
    """Keeps a rewrite if its mean agreement is higher than its parent's. Ties keep the parent.

    Example:
        >>> Best().decide([0.0, 1.0], [1.0, 1.0]).reason
        'agreement rose from 0.50 to 1.00'
        >>> Best().decide([1.0], [1.0]).accept
        False
    """

    needs_scores: ClassVar[bool] = True

    def decide(self, parent: Sequence[float], candidate: Sequence[float]) -> Decision:
        """Compare the means."""
        if not parent or not candidate:
            return Decision(accept=False, reason="no interaction could be scored under both personas")
        before, after = fmean(parent), fmean(candidate)
        accept = after > before
        change = "rose from" if accept else "did not rise:"
        return Decision(
            accept=accept,
            reason=f"agreement {change} {before:.2f} to {after:.2f}",
            numbers={"before": before, "after": after, "n": float(len(candidate))},
        )


@dataclass(frozen=True)
class TwoKeys(CheckingGate):
    """Keeps a rewrite if it pays over users like this one, and says whether this user's items show it.

    Two keys (see `optimizers.betting`). The first: keeping it is expected to gain, given what rewrites
    did for other users and what this one does on the check items. The second: on this user's items alone
    it gains so much that a rewrite without gain is confirmed for at most a share ``alpha`` of users, ever,
    however many are tested and however often one looks.

    Both keys: ``confirmed``. The first alone: ``provisional``, to be judged again with later interactions
    (`review`). Otherwise ``refused``. If more items may come and they may change the outcome it is
    ``undecided``.

    Attributes:
        alpha: Most users for whom a rewrite without gain is ever confirmed, as a share, between 0 and 1.
        gain: The gain that the first key asks for, from 0 to below 1; 0 is no change and 1 is a gain on
            every item.
        check_items: Most older interactions that both personas are scored on, ``min_items`` or more.
        min_items: With fewer the gate confirms nothing and says that it cannot know, 1 or more.

    Example:
        >>> gate = TwoKeys()
        >>> likely = Trial(bound=0.25)
        >>> gate.judge([0.1] * 9, [0.5] * 9, likely).outcome
        'confirmed'
        >>> gate.judge([0.1] * 4, [0.5] * 4, likely).reason
        '4 check items are too few to know (8 needed); expected gain +0.49'
        >>> gate.judge([0.5] * 9, [0.1] * 9, likely).reason
        'no gain to expect: gains 0.0, losses 9.0 on 9 check items'
    """

    alpha: float = 0.05
    gain: float = 0.1
    check_items: int = 12
    min_items: int = 5

    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigError(f"`alpha` must be above 0 and below 1, got {self.alpha!r}")
        if not 0 <= self.gain < 1:
            raise ConfigError(f"`gain` must be 0 or more and below 1, got {self.gain!r}")
        if self.min_items < 1:
            raise ConfigError(f"`min_items` must be 1 or more, got {self.min_items!r}")
        if self.check_items < self.min_items:
            raise ConfigError(
                f"`check_items` must be `min_items` ({self.min_items}) or more, got {self.check_items!r}"
            )
        check_at_most("check_items", self.check_items, MANY)

    def decide(self, parent: Sequence[float], candidate: Sequence[float]) -> Decision:
        """Judge the first rewrite of a user, with nothing known about others."""
        return self.judge(parent, candidate, Trial())

    def judge(self, parent: Sequence[float], candidate: Sequence[float], trial: Trial) -> Decision:
        """Turn both keys.

        With ``trial.more`` it decides as soon as no further item can change the outcome, the rewrite is
        confirmed, or a loss is as sure as a gain would have to be.
        """
        tally = betting.evidence(parent, candidate, trial.bound)
        keys = _Keys(gate=self, trial=trial)
        outcome = keys.outcome(tally)
        left = self.check_items - len(tally.d)
        if trial.more and left > 0 and outcome != "confirmed":
            lost = len(tally.d) >= self.min_items and keys.gain(tally) <= -self.gain
            best, worst = (keys.outcome(_with_more(tally, d, left)) for d in (1.0, -1.0))
            outcome = "refused" if lost else best if best == worst else "undecided"
        return keys.decision(tally, outcome)

    def review(
        self, parent: Sequence[float], candidate: Sequence[float], trial: Trial, *, later: int
    ) -> Decision:
        """Judge a kept rewrite again, with the interactions that came since.

        It is rolled back if the later interactions alone show a loss, by the second key for the parent
        against the rewrite, or if all of them together let a loss be expected.

        Args:
            parent: Scores of the parent on all check items, later ones last.
            candidate: Scores of the rewrite on the same items.
            trial: The trial in which it was kept; ``more`` has no influence.
            later: How many of the last items came after it was kept.

        Raises:
            ConfigError: There are not so many items.

        Example:
            >>> worse = [0.9] * 9, [0.1] * 9
            >>> TwoKeys().review(*worse, Trial(bound=0.25), later=9).outcome
            'rolled back'
        """
        if not 0 <= later <= len(parent):
            raise ConfigError(f"`later` must be 0 to {len(parent)}, the number of items, got {later!r}")
        tally = betting.evidence(parent, candidate, trial.bound)
        keys = _Keys(gate=self, trial=trial)
        since = betting.evidence(
            parent[len(parent) - later :], candidate[len(candidate) - later :], trial.bound
        )
        if keys.shows_loss(since) or keys.gain(tally) < 0:
            return keys.decision(tally, "rolled back")
        outcome = keys.outcome(tally)
        return keys.decision(tally, "provisional" if outcome == "refused" else outcome)


def _with_more(tally: betting.Evidence, d: float, n: int) -> betting.Evidence:
    """Return the evidence with ``n`` more items, each a full gain or each a full loss."""
    won = n if d > 0 else 0
    return betting.Evidence(tally.d + (d,) * n, tally.n_plus + won, tally.n_minus + n - won)


@dataclass(frozen=True, kw_only=True)
class _Keys:
    """Both keys of one trial."""

    gate: TwoKeys
    trial: Trial

    @property
    def prior(self) -> tuple[float, ...]:
        return betting.checked_prior(self.trial.prior)

    @property
    def level(self) -> float:
        return betting.level(self.gate.alpha, self.trial.n_before, self.trial.n_candidates)

    def gain(self, tally: betting.Evidence) -> float:
        return betting.gain_over_users(tally.n_plus, tally.n_minus, self.prior)

    def shows_gain(self, tally: betting.Evidence) -> bool:
        return betting.log_wealth(tally.d, self.prior) >= -math.log(self.level)

    def shows_loss(self, tally: betting.Evidence) -> bool:
        return betting.log_wealth(tally.reversed().d, self.prior[::-1]) >= -math.log(self.level)

    def outcome(self, tally: betting.Evidence) -> Outcome:
        # Without any item that both personas answered, the rewrite may have broken the agent.
        if not tally.d or self.gain(tally) < self.gate.gain:
            return "refused"
        known = len(tally.d) >= self.gate.min_items
        return "confirmed" if known and self.shows_gain(tally) else "provisional"

    def decision(self, tally: betting.Evidence, outcome: Outcome) -> Decision:
        return Decision(
            accept=outcome in ("confirmed", "provisional"),
            reason=self.reason(tally, outcome),
            numbers={
                "n": float(len(tally.d)),
                "n_plus": tally.n_plus,
                "n_minus": tally.n_minus,
                "gain": self.gain(tally),
                "wealth": betting.wealth(betting.log_wealth(tally.d, self.prior)),
                "level": self.level,
            },
            outcome=outcome,
        )

    def reason(self, tally: betting.Evidence, outcome: Outcome) -> str:
        n, items = len(tally.d), counted(len(tally.d), "check item")
        if not n:
            return "no interaction could be scored under both personas"
        on_items = f"gains {tally.n_plus:.1f}, losses {tally.n_minus:.1f} on {items}"
        expected = f"expected gain {round(self.gain(tally), 2) + 0.0:+.2f}"  # never -0.00
        needed = max(self.gate.min_items, betting.items_needed(self.level, self.prior))
        if outcome == "confirmed":
            return f"a gain is shown: {on_items}"
        if outcome == "rolled back":
            return f"later interactions speak against it: {on_items}"
        if outcome == "undecided":
            return f"needs more check items: {on_items}"
        if n < self.gate.min_items or (outcome == "provisional" and n < needed):
            are = "is" if n == 1 else "are"
            return f"{items} {are} too few to know ({needed} needed); {expected}"
        if outcome == "provisional":
            return f"{expected}, not yet shown for this user: {on_items}"
        return f"no gain to expect: {on_items}"
