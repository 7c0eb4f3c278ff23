"""What the tests of candidates leave: refusals, checks, and a kept persona that is tested further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optimizers.contracts import Decision


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An edit that code refused.

    Example:
        >>> print(Refusal(edit="add 'Likes tea.'", reason="it cites nothing"))
        add 'Likes tea.': it cites nothing
    """

    edit: str
    reason: str

    def __str__(self) -> str:
        return f"{self.edit}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Check:
    """The test of one candidate on interactions older than the batch.

    Attributes:
        persona: The candidate's text.
        changes: What was edited.
        interaction_ids: The check items, newest first.
        parent: The scores of the persona before, in the same order.
        candidate: The scores of the candidate.
        decision: What the gate decided.
        bound: As in `optimizers.contracts.Trial`, like the next two.

    Example:
        >>> no = Decision(accept=False, reason="no gain", outcome="refused")
        >>> print(Check(persona="Be brief.", changes=("+ Be brief.",), decision=no))
        + Be brief.: refused, no gain
    """

    persona: str
    decision: Decision
    changes: Sequence[str] = ()
    interaction_ids: Sequence[str] = ()
    parent: Sequence[float] = ()
    candidate: Sequence[float] = ()
    bound: float = 1.0
    n_before: int = 0
    n_candidates: int = 1

    @property
    def gains(self) -> tuple[float, float]:
        """Gains and losses over the check items, as the gate counts them."""
        numbers = self.decision.numbers
        return numbers.get("n_plus", 0.0), numbers.get("n_minus", 0.0)

    @property
    def label(self) -> str:
        """The changes on one line."""
        return "; ".join(self.changes) or "a rewrite"

    def __str__(self) -> str:
        return f"{self.label}: {self.decision.outcome}, {self.decision.reason}"


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A kept persona that later interactions test further: what a gate needs to judge it again.

    Attributes:
        parent: The persona before, as JSON data: its parts, or its text if it has none.
        kept: The kept persona, likewise.
        interaction_ids: The check items so far.
        parent_scores: Of the parent on them.
        candidate_scores: Of the kept persona on them.
        seen: The newest interaction when it was kept; later ones test it.
        bound: As in `optimizers.contracts.Trial`.
        n_before: As in `optimizers.contracts.Trial`.
        n_candidates: As in `optimizers.contracts.Trial`.
    """

    parent: Mapping[str, Any]
    kept: Mapping[str, Any]
    interaction_ids: Sequence[str]
    parent_scores: Sequence[float]
    candidate_scores: Sequence[float]
    seen: str
    bound: float
    n_before: int
    n_candidates: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Pending | None:
        """Return the data of a stored record; ``None`` if there is none or it is of another version."""
        try:
            return None if data is None else cls(**data)
        except TypeError:
            return None


@dataclass(frozen=True, kw_only=True)
class Past:
    """What earlier alignments of a user leave for the next one.

    Attributes:
        rejected: Edits that were refused or did not help, newest last.
        n_tests: Steps in which candidates were tested.
        prior: What the gate expects, from other users' trials (see `optimizers.betting.fit_prior`).
        pending: A kept persona that is tested further.

    Example:
        >>> Past().n_tests
        0
    """

    rejected: Sequence[str] = ()
    n_tests: int = 0
    prior: Sequence[float] = ()
    pending: Pending | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON data for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Past:
        """Return what `as_dict` gave."""
        return cls(**{**data, "pending": Pending.from_dict(data["pending"])})
