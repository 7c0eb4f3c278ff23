"""Evidence that a rewritten persona answers better than its parent, from few interactions.

One item of evidence is ``d`` in [-1, 1]: by how much the rewrite's score on an interaction is above its
parent's. ``rho`` is the rewrite's win rate, .5 for a rewrite that changes nothing. Two questions are
asked of the same items:

- `gain_over_users`: over users like this one, does keeping such a rewrite pay? A Bayesian estimate under
  a prior that other users give (`fit_prior`). It decides at any number of items and guarantees nothing
  about one user.
- `log_wealth`: do this user's own items show a gain? A bet against "no gain" that cannot grow on
  average if there is none. Starting from 1 it ever reaches ``1 / level`` with a probability of at most
  ``level``, whatever the prior, and however often one looks (Ville's inequality).

Sources: I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting",
Journal of the Royal Statistical Society B 86(1), 2024; J. Ville, "Étude critique de la notion de
collectif", 1939. The prior is a maximum-likelihood mixture, fitted by EM (N. Laird, "Nonparametric maximum
likelihood estimation of a mixing distribution", JASA 73, 1978).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from program.errors import ConfigError

RHO: tuple[float, ...] = tuple(step / 40 for step in range(1, 40))
"""The win rates that a prior has weights for: .025, .05, ..., .975."""

NO_GAIN = RHO.index(0.5)
"""Position of the win rate of a rewrite that changes nothing."""

_UNIFORM = (1 / len(RHO),) * len(RHO)
_GAIN = tuple((step - 20) / 20 for step in range(1, 40))
"""``2 rho - 1``, exactly symmetric, so that as many gains as losses are no gain and no loss."""
_LOG_RHO = tuple((math.log(rho), math.log(other)) for rho, other in zip(RHO, reversed(RHO), strict=True))
_LARGEST_LOG = 700.0
"""Beyond it a number is no float any more."""

_PSEUDO_USERS = tuple(flat + (position == NO_GAIN) for position, flat in enumerate(_UNIFORM))
"""One user whose rewrite changes nothing, and one about whom nothing is known."""

COLD_PRIOR: tuple[float, ...] = tuple(weight / 2 for weight in _PSEUDO_USERS)
"""Weights over `RHO` if nothing is known about other users.

Half for "changes nothing", half for anything between total loss and total gain. With the first half
alone no rewrite could ever be kept; with the second alone one lucky item would speak like many.
"""


class Evidence(NamedTuple):
    """What the scores of two personas on the same interactions say.

    Attributes:
        d: For each interaction the gain of the rewrite, as a share of the bound, in [-1, 1].
        n_plus: Sum of the gains.
        n_minus: Sum of the losses.

    Example:
        >>> Evidence((1.0, -0.5), 1.0, 0.5).reversed()
        Evidence(d=(-1.0, 0.5), n_plus=0.5, n_minus=1.0)
    """

    d: tuple[float, ...]
    n_plus: float
    n_minus: float

    def reversed(self) -> Evidence:
        """Return the evidence for the parent against the rewrite."""
        return Evidence(tuple(-gain for gain in self.d), self.n_minus, self.n_plus)


def evidence(parent: Sequence[float], candidate: Sequence[float], bound: float = 1.0) -> Evidence:
    """Compare the scores of two personas.

    Args:
        parent: Scores in [0, 1] of the current persona.
        candidate: Scores of the rewrite on the same interactions, in the same order.
        bound: Larger differences count as this one, above 0 and at most 1. It is fixed before the scores
            are seen, or the guarantee is lost. A small bound makes more of many small gains, and keeps
            one large difference from deciding.

    Raises:
        ConfigError: The bound is out of range.
        ValueError: The two differ in length, or a score is not a number.

    Example:
        >>> evidence([0.2, 0.5, 0.5], [0.7, 0.375, 0.5], bound=0.25)
        Evidence(d=(1.0, -0.5, 0.0), n_plus=1.0, n_minus=0.5)
    """
    if not 0 < bound <= 1:
        raise ConfigError(f"`bound` must be above 0 and at most 1, got {bound!r}")
    if len(parent) != len(candidate):
        raise ValueError(
            f"both personas need a score for each interaction, got {len(parent)} and {len(candidate)}"
        )
    gains = []
    for before, after in zip(parent, candidate, strict=True):
        if not math.isfinite(after - before):
            raise ValueError(f"scores must be numbers in [0, 1], got {before!r} and {after!r}")
        gains.append(max(-1.0, min(1.0, (after - before) / bound)))
    n_plus = math.fsum(max(d, 0.0) for d in gains)
    n_minus = math.fsum(max(-d, 0.0) for d in gains)
    return Evidence(tuple(gains), n_plus, n_minus)


def checked_prior(prior: Sequence[float] = ()) -> tuple[float, ...]:
    """Return the weights over `RHO`, summing to 1; `COLD_PRIOR` if there are none.

    Raises:
        ConfigError: The number of weights is wrong, one is negative, or all are zero.

    Example:
        >>> checked_prior() == COLD_PRIOR
        True
    """
    if not len(prior):
        return COLD_PRIOR
    weights = tuple(float(weight) for weight in prior)
    total = math.fsum(weights)
    if len(weights) != len(RHO) or min(weights) < 0 or not 0 < total < math.inf:
        raise ConfigError(f"a prior needs {len(RHO)} weights, none negative and not all 0; see `fit_prior`")
    return tuple(weight / total for weight in weights)


def gain_over_users(n_plus: float, n_minus: float, prior: Sequence[float] = ()) -> float:
    """Return what keeping the rewrite is expected to gain, in [-1, 1]: the first key.

    The mean of ``2 rho - 1`` for this user, given the prior and its evidence. Adding a gain never lowers
    it, adding a loss never raises it, and the order of the items has no influence.

    Args:
        n_plus: Sum of the gains, see `Evidence`.
        n_minus: Sum of the losses.
        prior: Weights over `RHO`; empty for `COLD_PRIOR`.

    Example:
        >>> round(gain_over_users(0, 0), 3), round(gain_over_users(3, 0), 3), round(gain_over_users(0, 3), 3)
        (0.0, 0.383, -0.383)
    """
    logs = [
        (math.log(weight) + (n_plus * win + n_minus * loss), gain)
        for weight, gain, (win, loss) in zip(checked_prior(prior), _GAIN, _LOG_RHO, strict=True)
        if weight > 0
    ]
    top = max(log for log, _ in logs)
    posterior = [(math.exp(log - top), gain) for log, gain in logs]
    total = math.fsum(weight for weight, _ in posterior)
    return math.fsum(weight * gain for weight, gain in posterior) / total


@lru_cache(maxsize=256)
def _bets(prior: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """Return stakes and the logarithms of their shares: half as the prior has them, half alike."""
    above = range(NO_GAIN + 1, len(RHO))
    mass = math.fsum(prior[position] for position in above)
    shares = {
        position: (prior[position] / mass + 1 / len(above)) / 2 if mass > 0 else 1 / len(above)
        for position in above
    }
    return tuple((_GAIN[position], math.log(share)) for position, share in shares.items())


def log_wealth(d: Sequence[float], prior: Sequence[float] = ()) -> float:
    """Return the logarithm of what a bet on the rewrite has become: the second key.

    The bet starts with 1 and stakes ``2 rho - 1`` of itself on each item, for each ``rho`` above .5 a
    share of it. If the items gain nothing on average, it ever reaches ``1 / level`` with a probability of
    at most ``level``. The prior decides how fast it grows, not whether this holds.

    Args:
        d: Gains in [-1, 1], see `Evidence`.
        prior: Weights over `RHO`; empty for `COLD_PRIOR`.

    Example:
        >>> log_wealth([])
        0.0
        >>> round(math.exp(log_wealth([1.0] * 5)), 1), round(math.exp(log_wealth([1.0] * 8)), 1)
        (10.2, 53.2)
    """
    logs = [
        share + math.fsum(math.log1p(stake * gain) for gain in d)
        for stake, share in _bets(checked_prior(prior))
    ]
    top = max(logs)
    total = top + math.log(math.fsum(math.exp(log - top) for log in logs))
    return total if d else 0.0


def wealth(log: float) -> float:
    """Return what `log_wealth` is the logarithm of, as a number that JSON can hold.

    Example:
        >>> wealth(0.0), wealth(10_000.0) < math.inf
        (1.0, True)
    """
    return math.exp(min(log, _LARGEST_LOG))


def level(alpha: float, n_before: int = 0, n_candidates: int = 1) -> float:
    """Return how unlikely the evidence for one rewrite must be under "no gain".

    The levels of all rewrites that are ever tested for a user sum to at most ``alpha``.

    Args:
        alpha: Chance that a rewrite without gain is ever confirmed for a user.
        n_before: Rewrites tested for this user before; those on the same items count once, together.
        n_candidates: Rewrites tested on the same items.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> round(level(0.05), 4), round(level(0.05, n_before=1), 4), round(level(0.05, n_candidates=8), 4)
        (0.0304, 0.0076, 0.0038)
    """
    if n_before < 0 or n_candidates < 1:
        raise ConfigError(
            f"a trial needs `n_before` of 0 or more and `n_candidates` of 1 or more, got {n_before} and "
            f"{n_candidates}"
        )
    return alpha * 6 / (math.pi * (n_before + 1)) ** 2 / n_candidates


def items_needed(at: float, prior: Sequence[float] = ()) -> int:
    """Return the fewest items that can reach the level ``at``, if every one of them is a full gain.

    Example:
        >>> items_needed(level(0.05)), items_needed(level(0.05, n_before=4))
        (8, 13)
    """
    return _items_needed(at, checked_prior(prior))


@lru_cache(maxsize=1024)
def _items_needed(at: float, prior: tuple[float, ...]) -> int:
    n = 1
    while log_wealth((1.0,) * n, prior) < -math.log(at):
        n += 1
    return n


def fit_prior(trials: Iterable[tuple[float, float]], *, rounds: int = 100) -> tuple[float, ...]:
    """Return the weights over `RHO` that fit what rewrites did for other users.

    Two pseudo-users keep it from certainty: one whose rewrite changes nothing, and one about whom nothing
    is known. Without any trial they are all there is: `COLD_PRIOR`.

    Args:
        trials: ``n_plus`` and ``n_minus`` of rewrites for other users of the same task, model and
            settings, refused ones included; never of the user whose rewrite is judged.
        rounds: Iterations of EM.

    Raises:
        ValueError: A sum is negative or not a number.

    Example:
        >>> kind, harsh = fit_prior([(6, 1)] * 20), fit_prior([(1, 6)] * 20)
        >>> gain_over_users(0, 0, kind) > 0.1 > gain_over_users(1, 0, harsh)
        True
        >>> fit_prior([]) == COLD_PRIOR
        True
    """
    # Sums are often equal, if scores are 0 or 1.
    pairs = Counter((float(n_plus), float(n_minus)) for n_plus, n_minus in trials)
    for pair in pairs:
        if not all(0 <= value < math.inf for value in pair):
            raise ValueError(f"a trial needs two sums of 0 or more, got {pair}")
    if not pairs:
        return COLD_PRIOR
    import numpy as np

    logs = np.array(_LOG_RHO) @ np.array(list(pairs)).T
    likelihood = np.exp(logs - logs.max(axis=0))
    users, pseudo_users = np.array(list(pairs.values())), np.array(_PSEUDO_USERS)
    weights = np.array(COLD_PRIOR)
    for _ in range(rounds):
        # The sum of all users' posteriors, as two products: a fleet fits a prior for each user.
        posteriors = weights * (likelihood @ (users / (weights @ likelihood)))
        weights = (posteriors + pseudo_users) / (users.sum() + 2)
    return tuple(weights.tolist())
