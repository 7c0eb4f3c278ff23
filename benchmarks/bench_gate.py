"""Which rewrites each gate keeps, on simulated users: what they gain, false accepts, power.

    .venv/bin/python benchmarks/bench_gate.py [--users 1200] [--cohorts 12] [--alpha 0.05] [--gain 0.1]

A rewrite shifts the log-odds of a user's true answers, by more or less from item to item. Both outcomes
come from the same rewrite: the likelihood of the true answer (graded, bound .25), and whether it is above
one half (binary, bound 1). Prints tables in Markdown. Gains are in accuracy x 1000, over all users, with a
standard error; the other numbers are shares of users. A fitted prior comes from 40 other users of the
population, drawn anew for each cohort; the cold one is `COLD_PRIOR`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizers import betting
from optimizers.contracts import Trial
from optimizers.gates import Best, TwoKeys

Floats = NDArray[np.float64]
BOUND = {"graded": 0.25, "binary": 1.0}
SIZES = (3, 5, 8, 12, 20)
SPREAD, NOISE = 1.5, 1.2
"""Standard deviations, in log-odds: of a user's items, and of what a rewrite does from item to item."""
OTHERS = 40

POPULATIONS = {
    "good": ((0.55, 0.6), (0.35, 0.0), (0.10, -0.6)),
    "mediocre": ((0.30, 0.6), (0.40, 0.0), (0.30, -0.6)),
    "bad": ((0.05, 0.6), (0.15, 0.0), (0.80, -0.8)),
}
"""Shares of users, and the shift of the log-odds that a rewrite brings them."""

REWRITES = {
    "no gain": (0.0, NOISE),
    "gain": (0.6, NOISE),
    "large gain": (1.2, NOISE),
    "large even gain": (1.2, 0.5),
    "loss": (-0.6, NOISE),
}
"""The shift of the log-odds, and its standard deviation from item to item."""

ONE_TEST = TwoKeys(alpha=0.1 * math.pi**2 / 6)
"""A test at level .1 that leaves nothing for later ones."""


@dataclass(frozen=True)
class User:
    """One user with the log-odds of the true answers under both personas."""

    parent: Floats
    candidate: Floats
    shift: float

    @property
    def gain(self) -> float:
        """The true gain in accuracy: half of all items are above 0 without the shift."""
        return math.erf(self.shift / SPREAD / math.sqrt(2)) / 2

    def pair(self, outcome: str, n: int) -> tuple[list[float], list[float]]:
        """Return the first ``n`` scores of both personas."""
        return scores(self.parent[:n], outcome), scores(self.candidate[:n], outcome)


def scores(log_odds: Floats, outcome: str) -> list[float]:
    values = 1 / (1 + np.exp(-log_odds)) if outcome == "graded" else log_odds > 0
    return [float(value) for value in values]


def draw_user(rng: np.random.Generator, shift: float, noise: float = NOISE) -> User:
    parent = rng.normal(0, SPREAD, max(SIZES))
    return User(parent, rewrite(rng, shift, parent, noise), shift)


def rewrite(rng: np.random.Generator, shift: float, parent: Floats, noise: float = NOISE) -> Floats:
    """Return the log-odds under a rewrite; without a shift the two personas are exchangeable."""
    keep = math.sqrt(1 - (noise / SPREAD) ** 2)
    return keep * parent + shift + rng.normal(0, noise, parent.shape)


def draw(rng: np.random.Generator, population: str, users: int) -> list[User]:
    shares, shifts = zip(*POPULATIONS[population], strict=True)
    return [draw_user(rng, float(shift)) for shift in rng.choice(shifts, size=users, p=shares)]


def sums(users: Sequence[User], outcome: str, n: int) -> list[tuple[float, float]]:
    found = [betting.evidence(*user.pair(outcome, n), BOUND[outcome]) for user in users]
    return [(one.n_plus, one.n_minus) for one in found]


def fit_without_uniform(trials: Sequence[tuple[float, float]], rounds: int = 100) -> tuple[float, ...]:
    """Fit a prior with one pseudo-user alone, whose rewrite changes nothing."""
    rho = np.array(betting.RHO)
    logs = np.array(trials).reshape(-1, 2) @ np.log(np.array([rho, 1 - rho]))
    nothing = np.eye(len(rho))[betting.NO_GAIN]
    weights = np.full(len(rho), 1 / len(rho))
    for _ in range(rounds if trials else 0):
        joint = np.exp(logs - logs.max(axis=1, keepdims=True)) * weights
        fitted = (joint / joint.sum(axis=1, keepdims=True)).sum(axis=0)
        weights = (fitted + nothing) / (len(trials) + 1)
    return tuple((weights if trials else nothing).tolist())


def mean(values: Sequence[float]) -> str:
    return f"{np.mean(values) * 1000:.0f} ± {np.std(values) / math.sqrt(len(values)) * 1000:.0f}"


def share(values: Sequence[bool]) -> str:
    return f"{np.mean(values):.3f}"


def table(title: str, head: Sequence[str], rows: Iterator[list[str]]) -> None:
    print(f"\n{title}\n")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


GATES = ("always", "best", "evidence, cold", "evidence, fitted", "confirmed, cold", "confirmed, fitted")


def kept_by_each(gate: TwoKeys, user: User, outcome: str, n: int, prior: Sequence[float]) -> dict[str, bool]:
    """Return for each of `GATES` whether it keeps the user's rewrite."""
    pair = user.pair(outcome, n)
    cold = gate.judge(*pair, Trial(bound=BOUND[outcome]))
    warm = gate.judge(*pair, Trial(bound=BOUND[outcome], prior=prior))
    shown = cold.outcome == "confirmed", warm.outcome == "confirmed"
    kept = (True, Best().decide(*pair).accept, cold.accept, warm.accept, *shown)
    return dict(zip(GATES, kept, strict=True))


def gains(gate: TwoKeys, options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield what users gain under each gate."""
    for population in POPULATIONS:
        for outcome in BOUND:
            for n in (5, 12):
                gained = defaultdict(list)
                for cohort in range(options.cohorts):
                    rng = np.random.default_rng([options.seed, cohort])
                    users = draw(rng, population, options.users // options.cohorts)
                    prior = betting.fit_prior(sums(draw(rng, population, OTHERS), outcome, n))
                    for user in users:
                        for name, kept in kept_by_each(gate, user, outcome, n, prior).items():
                            gained[name].append(user.gain * kept)
                yield [population, outcome, str(n), *(mean(gained[name]) for name in GATES)]


def priors(gate: TwoKeys, options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield what users gain with priors from few others: both pseudo-users, and the first alone."""
    for population in POPULATIONS:
        for outcome in BOUND:
            gained = defaultdict(list)
            for cohort in range(options.cohorts):
                rng = np.random.default_rng([options.seed, cohort])
                users = draw(rng, population, options.users // options.cohorts)
                others = sums(draw(rng, population, OTHERS), outcome, 5)
                for n_others in (0, 1, 3, 10, OTHERS):
                    some = others[:n_others]
                    for name, prior in (
                        ("both", betting.fit_prior(some)),
                        ("one", fit_without_uniform(some)),
                    ):
                        for user, (n_plus, n_minus) in zip(users, sums(users, outcome, 5), strict=True):
                            kept = betting.gain_over_users(n_plus, n_minus, prior) >= gate.gain
                            gained[name, n_others].append(user.gain * kept)
            for name in ("both", "one"):
                values = (mean(found) for (which, _), found in gained.items() if which == name)
                yield [population, outcome, name, *values]


def rates(gate: TwoKeys, options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the share of rewrites that each gate keeps, the prior fitted on a good population."""
    rng = np.random.default_rng([options.seed, 100])
    others = draw(rng, "good", OTHERS)
    for title, (shift, noise) in REWRITES.items():
        users = [draw_user(rng, shift, noise) for _ in range(options.users // 3)]
        for outcome in BOUND:
            rows = defaultdict(list)
            for n in SIZES:
                prior = betting.fit_prior(sums(others, outcome, n))
                each = [kept_by_each(gate, user, outcome, n, prior) for user in users]
                for name in GATES[1:]:
                    rows[name].append(share([kept[name] for kept in each]))
                trial = Trial(bound=BOUND[outcome], prior=prior)
                once = [ONE_TEST.judge(*user.pair(outcome, n), trial) for user in users]
                rows["one test at .1, fitted"].append(share([one.outcome == "confirmed" for one in once]))
            for name, values in rows.items():
                yield [title, outcome, name, *values]


def looks(gate: TwoKeys, options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield what looking after every item changes: outcomes, and the items that were needed."""
    rng = np.random.default_rng([options.seed, 200])
    for title, (shift, noise) in REWRITES.items():
        users = [draw_user(rng, shift, noise) for _ in range(options.users)]
        for outcome in BOUND:
            confirmed, kept, at_end, needed = [], [], [], []
            for user in users:
                for n in range(1, gate.check_items + 1):
                    decision = gate.judge(*user.pair(outcome, n), Trial(bound=BOUND[outcome], more=True))
                    if decision.outcome != "undecided":
                        break
                confirmed.append(decision.outcome == "confirmed")
                kept.append(decision.accept)
                needed.append(n)
                end = gate.judge(*user.pair(outcome, gate.check_items), Trial(bound=BOUND[outcome]))
                at_end.append(end.accept)
            yield [title, outcome, share(confirmed), share(kept), share(at_end), f"{np.mean(needed):.1f}"]


def shows_loss(gate: TwoKeys, user: User, outcome: str) -> bool:
    """Return whether the second key ever holds for the parent, on the 12 items after the first 5."""
    parent, candidate = user.pair(outcome, 17)
    losses = betting.evidence(candidate[5:], parent[5:], BOUND[outcome]).d
    limit = -math.log(betting.level(gate.alpha))
    return any(betting.log_wealth(losses[:n]) >= limit for n in range(1, 13))


def rollbacks(gate: TwoKeys, options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield how often a rewrite kept on 5 items is rolled back in 12 reviews, one for each later item."""
    rng = np.random.default_rng([options.seed, 400])
    for title, (shift, noise) in REWRITES.items():
        users = [draw_user(rng, shift, noise) for _ in range(options.users // 3)]
        for outcome in BOUND:
            trial = Trial(bound=BOUND[outcome])
            kept = [user for user in users if gate.judge(*user.pair(outcome, 5), trial).accept]
            rolled_back = [
                any(
                    gate.review(*user.pair(outcome, n), trial, later=n - 5).outcome == "rolled back"
                    for n in range(6, 18)
                )
                for user in kept
            ]
            reverse = [shows_loss(gate, user, outcome) for user in kept]
            yield [title, outcome, str(len(kept)), share(rolled_back), share(reverse)]


def eight_nulls(gate: TwoKeys, options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield how often one of eight rewrites without gain is confirmed, on the same 12 items."""
    for outcome in (*BOUND, "a coin for each item"):
        rng = np.random.default_rng([options.seed, 300])
        found = defaultdict(list)
        for _ in range(options.users // 2):
            if outcome in BOUND:
                parent = rng.normal(0, SPREAD, 12)
                users = [User(parent, rewrite(rng, 0.0, parent), 0.0) for _ in range(8)]
                pairs = [user.pair(outcome, 12) for user in users]
            else:
                pairs = [([0.5] * 12, list(rng.choice((0.25, 0.75), 12))) for _ in range(8)]
            found["best"].append(any(Best().decide(*pair).accept for pair in pairs))
            for name, rule, candidates in (
                ("one test at .1", ONE_TEST, 1),
                ("as if alone", gate, 1),
                ("paid for", gate, 8),
            ):
                trial = Trial(bound=BOUND.get(outcome, 0.25), n_candidates=candidates)
                found[name].append(any(rule.judge(*pair, trial).outcome == "confirmed" for pair in pairs))
        yield [outcome, *(share(values) for values in found.values())]


def reach(gate: TwoKeys) -> Iterator[list[str]]:
    """Yield the fewest items that can confirm the j-th rewrite of a user."""
    certain = (0.0,) * (len(betting.RHO) - 1) + (1.0,)
    for number in (1, 2, 3, 5, 8):
        level = betting.level(gate.alpha, number - 1)
        needed = betting.items_needed(level), betting.items_needed(level, certain)
        yield [str(number), f"{1 / level:.0f}", *map(str, needed)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=1200)
    parser.add_argument("--cohorts", type=int, default=12)
    parser.add_argument("--alpha", type=float, default=TwoKeys.alpha)
    parser.add_argument("--gain", type=float, default=TwoKeys.gain)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    gate = TwoKeys(alpha=options.alpha, gain=options.gain)
    table("Gain in accuracy x 1000", ["population", "outcome", "n", *GATES], gains(gate, options))
    table("Share kept", ["rewrite", "outcome", "gate", *map(str, SIZES)], rates(gate, options))
    table(
        "A look after every item, up to 12, cold",
        ["rewrite", "outcome", "confirmed", "kept", "kept if judged at the end only", "items used"],
        looks(gate, options),
    )
    table(
        "Kept on 5 items, then rolled back by one of the next 12, cold",
        ["rewrite", "outcome", "kept", "rolled back", "by reverse evidence alone"],
        rollbacks(gate, options),
    )
    table(
        "One of eight rewrites without gain is confirmed, n = 12, cold",
        ["outcome", "best keeps one", "one test at .1", "as if alone", "paid for"],
        eight_nulls(gate, options),
    )
    table(
        "Gain in accuracy x 1000 at n = 5 with a prior from few other users",
        ["population", "outcome", "pseudo-users", "0", "1", "3", "10", str(OTHERS)],
        priors(gate, options),
    )
    table(
        "Fewest items that can confirm the j-th rewrite of a user",
        ["j", "wealth needed", "cold", "surest prior"],
        reach(gate),
    )
    seconds = time.perf_counter() - started
    print(f"\nalpha {gate.alpha}, gain {gate.gain}, {options.users} users, {seconds:.0f} s")


if __name__ == "__main__":
    main()
