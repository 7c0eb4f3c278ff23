"""The rules of an alignment that users may replace: read this file first.

`PersonaAlignment` is Algorithm 1 of the paper. Two of its decisions are open: which interactions it
learns from (`BatchSelector`) and which rewritten personas it keeps (`Gate`). A new rule is one class,
given to `PersonaAlignment` as an object, or by name: a built-in one (``batch="hardest"``,
``gate="best"``), or the path to a class of your own (``gate="mine:Careful"``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import dspy

from program.persona import Persona

Score = float | None
"""Agreement with the user's true response, in [0, 1]; ``None`` if a rollout gave no answer."""

Outcome = Literal["", "confirmed", "provisional", "refused", "undecided", "no-op", "rolled back"]
"""What became of a rewrite; empty if its gate only accepts or rejects.

- ``confirmed``: kept; tested with a bound on how often a rewrite without gain passes.
- ``provisional``: kept for now; it gains more than it loses over users like this one, but this user's
  own interactions do not show it yet.
- ``refused``: not kept.
- ``undecided``: more check items are needed first.
- ``no-op``: the rewrite equals its parent, so nothing was tested.
- ``rolled back``: was kept, until later interactions spoke against it.
"""


class BatchSelector(Protocol):
    """Chooses the past interactions that one alignment learns from.

    Subclass it to inherit the default `pool_size`; any class with both methods works as well.

    Constraints: never calls a model and never changes its arguments. The batch is a non-empty part
    of the trainset, with no example twice.

    Determinism: the same trainset and scores give the same batch.

    Example:
        >>> class Longest(BatchSelector):
        ...     def select(self, trainset, scores, size):
        ...         longest = sorted(trainset, key=lambda example: len(example.query))[-size:]
        ...         return [example for example in trainset if example in longest]  # oldest first
        >>> films = [dspy.Example(query=query) for query in ("A long film", "Short", "A film")]
        >>> [example.query for example in Longest().select(films, [], 2)]
        ['A long film', 'A film']
    """

    def pool_size(self, size: int) -> int:
        """Return how many of the latest interactions to score before `select`; 0 if none.

        Each takes one rollout under the persona that the alignment starts from.

        Args:
            size: The batch size n of the alignment.
        """
        return 0

    def select(
        self, trainset: Sequence[dspy.Example], scores: Sequence[Score], size: int
    ) -> list[dspy.Example]:
        """Return the batch, oldest first.

        Args:
            trainset: Past interactions, oldest first (see `optimizers.examples`); not empty.
            scores: Of the last ``pool_size(size)`` examples of the trainset, in the same order.
            size: At most this many examples.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A persona that an update proposes.

    Attributes:
        persona: The whole text, or the persona's parts after the edits.
        changes: What was edited, each as ``+ line`` or ``- line``; empty for a free rewrite.

    Example:
        >>> Candidate(persona="Be brief.").changes
        ()
    """

    persona: str | Persona
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a gate decided about a rewritten persona.

    Attributes:
        accept: Whether the rewrite becomes the persona.
        reason: Why, in a few words; stored with the persona version.
        numbers: What the decision rests on.
        outcome: What became of the rewrite; empty for a gate that only accepts or rejects, and for
            decisions stored by earlier versions.

    Example:
        >>> Decision(accept=False, reason="no better", numbers={"before": 0.5, "after": 0.5}).accept
        False
    """

    accept: bool
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    outcome: Outcome = ""


class Gate(Protocol):
    """Decides whether a rewritten persona replaces its parent.

    A rewrite that equals its parent is not shown to a gate; it changes nothing.

    Constraints: never calls a model and never changes its arguments.

    Determinism: the same scores give the same decision.

    Example:
        >>> class NeverWorse(Gate):
        ...     needs_scores = True
        ...
        ...     def decide(self, parent, candidate):
        ...         kept = bool(parent) and sum(candidate) >= sum(parent)  # empty: nothing to compare
        ...         return Decision(accept=kept, reason="no worse" if kept else "worse, or not scored")
        >>> NeverWorse().decide([1.0, 0.0], [1.0, 1.0]).accept
        True
        >>> NeverWorse().decide([], []).accept
        False
    """

    needs_scores: ClassVar[bool]
    """Whether both personas are scored first.

    On the batch this takes one more rollout for each interaction, under the rewrite; on a valset it
    takes two, one under each persona.
    """

    def decide(self, parent: Sequence[float], candidate: Sequence[float]) -> Decision:
        """Compare the two personas.

        Args:
            parent: Agreement scores in [0, 1] of the current persona: on the valset, or on the batch
                if there is no valset. An interaction is left out unless both personas answered it.
                Empty without `needs_scores`, or if no interaction is left.
            candidate: Scores of the rewrite on the same interactions, in the same order.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a gate may need beside the scores: a test of one rewrite among others.

    Attributes:
        bound: Scores are compared up to this difference, above 0 and at most 1. Fixed before the
            scores are seen: .25 for likelihoods, 1 for agreement.
        n_before: Rewrites tested for this user before this one, 0 or more; those on the same items
            share one number.
        n_candidates: Rewrites tested on the same items, this one included, 1 or more.
        prior: Weights over the win rates `optimizers.betting.RHO`, learned on other users and never on
            this one. Empty: `optimizers.betting.COLD_PRIOR`.
        more: Whether further check items may still come; then the outcome may be ``undecided``.

    Example:
        >>> second = Trial(bound=0.25, n_before=1)
        >>> second.n_candidates, second.more
        (1, False)
    """

    bound: float = 1.0
    n_before: int = 0
    n_candidates: int = 1
    prior: Sequence[float] = ()
    more: bool = False


class CheckingGate(Gate, Protocol):
    """A gate that tests a rewrite on interactions older than the batch, one test among several.

    An alignment calls `judge` if a gate has it, and `decide` otherwise. `decide` stays, for callers
    that know nothing about the trial.

    Constraints and determinism: as for `Gate`; the same scores and trial give the same decision.

    Example:
        >>> class Wins:
        ...     needs_scores = True
        ...     check_items = 8
        ...
        ...     def decide(self, parent, candidate):
        ...         return self.judge(parent, candidate, Trial())
        ...
        ...     def judge(self, parent, candidate, trial):
        ...         wins = sum(after > before for before, after in zip(parent, candidate))
        ...         if wins > 2 + trial.n_before:  # the more rewrites were tried, the harder
        ...             return Decision(accept=True, reason=f"{wins} wins", outcome="confirmed")
        ...         waits = "undecided" if trial.more else "refused"
        ...         return Decision(accept=False, reason=f"only {wins} wins", outcome=waits)
        >>> Wins().judge([0.0], [1.0], Trial(more=True)).outcome
        'undecided'
        >>> Wins().decide([0.0] * 3, [1.0] * 3).outcome
        'confirmed'
    """

    check_items: int
    """Most older interactions that the gate scores both personas on."""

    def judge(self, parent: Sequence[float], candidate: Sequence[float], trial: Trial) -> Decision:
        """Compare the two personas on the check items.

        Args:
            parent: Scores in [0, 1] of the current persona; see `Gate.decide`.
            candidate: Scores of the rewrite on the same interactions, in the same order.
            trial: Which test this is.
        """
        ...


class Journal(Protocol):
    """Runs each named piece of an alignment's paid work once, and keeps what it returned.

    A piece is a rollout, a textual loss, an update or a check answer. An alignment that is stopped and run
    again with the same journal pays only for the pieces that are not finished.

    Constraints: one journal serves one alignment of one user, however often that is run again; names differ
    between its pieces. A piece that raises is not kept. Several pieces may be in progress at once.

    Determinism: the same name returns equal JSON data, whoever runs it and when.

    Example:
        >>> import asyncio
        >>> class Remembering:
        ...     def __init__(self):
        ...         self.kept = {}
        ...
        ...     async def run(self, name, work):
        ...         if name not in self.kept:
        ...             self.kept[name] = await work()
        ...         return self.kept[name]
        >>> async def paid():
        ...     print("paid")
        ...     return {"text": "Be brief."}
        >>> async def twice(journal):
        ...     return [await journal.run("ana/update/1", paid) for _ in range(2)]
        >>> asyncio.run(twice(Remembering()))
        paid
        [{'text': 'Be brief.'}, {'text': 'Be brief.'}]
    """

    async def run(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what the piece ``name`` returned; run it first if it is not finished.

        Args:
            name: The user, a hash of the persona, the interaction and what is done: stable over runs.
            work: Does the piece and returns JSON data. It never waits in the sync methods.
        """
        ...


class CallJournal(Journal, Protocol):
    """A journal that also keeps the model calls inside of a piece that is not finished.

    A rollout makes several calls. With `run` alone those of an unfinished rollout are paid again.
    """

    async def run_call(self, piece: str, number: int, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what a call returned; make it first if it is not finished.

        Args:
            piece: The piece in progress.
            number: Which of its calls, from 1; they are made one after the other.
            work: Makes the call and returns JSON data.
        """
        ...
