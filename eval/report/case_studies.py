"""Case studies section: word diffs of a few users' personas, with the feedback behind each update."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from eval.report.analysis import FULL_METHOD, Analysis
from eval.report.data import MethodRun, Persona, PersonaUpdate
from eval.report.section import CaseStep, CaseStudy, Change, Section
from eval.report.table import signed

_CASES = 3

_WORD = re.compile(r"\s+|\w+|[^\w\s]")

_MAX_CHARS = 700
"""A longer query, response or feedback is cut."""

_MIN_SIMILARITY = 0.3
"""Less similar texts are shown as a whole, one after the other: a word diff would be unreadable."""


def section(analysis: Analysis) -> Section | None:
    """Return up to three users, selected by a rule; ``None`` if no method has personas."""
    method = analysis.persona_method
    if method is None:
        return None
    rival = _rival(analysis, method)
    rule = (
        f"Selected by rule, not by hand: the users with the largest, the median and the smallest gain of "
        f"{method.name} over {rival.name} in {analysis.main.title}"
        if rival
        else "Selected by rule, not by hand: the first users"
    )
    return Section(
        id="cases",
        title="Case studies",
        text=[
            f"{rule}. User ids are pseudonyms; the texts are the users' own. The selection rests on few "
            "queries: a case illustrates, it proves nothing."
        ],
        cases=[_case(persona, reason) for persona, reason in select_users(method, rival, analysis)],
    )


def select_users(method: MethodRun, rival: MethodRun | None, analysis: Analysis) -> list[tuple[Persona, str]]:
    """Return the users with the largest, median and smallest gain over ``rival``, each with that reason.

    Fewer than three users are not repeated. Without a rival, the first users, without a reason. Ties keep
    the order of the pseudonyms.
    """
    metric = analysis.main
    if rival is None:
        return [(persona, "") for persona in method.personas[:_CASES]]
    scores, rival_scores = _scores_by_user(method, analysis), _scores_by_user(rival, analysis)
    gains = [
        (metric.utility(scores[persona.user]) - metric.utility(rival_scores[persona.user]), persona)
        for persona in method.personas
        if persona.user in scores and persona.user in rival_scores
    ]
    ranked = sorted(gains, key=lambda gain: -gain[0])
    last = len(ranked) - 1
    # Later entries replace earlier ones if there are fewer than three users.
    reasons = {last // 2: "median gain", last: "smallest gain", 0: "largest gain"} if ranked else {}
    return [
        (ranked[rank][1], f"{reason}, {signed(ranked[rank][0])}") for rank, reason in sorted(reasons.items())
    ]


def diff_words(before: str, after: str) -> list[Change]:
    """Return a word-by-word diff; both texts as a whole if they have too little in common."""
    if before == after:
        return [Change("same", before)]
    old, new = _WORD.findall(before), _WORD.findall(after)
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < _MIN_SIMILARITY:
        return [Change("removed", before), Change("same", "\n\n"), Change("added", after)]
    changes = []
    for kind, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if kind == "equal":
            changes.append(Change("same", "".join(old[old_start:old_end])))
            continue
        if old_start < old_end:
            changes.append(Change("removed", "".join(old[old_start:old_end])))
        if new_start < new_end:
            changes.append(Change("added", "".join(new[new_start:new_end])))
    return changes


def _rival(analysis: Analysis, method: MethodRun) -> MethodRun | None:
    """Return the method that gains are relative to: the agent without alignment, otherwise ``direct``."""
    for family in (f"{FULL_METHOD}-alignment", "direct"):
        for other in analysis.methods:
            if other.family == family and other is not method:
                return other
    return None


def _scores_by_user(method: MethodRun, analysis: Analysis) -> dict[str, float]:
    """Return the main metric of each user with at least one answer."""
    answers: dict[str, list[tuple[str, str]]] = {}
    for answer in method.answers:
        if answer.prediction is not None:
            answers.setdefault(answer.user, []).append((answer.prediction, answer.gold))
    return {
        user: analysis.main.score([p for p, _ in pairs], [gold for _, gold in pairs], analysis.run.task)
        for user, pairs in answers.items()
    }


def _case(persona: Persona, reason: str) -> CaseStudy:
    updates = persona.updates
    if not updates and persona.initial != persona.final:
        updates = [
            PersonaUpdate(
                before=persona.initial,
                candidate=persona.final,
                accepted=True,
                reason="no feedback was recorded",
            )
        ]
    return CaseStudy(
        title=f"{persona.user} ({reason})" if reason else persona.user,
        persona=persona.initial,
        steps=[_step(number, update) for number, update in enumerate(updates, 1)],
    )


def _step(number: int, update: PersonaUpdate) -> CaseStep:
    return CaseStep(
        title=f"Update {number}",
        decision=f"{'accepted' if update.accepted else 'rejected'} ({update.reason})",
        feedback=[
            (
                f"Query: {_short(item.query)} The user's response: {_short(item.truth)!r}; "
                f"the agent's answer: {_short(item.answer)!r}.",
                _short(item.feedback),
            )
            for item in update.feedback
        ],
        changes=diff_words(update.before, update.candidate),
    )


def _short(text: str) -> str:
    """Return the text on one line, cut after `_MAX_CHARS` characters."""
    text = " ".join(text.split())
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]} […]"
