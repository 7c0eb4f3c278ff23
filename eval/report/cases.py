"""Case studies: a persona, what changed in it, and the feedback behind every change."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from eval.report.analysis import FULL_METHOD, Analysis
from eval.report.data import MethodRun, Persona, Rewrite
from eval.report.personas import with_personas
from eval.report.section import Case, CaseStep, Change, Section
from eval.report.table import signed

_SHOWN = 3

_WORD = re.compile(r"\s+|\w+|[^\w\s]")

_LONGEST = 700
"""Characters of a query or a feedback that are shown."""

_ALIKE = 0.3
"""Texts less alike than this are shown one after the other: a diff would be confetti."""


def section(analysis: Analysis) -> Section | None:
    """Return up to three users, chosen by a rule; ``None`` where no method has personas."""
    method = with_personas(analysis)
    if method is None:
        return None
    rival = _rival(analysis, method)
    chosen = choose(method, rival, analysis)
    rule = (
        f"Chosen by rule, not by hand: the users for whom {method.name} gained most and lost most in "
        f"{analysis.main.title} against {rival.name}, and the one in the middle"
        if rival
        else "Chosen by rule, not by hand: the first users"
    )
    return Section(
        id="cases",
        title="Case studies",
        text=[
            f"{rule}. Users are pseudonyms; the texts are theirs. Few queries decide such a choice: a case "
            "explains what happened, it proves nothing."
        ],
        cases=[_case(persona, why) for persona, why in chosen],
    )


def choose(method: MethodRun, rival: MethodRun | None, analysis: Analysis) -> list[tuple[Persona, str]]:
    """Return users with the reason for showing them, each once; ties go to the first pseudonym."""
    metric = analysis.main
    if rival is None:
        return [(persona, "") for persona in method.personas[:_SHOWN]]
    ours, theirs = _by_user(method, analysis), _by_user(rival, analysis)
    gains = [
        (metric.utility(ours[persona.user]) - metric.utility(theirs[persona.user]), persona)
        for persona in method.personas
        if persona.user in ours and persona.user in theirs
    ]
    ranked = sorted(gains, key=lambda gain: -gain[0])
    last = len(ranked) - 1
    reasons = {last // 2: "in the middle", last: "lost most", 0: "gained most"} if ranked else {}
    return [
        (ranked[place][1], f"{why}, {signed(ranked[place][0])}") for place, why in sorted(reasons.items())
    ]


def changes(before: str, after: str) -> list[Change]:
    """Return how one text became another, word by word; two whole texts where they share too little."""
    if before == after:
        return [Change("same", before)]
    old, new = _WORD.findall(before), _WORD.findall(after)
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return [Change("gone", before), Change("same", "\n\n"), Change("new", after)]
    found = []
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind == "equal":
            found.append(Change("same", "".join(old[i:j])))
            continue
        found.extend([Change("gone", "".join(old[i:j]))] if i < j else [])
        found.extend([Change("new", "".join(new[k:m]))] if k < m else [])
    return found


def _rival(analysis: Analysis, method: MethodRun) -> MethodRun | None:
    """Return what the gain of a user is measured against: the same agent unaligned, else no persona."""
    for family in (f"{FULL_METHOD}-alignment", "direct"):
        for other in analysis.methods:
            if other.family == family and other is not method:
                return other
    return None


def _by_user(method: MethodRun, analysis: Analysis) -> dict[str, float]:
    answers: dict[str, list[tuple[str, str]]] = {}
    for answer in method.answers:
        if answer.prediction is not None:
            answers.setdefault(answer.user, []).append((answer.prediction, answer.gold))
    return {
        user: analysis.main.score([p for p, _ in found], [g for _, g in found], analysis.run.task)
        for user, found in answers.items()
    }


def _case(persona: Persona, why: str) -> Case:
    rewrites = persona.rewrites
    if not rewrites and persona.initial != persona.final:
        reason = "no feedback was recorded"
        rewrites = [Rewrite(before=persona.initial, candidate=persona.final, accepted=True, reason=reason)]
    return Case(
        title=f"{persona.user} ({why})" if why else persona.user,
        persona=persona.initial,
        steps=[_step(number, rewrite) for number, rewrite in enumerate(rewrites, 1)],
    )


def _step(number: int, rewrite: Rewrite) -> CaseStep:
    return CaseStep(
        title=f"Rewrite {number}",
        decision=f"{'kept' if rewrite.accepted else 'not kept'} ({rewrite.reason})",
        lessons=[
            (
                f"Asked: {_short(lesson.query)} The user said {_short(lesson.truth)!r}; "
                f"the agent answered {_short(lesson.answer)!r}.",
                _short(lesson.feedback),
            )
            for lesson in rewrite.lessons
        ],
        changes=changes(rewrite.before, rewrite.candidate),
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} […]"
