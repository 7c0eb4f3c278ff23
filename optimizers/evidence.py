"""Facts about the agent that code computes from rollouts (those about the user: `program.evidence`)."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from optimizers.record import Rollout
from program.evidence import Evidence, plain_label

_MIN_ROLLOUTS = 3
"""Fewest rollouts with an answer that show a bias."""

_MIN_ERRORS = 1.5
"""A smaller mean difference, in standard errors, is noise."""

_MAX_LABEL_WORDS = 4
_INTEGER = re.compile("-?[0-9]{1,9}")


def agent_bias(rollouts: Sequence[Rollout]) -> list[Evidence]:
    """Return how the agent's answers miss the user's on the whole; an empty list if nothing shows it.

    Integers are compared by size: does the agent rate too high or too low? Of other answers those are
    named that the agent gives more often than the user.

    Args:
        rollouts: Of one persona. Those without an answer show nothing.

    Example:
        >>> rated = [
        ...     Rollout(interaction_id=f"{n}", query="?", truth="3", answer="5", score=0.5) for n in range(4)
        ... ]
        >>> agent_bias(rated)[0].text
        'The agent rates 2.00 too high on average (4 ratings).'
    """
    answered = [rollout for rollout in rollouts if rollout.score is not None]
    if len(answered) < _MIN_ROLLOUTS:
        return []
    if all(_INTEGER.fullmatch(text) for rollout in answered for text in (rollout.answer, rollout.truth)):
        return list(_rating_bias(answered))
    return list(_label_bias(answered))


def _rating_bias(rollouts: Sequence[Rollout]) -> Iterator[Evidence]:
    misses = [int(rollout.answer) - int(rollout.truth) for rollout in rollouts]
    bias = statistics.fmean(misses)
    error = statistics.stdev(misses) / len(misses) ** 0.5
    if bias and abs(bias) >= _MIN_ERRORS * error:
        yield Evidence(
            key="bias:rating",
            text=f"The agent rates {abs(bias):.2f} too {'high' if bias > 0 else 'low'} on average "
            f"({len(rollouts)} ratings).",
            interaction_ids=tuple(rollout.interaction_id for rollout in rollouts),
            n=len(rollouts),
        )


def _label_bias(rollouts: Sequence[Rollout]) -> Iterator[Evidence]:
    given = Counter(rollout.answer for rollout in rollouts)
    true = Counter(rollout.truth for rollout in rollouts)
    for answer, count in sorted(given.items(), key=lambda entry: (-entry[1], entry[0])):
        excess = count - true[answer]
        if count >= _MIN_ROLLOUTS and excess >= max(2, 0.2 * len(rollouts)) and _is_short(answer):
            yield Evidence(
                key=f"bias:{plain_label(answer)}",
                text=f'The agent answers "{plain_label(answer)}" too often: {count} of {len(rollouts)} '
                f"times, the user {true[answer]}.",
                interaction_ids=tuple(
                    rollout.interaction_id
                    for rollout in rollouts
                    if rollout.answer == answer or rollout.truth == answer
                ),
                n=len(rollouts),
            )


def _is_short(answer: str) -> bool:
    return len(answer.split()) <= _MAX_LABEL_WORDS
