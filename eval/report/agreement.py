"""Agreement section: how often log-likelihood and the main metric agree on which of two methods is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.metrics import LOG_LIKELIHOOD
from eval.report.analysis import Analysis
from eval.report.section import Section
from eval.report.table import Column, Row, Table, key_column, percent, show
from program.errors import ConfigError

_ZERO = 1e-12
"""A difference below this is zero; sums of equal terms may differ in the last digit."""


@dataclass(frozen=True, kw_only=True)
class SignCounts:
    """How often two differences have the same sign.

    Attributes:
        same: Both favour the same method.
        opposite: They favour different methods.
        zero: At least one of them is zero.
    """

    same: int
    opposite: int
    zero: int

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return self.same + self.opposite + self.zero


def count_signs(differences: Sequence[tuple[float, float]]) -> SignCounts:
    """Compare the signs of two differences, for each pair of methods.

    Args:
        differences: Two differences for each pair; in both, a positive one favours the same method.

    Example:
        >>> count_signs([(0.3, 0.1), (0.2, -0.1), (0.2, 0.0)])
        SignCounts(same=1, opposite=1, zero=1)
    """
    same = opposite = zero = 0
    for first, second in differences:
        if min(abs(first), abs(second)) < _ZERO:
            zero += 1
        elif (first > 0) == (second > 0):
            same += 1
        else:
            opposite += 1
    return SignCounts(same=same, opposite=opposite, zero=zero)


def section(analysis: Analysis) -> Section | None:
    """Return the counts; ``None`` if no two methods can be compared in both measures."""
    table = sign_table(analysis)
    if not table.rows[0]["pairs"]:
        return None
    return Section(
        id="agreement",
        title=f"Log-likelihood against {analysis.main.title}",
        text=[
            "How often the two measures agree on which of two methods is better. The pairs share methods and "
            "queries, so they are not independent: the counts describe this run, and have no interval."
        ],
        tables=[table],
    )


def sign_table(analysis: Analysis) -> Table:
    """Return the counts over all pairs of methods, and over those that the log-likelihood decides.

    Raises:
        ConfigError: No answer of the run has probabilities.
    """
    if not analysis.has_likelihood:
        raise ConfigError(
            "no answer of this run has probabilities, so there is no log-likelihood to compare with; run "
            "methods with a model that scores labels, such as `embedded`, on a task with labels or ratings"
        )
    both = [
        (likelihood.difference, other.difference)
        for likelihood, other in zip(
            analysis.comparisons[LOG_LIKELIHOOD.name], analysis.comparisons[analysis.main.name], strict=True
        )
        if likelihood.difference and other.difference
    ]
    decided = [pair for pair in both if pair[0].verdict != "undecided"]
    rows: list[Row] = []
    for which, pairs in (("all", both), ("log-likelihood interval excludes zero", decided)):
        counts = count_signs(
            [(first.interval.value, analysis.main.utility(second.interval.value)) for first, second in pairs]
        )
        rows.append(
            {
                "metric": analysis.main.name,
                "which": which,
                "pairs": counts.pairs,
                "same": counts.same,
                "opposite": counts.opposite,
                "zero": counts.zero,
            }
        )
    return Table(
        name="agreement",
        title=f"{analysis.run.label}: signs of the differences in log-likelihood and {analysis.main.title}",
        rows=rows,
        columns=[
            key_column("which", "Pairs of methods", number=False),
            key_column("pairs", "Pairs"),
            *(
                _share_column(key, title)
                for key, title in (
                    ("same", "Same sign"),
                    ("opposite", "Opposite sign"),
                    ("zero", "One or both zero"),
                )
            ),
        ],
        notes=[
            "A sign is that of the better method, also if lower is better. Pairs that one of the two "
            "measures cannot compare are left out. An interval counts as excluding zero only with enough "
            "users, as everywhere in a report."
        ],
    )


def _share_column(key: str, title: str) -> Column:
    """Return a column that shows a count and its share of the row's pairs."""

    def text(row: Row) -> str:
        count, pairs = row[key], row["pairs"]
        share = (
            f" ({percent(count / pairs)})"
            if isinstance(count, int) and isinstance(pairs, int) and pairs
            else ""
        )
        return f"{show(count)}{share}"

    return Column(title, text)
