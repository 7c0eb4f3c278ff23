"""Semantic memory: who this user is. Exact facts first, prose second (paper, section 2.1).

The facts are counted in code and cannot be wrong. The prose is a model's summary and may be: it is
kept apart, carries the ids of the interactions it rests on, and is shown after the facts.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from program.answers import AnswerType, Labels, Rating
from program.memory.interaction import Interaction

RECENT = 5
"""How many of the latest responses the facts name."""

SHOWN_COUNTS = 8
"""How many of the counted responses the rendered facts name; the rest is summed up."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What code counted in the history; nothing here comes from a model.

    Attributes:
        interactions: How many interactions the facts rest on.
        first: Time of the oldest of them; ``None`` where the history has no dates.
        last: Time of the newest of them.
        counts: Each response and how often the user gave it, most frequent first; empty for
            free-text responses.
        recent: The latest responses, newest first; empty for free-text responses.
        mean: Mean rating, in rating units; ``None`` where responses are not ratings.
        spread: Standard deviation of the ratings (population), in rating units.
    """

    interactions: int
    first: datetime | None = None
    last: datetime | None = None
    counts: tuple[tuple[str, int], ...] = ()
    recent: tuple[str, ...] = ()
    mean: float | None = None
    spread: float | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Who this user is: exact facts, then a model's summary of part of the history.

    Attributes:
        facts: Counted in code over the whole history.
        prose: A model's summary; empty where no model was asked.
        interaction_ids: The interactions the prose rests on, newest first.
    """

    facts: Facts
    prose: str = ""
    interaction_ids: tuple[str, ...] = ()

    def seen_from(self, visible: Sequence[Interaction], response_type: AnswerType) -> Profile:
        """Return the profile as it stood when only ``visible`` had happened.

        The facts are counted again; the prose stays only if all it rests on was visible, because
        what a model once read cannot be taken out of its summary.
        """
        ids = {interaction.id for interaction in visible}
        prose = self.prose if self.prose and ids.issuperset(self.interaction_ids) else ""
        return Profile(
            facts=count_facts(visible, response_type),
            prose=prose,
            interaction_ids=self.interaction_ids if prose else (),
        )

    def is_stale(self, interactions: int, *, growth: float = 0.1) -> bool:
        """Return whether the history has grown by more than ``growth`` since the facts were counted."""
        return interactions - self.facts.interactions > growth * max(self.facts.interactions, 1)


def count_facts(history: Sequence[Interaction], response_type: AnswerType) -> Facts:
    """Count the facts of a history given in time order."""
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
    """Return the facts as short lines of text; a lone line where there is no history.

    Args:
        facts: What was counted.
        recent: Whether to name the latest responses. A persona must not: they are the answers to
            the very interactions that alignment lets the agent answer again.
    """
    if not facts.interactions:
        return "Nothing is known about this user yet."
    when = ""
    if facts.first and facts.last:
        when = f" between {facts.first:%Y-%m-%d} and {facts.last:%Y-%m-%d}"
    lines = [f"This user has answered {facts.interactions} times{when}."]
    if facts.counts:
        shown = facts.counts[:SHOWN_COUNTS]
        rest = facts.interactions - sum(count for _, count in shown)
        named = ", ".join(f"{response} ({count})" for response, count in shown)
        lines.append(f"Most frequent answers: {named}{f', others ({rest})' if rest else ''}.")
    if facts.recent and recent:
        lines.append(f"Latest answers, newest first: {', '.join(facts.recent)}.")
    if facts.mean is not None and facts.spread is not None:
        lines.append(f"Mean rating {facts.mean:.2f}, standard deviation {facts.spread:.2f}.")
    return "\n".join(lines)


def render(profile: Profile, *, recent: bool = True) -> str:
    """Return the profile as text: facts first (see `render_facts`), prose second."""
    facts = render_facts(profile.facts, recent=recent)
    return f"{facts}\n{profile.prose}" if profile.prose else facts


def newest_within(history: Iterable[Interaction], max_tokens: int) -> list[Interaction]:
    """Return the newest interactions whose texts fit in about ``max_tokens``, newest first.

    A token is taken as four characters; the first interaction is returned even if it is longer.
    """
    chosen: list[Interaction] = []
    left = 4 * max_tokens
    for interaction in reversed(list(history)):
        left -= len(interaction.query) + len(interaction.response) + 8
        if left < 0 and chosen:
            break
        chosen.append(interaction)
    return chosen
