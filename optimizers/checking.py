"""Tests of candidates on interactions older than the batch, and of kept personas on later ones.

A check item never informs what it checks: learned lines rest on the batch alone, and facts are counted for
each item as they stood before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import dspy

from optimizers.config import checking_gate
from optimizers.contracts import Candidate, CheckingGate, Decision, Trial
from optimizers.record import Rollout
from optimizers.run import AlignmentRun
from optimizers.trials import Check, Pending
from program.agent import PersonaAgent
from program.persona import Persona
from program.spans import span

LIKELIHOOD_BOUND = 0.25
"""Likelihoods are compared up to this difference; agreement is compared up to 1."""

_UNTESTED = Decision(accept=False, reason="not tested yet", outcome="undecided")


_at_once: ContextVar[int] = ContextVar("personaagent_check_items_at_once", default=1)


@contextmanager
def checking_at_once(items: int) -> Iterator[None]:
    """Ask about so many check items at once inside the block, if each answer takes long.

    The decisions stay the same: the gate still sees one item after the other. What is asked beyond the item
    that decides is paid for nothing.

    Example:
        >>> with checking_at_once(8):
        ...     _at_once.get()
        8
    """
    token = _at_once.set(items)
    try:
        yield
    finally:
        _at_once.reset(token)


@dataclass
class _Test:
    """The test of one candidate, in progress."""

    candidate: Candidate
    agent: PersonaAgent
    before: list[Rollout] = field(default_factory=list)
    after: list[Rollout] = field(default_factory=list)
    decision: Decision = _UNTESTED

    @property
    def is_open(self) -> bool:
        return self.decision.outcome == "undecided"

    @property
    def graded(self) -> bool:
        return any(rollout.likelihood is not None for rollout in self.before)

    @property
    def bound(self) -> float:
        return LIKELIHOOD_BOUND if self.graded else 1.0

    def add(self, before: Rollout, after: Rollout) -> None:
        self.before.append(before)
        self.after.append(after)

    def scored(self) -> list[tuple[str, float, float]]:
        """Return interaction id, score before and score after, of items that the persona before answers.

        No answer from the candidate scores 0: it may have broken the agent.
        """
        name = "likelihood" if self.graded else "score"
        rows = [
            (before.interaction_id, getattr(before, name), getattr(after, name))
            for before, after in zip(self.before, self.after, strict=True)
        ]
        return [(item, before, after or 0.0) for item, before, after in rows if before is not None]

    def scores(self) -> tuple[list[float], list[float]]:
        rows = self.scored()
        return [row[1] for row in rows], [row[2] for row in rows]

    def result(self, trial: Trial) -> Check:
        parent, candidate = self.scores()
        return Check(
            persona=self.agent.persona,
            changes=list(self.candidate.changes),
            decision=self.decision,
            interaction_ids=[row[0] for row in self.scored()],
            parent=parent,
            candidate=candidate,
            bound=self.bound,
            n_before=trial.n_before,
            n_candidates=trial.n_candidates,
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What became of the candidates of one step.

    Attributes:
        decision: Of the gate on the best candidate.
        candidate: The best candidate; ``None`` if there was none.
        text: The text that it would give the agent.
        checks: One for each candidate that was tested.
        pending: What is left to test if the candidate is kept; ``None`` if nothing is.
    """

    decision: Decision
    candidate: Candidate | None = None
    text: str
    checks: Sequence[Check] = ()
    pending: Pending | None = None


async def choose(run: AlignmentRun, rollouts: Sequence[Rollout], candidates: Sequence[Candidate]) -> Choice:
    """Ask the gate about the candidates; the agent stays as it is.

    A gate that tests nothing decides on the first one.

    Args:
        run: The alignment.
        rollouts: Of the batch, under the persona before.
        candidates: What the update proposes.
    """
    by_text = {run.changed(candidate).persona: candidate for candidate in reversed(candidates)}
    by_text.pop(run.agent.persona, None)
    # Of two with the same text the first one, in the order of the update.
    changed = list(by_text.values())[::-1]
    if not changed:
        reason = "the rewrite is the same text" if candidates else "nothing to change"
        return Choice(decision=Decision(accept=False, reason=reason, outcome="no-op"), text=run.agent.persona)
    gate = checking_gate(run.config.gate_rule)
    if gate is None:
        before, after = await run.score_both(rollouts, changed[0])
        decision = run.config.gate_rule.decide(before, after)
        return Choice(decision=decision, candidate=changed[0], text=next(reversed(by_text)))
    checks = await check(run, gate, changed)
    best = _best(checks)
    chosen = changed[checks.index(best)]
    pending = _pending(run, chosen, best) if best.decision.outcome == "provisional" else None
    return Choice(decision=best.decision, candidate=chosen, text=best.persona, checks=checks, pending=pending)


async def check(run: AlignmentRun, gate: CheckingGate, candidates: Sequence[Candidate]) -> list[Check]:
    """Test candidates on the check items, newest first, until the gate has decided on each.

    The rollouts of the persona before serve all candidates and later steps.
    """
    items = run.check_items()
    tests = [_Test(candidate, run.changed(candidate)) for candidate in candidates]

    def trial(test: _Test, more: bool) -> Trial:
        return Trial(
            bound=test.bound,
            n_before=run.n_tests,
            n_candidates=len(candidates),
            prior=run.past.prior,
            more=more,
        )

    at_once = _at_once.get()
    for start in range(0, len(items), at_once):
        asked = [test for test in tests if test.is_open]
        if not asked:
            break
        block = items[start : start + at_once]
        befores = await run.each(run.roll_out(run.agent, item) for item in block)
        pairs = list(zip(block, befores, strict=True))
        answers = iter(
            await run.each(
                _answer_again(run, test.agent, item, before) for item, before in pairs for test in asked
            )
        )
        for number, before in enumerate(befores, start + 1):
            for test, after in [(test, next(answers)) for test in asked]:
                if test.is_open:
                    test.add(before, after)
                    test.decision = gate.judge(*test.scores(), trial(test, more=number < len(items)))
    for test in tests:
        if test.is_open:
            test.decision = gate.judge(*test.scores(), trial(test, more=False))
    results = [test.result(trial(test, more=False)) for test in tests]
    run.n_tests += 1
    run.rejected += [result.label for result in results if not result.decision.accept]
    return results


def _best(checks: Sequence[Check]) -> Check:
    """Return the check to follow: confirmed before provisional, then by expected gain; else the first."""
    ranks = {"confirmed": 2, "provisional": 1}
    return max(
        checks,
        key=lambda check: (ranks.get(check.decision.outcome, 0), check.decision.numbers.get("gain", 0.0)),
    )


async def review_pending(run: AlignmentRun) -> Decision | None:
    """Test a kept persona further, with the interactions that came since; the agent may go back.

    Returns:
        What the gate decided; ``None`` if there was nothing to test.
    """
    pending, gate = run.pending, run.config.gate_rule
    if pending is None or not _same(pending.kept, _dump(run.agent)) or not hasattr(gate, "review"):
        run.pending = None
        return None
    ids = [str(example.before) for example in run.trainset]
    later = run.trainset[ids.index(pending.seen) + 1 :] if pending.seen in ids else []
    if not later:
        return None
    parent = _load(pending.parent)
    with span("review", interaction_ids=[example.before for example in later]) as trace:
        test = _Test(Candidate(persona=_load(pending.kept)), run.agent)
        before_agent = run.changed(Candidate(persona=parent))
        at_once = _at_once.get()
        for start in range(0, len(later), at_once):
            block = later[start : start + at_once]
            befores = await run.each(run.roll_out(before_agent, item) for item in block)
            pairs = zip(block, befores, strict=True)
            afters = await run.each(_answer_again(run, run.agent, item, before) for item, before in pairs)
            for before, after in zip(befores, afters, strict=True):
                test.add(before, after)
        parent_scores, candidate_scores = test.scores()
        run.pending = replace(
            pending,
            interaction_ids=[*pending.interaction_ids, *(row[0] for row in test.scored())],
            parent_scores=[*pending.parent_scores, *parent_scores],
            candidate_scores=[*pending.candidate_scores, *candidate_scores],
            seen=ids[-1],
        )
        decision: Decision = gate.review(
            run.pending.parent_scores,
            run.pending.candidate_scores,
            Trial(
                bound=pending.bound,
                n_before=pending.n_before,
                n_candidates=pending.n_candidates,
                prior=run.past.prior,
            ),
            later=len(parent_scores),
        )
        trace.output(decision=decision)
    if decision.outcome != "provisional":
        run.pending = None
    if decision.outcome == "rolled back":
        run.agent.persona = parent
    return decision


def _pending(run: AlignmentRun, kept: Candidate, check: Check) -> Pending:
    """Return what the next alignment needs to test a candidate further, while its parent is the persona."""
    return Pending(
        parent=_dump(run.agent),
        kept=_dump(run.changed(kept)),
        interaction_ids=check.interaction_ids,
        parent_scores=check.parent,
        candidate_scores=check.candidate,
        seen=str(run.trainset[-1].before),
        bound=check.bound,
        n_before=check.n_before,
        n_candidates=check.n_candidates,
    )


def _dump(agent: PersonaAgent) -> dict[str, Any]:
    """Return a persona as JSON data that stays equal while its facts are counted again."""
    return {"text": agent.persona} if agent.parts is None else {"parts": agent.parts.as_dict()}


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return whether two personas are equal but for the origins that lines get when they are stored."""

    def plain(persona: str | Persona) -> str | Persona:
        if isinstance(persona, str):
            return persona
        return replace(persona, lines=tuple(replace(line, since=0) for line in persona.lines))

    return plain(_load(first)) == plain(_load(second))


def _load(data: Mapping[str, Any]) -> str | Persona:
    return Persona.from_dict(data["parts"]) if "parts" in data else str(data["text"])


async def _answer_again(
    run: AlignmentRun, agent: PersonaAgent, item: dspy.Example, before: Rollout
) -> Rollout:
    steps = run.tool_steps.get(before.interaction_id) if run.config.replay else None
    return await run.roll_out(agent, item, steps)
