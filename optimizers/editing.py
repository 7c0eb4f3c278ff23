"""Edits of a persona: which are refused and why, and those that code proposes from the facts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from optimizers.contracts import Candidate
from optimizers.edits import Edit
from optimizers.trials import Refusal
from program.corrections import MAX_LINE, taken_out
from program.errors import PersonaError
from program.persona import Line, Persona, validate_persona
from program.text import one_line
from program.text_safety import printable, repair

if TYPE_CHECKING:
    from program.evidence import Evidence

_LONG_RUN = 6
"""This many words in a row as the user wrote them are a copy."""

_INSTRUCTION = re.compile(
    r"\b(ignore|disregard|override|forget|bypass|reveal)\b.{0,40}"
    r"\b(previous|above|all|earlier|prior|instructions?|rules?|prompt)\b"
    r"|\b(system prompt|jailbreak|developer mode|you are now|act as)\b|https?://|[\w.+-]+@[\w-]+\.\w+"
    r"|^\s*(#+|\[\[|<\|)|\b(system|assistant|user)\s*:",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the edits of one step may rest on.

    Attributes:
        ids: The number of a feedback, from 1, to the interaction that it is about.
        texts: What the user asked and answered in those interactions.
        max_chars: Longest persona, in characters.
        max_edits: Most edits of one step.
    """

    ids: Mapping[int, str]
    texts: Sequence[str]
    max_chars: int
    max_edits: int


def apply_edits(
    persona: Persona, edits: Sequence[Edit], source: Source, evidence: Sequence[Evidence]
) -> tuple[Candidate | None, list[Refusal]]:
    """Return the persona with every edit that is not refused, ``None`` if none is left, and the refusals.

    Args:
        persona: The parts before.
        edits: As a model proposed them.
        source: What they may rest on.
        evidence: The facts that the persona's text may show; those that it shows count for its length.

    Example:
        >>> source = Source(ids={1: "7"}, texts=["A heist goes wrong."], max_chars=4000, max_edits=3)
        >>> edits = [Edit(op="add", text="Likes heists.", cites=[1]), Edit(op="add", text="Likes tea.")]
        >>> candidate, refusals = apply_edits(Persona(), edits, source, [])
        >>> candidate.changes, [str(refusal) for refusal in refusals]
        (('+ Likes heists.',), ["add 'Likes tea.': it cites nothing"])
    """
    draft = _Draft(lines=persona.lines, facts=persona.facts)
    changes: list[str] = []
    refusals: list[Refusal] = []
    for number, edit in enumerate(edits, 1):
        text = one_line(printable(repair(edit.text)), MAX_LINE + 1)
        reason = _refuse(edit, text, draft, source, evidence)
        reason = reason or _refuse_against_person(edit, text, draft, persona)
        if number > source.max_edits:
            reason = f"one step makes at most {source.max_edits} edits"
        if not reason:
            edited, change = _apply(edit, text, draft, source)
            reason = _too_long(edited.apply_to(persona), evidence, source.max_chars)
        if reason:
            refusals.append(Refusal(edit=_describe(edit, text), reason=reason))
            continue
        draft = edited
        changes.append(change)
    if not changes:
        return None, refusals
    return Candidate(persona=draft.apply_to(persona), changes=tuple(changes)), refusals


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """What edits change. A removed line leaves a gap, so that the numbers of the others stay."""

    lines: tuple[Line | None, ...]
    facts: tuple[str, ...]

    def apply_to(self, persona: Persona) -> Persona:
        lines = tuple(line for line in self.lines if line is not None)
        return replace(persona.with_facts(*self.facts), lines=lines)


def _refuse(edit: Edit, text: str, draft: _Draft, source: Source, evidence: Sequence[Evidence]) -> str:
    """Return why an edit is refused; empty if it is not."""
    if edit.op in ("show", "hide"):
        return _refuse_facts(edit, text, draft.facts, evidence)
    return _refuse_line(edit, text, draft.lines, source)


def _refuse_against_person(edit: Edit, text: str, draft: _Draft, persona: Persona) -> str:
    """Return why an edit would undo what the person corrected; empty if it would not."""
    if edit.op in ("replace", "remove"):
        line = draft.lines[edit.line - 1]
        if line is not None and line.corrected:
            return "the user wrote this line"
    said_again = taken_out(text, persona) if edit.op in ("add", "replace") else ""
    return f"the user took this out: {said_again!r}" if said_again else ""


def _apply(edit: Edit, text: str, draft: _Draft, source: Source) -> tuple[_Draft, str]:
    """Return the draft after an edit, and the change."""
    if edit.op == "show":
        return replace(draft, facts=(*draft.facts, text)), f"+ facts: {text}"
    if edit.op == "hide":
        return replace(draft, facts=tuple(kind for kind in draft.facts if kind != text)), f"- facts: {text}"
    ids = tuple(dict.fromkeys(source.ids[number] for number in edit.cites))
    line = Line(text=text, interaction_ids=ids)
    if edit.op == "add":
        return replace(draft, lines=(*draft.lines, line)), f"+ {text}"
    at = edit.line - 1
    old = draft.lines[at]
    new = None if edit.op == "remove" else line
    was = f"- {old.text if old else ''}"
    edited = replace(draft, lines=(*draft.lines[:at], new, *draft.lines[at + 1 :]))
    return edited, was if new is None else f"{was}\n+ {text}"


def _refuse_facts(edit: Edit, kind: str, facts: Sequence[str], evidence: Sequence[Evidence]) -> str:
    """Return why an edit of the shown facts is refused; empty if it is not."""
    if edit.op == "hide":
        return "" if kind in facts else f"the persona shows no facts {kind!r}"
    if kind not in {item.kind for item in evidence}:
        return f"there are no facts {kind!r}"
    return "the persona shows them already" if kind in facts else ""


def _refuse_line(edit: Edit, text: str, lines: Sequence[Line | None], source: Source) -> str:
    """Return why an edit of a line is refused; empty if it is not."""
    if edit.op != "add" and not (1 <= edit.line <= len(lines) and lines[edit.line - 1]):
        return f"there is no line {edit.line}"
    if not edit.cites:
        return "it cites nothing"
    if unknown := [number for number in edit.cites if number not in source.ids]:
        return f"it cites feedback {unknown[0]}, which is not there"
    if edit.op == "remove":
        return ""
    if not text:
        return "the line is empty"
    if len(text) > MAX_LINE:
        return f"the line is longer than {MAX_LINE} characters"
    if any(line is not None and line.text == text for line in lines):
        return "the line is there already"
    if _INSTRUCTION.search(text):
        return "it reads like an instruction or an address, not like a fact about the user"
    if copied := _copied_run(text, source.texts):
        return f"it copies what the user wrote: {copied!r}"
    return ""


def _too_long(persona: Persona, evidence: Sequence[Evidence], max_chars: int) -> str:
    try:
        validate_persona(persona.render(evidence), max_chars=max_chars)
    except PersonaError as error:
        return str(error)
    return ""


def _copied_run(text: str, sources: Sequence[str]) -> str:
    """Return a run of `_LONG_RUN` words that ``text`` shares with a source; empty if there is none."""
    from program.memory.retrieval.words import split_words  # brings numpy

    words = split_words(text)
    runs = {tuple(words[at : at + _LONG_RUN]) for at in range(len(words) - _LONG_RUN + 1)}
    for source in sources if runs else ():
        own = split_words(source)
        for at in range(len(own) - _LONG_RUN + 1):
            if tuple(own[at : at + _LONG_RUN]) in runs:
                return " ".join(own[at : at + _LONG_RUN])
    return ""


def _describe(edit: Edit, text: str) -> str:
    target = f"{edit.op} line {edit.line}" if edit.op in ("replace", "remove") else edit.op
    return f"{target} {text!r}" if text else target


def propose_facts(
    persona: Persona, evidence: Sequence[Evidence], *, most: int, rejected: Sequence[str] = ()
) -> list[Candidate]:
    """Return personas that show other facts: the edits for a model that cannot write, without a call.

    First one that shows every kind of fact, if the persona shows none; then those that show one more kind,
    those that show one less, and an exchange of the counts for another kind.

    Args:
        persona: The parts before.
        evidence: The facts that code finds, of any kind.
        most: At most this many.
        rejected: Changes that were tested before and did not help.

    Example:
        >>> from program.evidence import Evidence
        >>> words = Evidence(key="words:comedy", text="...", interaction_ids=("1", "2"), n=2)
        >>> for candidate in propose_facts(Persona(facts=("counts",)), [words], most=4):
        ...     print(candidate.changes, candidate.persona.facts)
        ('+ facts: words',) ('counts', 'words')
        ('- facts: counts',) ()
        ('- facts: counts', '+ facts: words') ('words',)
    """
    kinds = list(dict.fromkeys(item.kind for item in evidence))
    missing = [kind for kind in kinds if kind not in persona.facts]
    candidates = [_with_facts(persona, added=missing)] if len(missing) > 1 and not persona.facts else []
    candidates += [_with_facts(persona, added=[kind]) for kind in missing]
    candidates += [_with_facts(persona, removed=kind) for kind in persona.facts]
    if "counts" in persona.facts:
        candidates += [_with_facts(persona, added=[kind], removed="counts") for kind in missing]
    new = (candidate for candidate in candidates if "; ".join(candidate.changes) not in rejected)
    return list(islice(new, most))


def _with_facts(persona: Persona, added: Sequence[str] = (), removed: str = "") -> Candidate:
    facts = [kind for kind in persona.facts if kind != removed] + [*added]
    changes = [f"- facts: {removed}"] * bool(removed) + [f"+ facts: {kind}" for kind in added]
    return Candidate(persona=persona.with_facts(*facts), changes=tuple(changes))
