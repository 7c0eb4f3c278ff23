"""Semantic memory: a profile of the user (paper, section 2.1).

The facts are counted in code and exact. The prose is a model's summary and may be wrong: it is a
separate field, names the interactions that the model read, and follows the facts.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from program.answers import AnswerType, Labels, Rating
from program.memory.interaction import Interaction
from program.renamed import RenamedAttributes

RECENT = 5
"""Number of latest responses in the facts."""

SHOWN_COUNTS = 8
"""Number of counted responses that `render_facts` lists; the others are one sum."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Counts over a history; nothing here comes from a model.

    Attributes:
        interactions: Number of interactions.
        first: Time of the oldest one; ``None`` if the history has no dates.
        last: Time of the newest one; ``None`` if the history has no dates.
        counts: Responses with their frequencies, most frequent first; empty for free text.
        recent: The latest responses, newest first; empty for free text.
        mean: Mean rating, in rating units; ``None`` if responses are not ratings.
        spread: Population standard deviation of the ratings, in rating units; ``None`` if responses
            are not ratings.
    """

    interactions: int
    first: datetime | None = None
    last: datetime | None = None
    counts: tuple[tuple[str, int], ...] = ()
    recent: tuple[str, ...] = ()
    mean: float | None = None
    spread: float | None = None


@dataclass(frozen=True, kw_only=True)
class Profile(RenamedAttributes):
    """A user's profile: exact facts, then a model's summary of the newest interactions.

    Attributes:
        facts: Counts over the whole history.
        prose: A model's summary; may be empty.
        interaction_ids: The interactions that the model read for the prose, newest first.

    Example:
        >>> profile = Profile(facts=Facts(interactions=20), prose="Prefers comedies.")
        >>> profile.is_stale(22), profile.is_stale(23)
        (False, True)
        >>> print(render(profile))
        This user has answered 20 times.
        Prefers comedies.
    """

    facts: Facts
    prose: str = ""
    interaction_ids: tuple[str, ...] = ()

    _renamed: ClassVar[Mapping[str, str]] = {"seen_from": "restricted_to"}

    def restricted_to(self, history: Sequence[Interaction], response_type: AnswerType) -> Profile:
        """Return the profile of a part of the history, for instance of the past at an earlier time.

        The facts are counted again. The prose stays only if the model read nothing outside
        ``history``, because a fact cannot be removed from a summary.
        """
        ids = {interaction.id for interaction in history}
        prose = self.prose if self.prose and ids.issuperset(self.interaction_ids) else ""
        return Profile(
            facts=count_facts(history, response_type),
            prose=prose,
            interaction_ids=self.interaction_ids if prose else (),
        )

    def is_stale(self, interactions: int, *, growth: float = 0.1) -> bool:
        """Return whether a history of this size has outgrown the facts by more than ``growth``, a share."""
        return interactions - self.facts.interactions > growth * max(self.facts.interactions, 1)


def count_facts(history: Sequence[Interaction], response_type: AnswerType) -> Facts:
    """Return the facts of a history, which must be in time order."""
    times = [interaction.timestamp for interaction in history if interaction.timestamp is not None]
    first, last = (min(times), max(times)) if times else (None, None)
    if not isinstance(response_type, Labels | Rating):
        return Facts(interactions=len(history), first=first, last=last)
    responses = [interaction.response for interaction in history]
    counts = Counter(responses).most_common()
    recent = tuple(reversed(responses[-RECENT:]))
    if isinstance(response_type, Labels) or not responses:
        return Facts(interactions=len(history), counts=tuple(counts), recent=recent, first=first, last=last)
    ratings = [int(response) for response in responses]
    return Facts(
        interactions=len(history),
        counts=tuple(counts),
        recent=recent,
        mean=statistics.fmean(ratings),
        spread=statistics.pstdev(ratings),
        first=first,
        last=last,
    )


def render_facts(facts: Facts, *, recent: bool = True) -> str:
    """Return the facts as short lines of text; a single line if there is no history.

    Args:
        facts: The counts.
        recent: Whether to list the latest responses. A persona must not: they are the answers to
            the interactions that alignment replays.
    """
    if not facts.interactions:
        return "Nothing is known about this user yet."
    when = ""
    if facts.first and facts.last:
        when = f" between {facts.first:%Y-%m-%d} and {facts.last:%Y-%m-%d}"
    lines = [
        f"This user has answered {facts.interactions} {'time' if facts.interactions == 1 else 'times'}{when}."
    ]
    if facts.counts:
        top = facts.counts[:SHOWN_COUNTS]
        rest = facts.interactions - sum(count for _, count in top)
        listed = ", ".join(f"{response} ({count})" for response, count in top)
        lines.append(f"Most frequent answers: {listed}{f', others ({rest})' if rest else ''}.")
    if facts.recent and recent:
        lines.append(f"Latest answers, newest first: {', '.join(facts.recent)}.")
    if facts.mean is not None and facts.spread is not None:
        lines.append(f"Mean rating {facts.mean:.2f}, standard deviation {facts.spread:.2f}.")
    return "\n".join(lines)


def render(profile: Profile, *, recent: bool = True) -> str:
    """Return the profile as text: the facts (see `render_facts`), then the prose."""
    facts = render_facts(profile.facts, recent=recent)
    return f"{facts}\n{profile.prose}" if profile.prose else facts


def newest_within(
    history: Iterable[Interaction], max_tokens: int, *, max_chars: int | None = None
) -> list[Interaction]:
    """Return the newest interactions that fit in about ``max_tokens``, newest first.

    A token counts as four characters. The newest interaction is included even if it is longer.

    Args:
        history: Interactions in time order.
        max_tokens: The size that they fit in.
        max_chars: No text counts for more characters, because the reader cuts it; ``None`` for no limit.
    """
    newest: list[Interaction] = []
    remaining_chars = 4 * max_tokens
    for interaction in reversed(list(history)):
        lengths = [len(interaction.query), len(interaction.response)]
        remaining_chars -= sum(lengths if max_chars is None else (min(n, max_chars) for n in lengths)) + 8
        if remaining_chars < 0 and newest:
            break
        newest.append(interaction)
    return newest
