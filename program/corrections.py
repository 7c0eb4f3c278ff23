"""What a person says about their own persona: a line replaced, taken out or added, which no rewrite undoes.

Corrections are parts of a persona (`program.persona.Persona`), so they are saved with it. Every new version
of a stored persona gets those of the version before (`program.store.personas.add`), whoever wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from program.errors import DataError
from program.persona import MAX_CHARS, ROLE, RULES, SAID, Line, Persona
from program.text import cut
from program.text_safety import repair

if TYPE_CHECKING:  # it brings regex
    from program.evidence import Evidence

MAX_LINE = 240
"""Longest line, in characters."""

MAX_SAID = 2000
"""Longest text of all lines that a person wrote, in characters."""

MAX_TAKEN_OUT = 200
"""Most lines and facts that a person takes out."""

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_LIST = "`personaagent users correct USER` lists them"


@dataclass(frozen=True, kw_only=True)
class PersonaLine:
    """A line of a persona that its person can correct.

    Attributes:
        text: As the model reads it now.
        kind: ``text`` of a persona that was written freely, a ``fact`` that code counts, or another ``line``.
        key: The fact's; empty for other kinds.
        line: The line with what it rests on.
    """

    text: str
    kind: Literal["text", "fact", "line"]
    key: str = ""
    line: Line


def list_lines(persona: Persona, evidence: Sequence[Evidence]) -> list[PersonaLine]:
    """Return what a person can correct: text that was written freely, then facts, then lines.

    Example:
        >>> persona = Persona().with_line("Likes heists.", ["7"])
        >>> [(line.kind, line.text) for line in list_lines(persona, [])]
        [('line', 'Likes heists.')]
        >>> [(line.kind, line.text) for line in list_lines(Persona.of_text("Be brief."), [])]
        [('text', 'Be brief.')]
    """
    free = [] if persona.role in ("", ROLE) else filter(str.strip, persona.role.split("\n"))
    return [
        *(PersonaLine(text=text, kind="text", line=_line(text)) for text in free),
        *(
            PersonaLine(text=fact.text, kind="fact", key=fact.key, line=_line(fact.text))
            for fact in persona.shown_facts(evidence)
        ),
        *(PersonaLine(text=line.text, kind="line", line=line) for line in persona.lines),
    ]


def correct(
    persona: Persona,
    evidence: Sequence[Evidence],
    *,
    line: str | int | None = None,
    text: str | None = None,
    day: str,
) -> Persona:
    """Return a persona with a correction of its person.

    Args:
        persona: The parts; `Persona.of_text` of a text that was written freely.
        evidence: What code counts in the history, for the facts that are shown.
        line: The line to replace or take out: its text, or its number in `list_lines`, from 1. ``None`` to
            add a line.
        text: The new line; ``None`` to take ``line`` out. A line that was taken out comes back by adding it.
        day: Today, as ``2026-11-26``.

    Raises:
        DataError: There is no such line, or the text cannot be a line.

    Example:
        >>> learned = Persona().with_line("Likes heists.", ["7"])
        >>> said = {"line": "Likes heists.", "text": "Likes old comedies."}
        >>> corrected = correct(learned, [], **said, day="2026-11-26")
        >>> corrected.lines[0].text, corrected.lines[0].corrected, corrected.removed[0].text
        ('Likes old comedies.', '2026-11-26', 'Likes heists.')
        >>> keep_corrections("Likes heists. Be brief.", corrected).render([]).splitlines()
        ['Be brief.', '', 'What this user says, which counts most:', '- Likes old comedies.']
    """
    said = None if text is None else _checked(text)
    if line is None and said is None:
        raise DataError("nothing to correct: give a line to take out or replace, or a text to add")
    ids: tuple[str, ...] = ()
    if line is not None:
        wrong = _find(list_lines(persona, evidence), line)
        ids = wrong.line.interaction_ids
        persona = _without(persona, wrong, day)
    if said is not None:
        persona = _with(persona, said, ids, day)
    if sum(len(row.text) for row in persona.lines if row.corrected) > MAX_SAID:
        raise DataError(
            f"lines of the person have at most {MAX_SAID:,} characters together; take one out first"
        )
    if len(persona.removed) + len(persona.hidden) > MAX_TAKEN_OUT:
        raise DataError(f"a person takes out at most {MAX_TAKEN_OUT} lines; forget interactions instead")
    return persona


def keep_corrections(persona: str | Persona, before: Persona | None) -> str | Persona:
    """Return a persona with everything that the person corrected in the one before it.

    Lines of the person are put back; what the person took out is taken out again, also from a text that was
    written freely, sentence by sentence. Nothing changes if nothing was corrected, or all of it is there.

    Args:
        persona: A new text, or new parts.
        before: The parts that it replaces; ``None`` if they are not known.

    Example:
        >>> keep_corrections("Be brief.", Persona())
        'Be brief.'
    """
    if before is None or not before.is_corrected:
        return persona
    new = persona if isinstance(persona, Persona) else Persona.of_text(persona)
    own = tuple(line for line in before.lines if line.corrected)
    said = {line.text for line in own}
    learned = tuple(
        line
        for line in new.lines
        if not line.corrected and line.text not in said and not taken_out(line.text, before)
    )
    # A line that is learned later stands behind the person's; what is all there stays as it is.
    if (learned, own) == (_of_code(new), tuple(line for line in new.lines if line.corrected)):
        lines = new.lines
    else:
        lines = (*learned, *own)
    role, rules = (
        text if text in ("", ROLE, RULES) else _clean(text, said, before) for text in (new.role, new.rules)
    )
    if not role and not rules:
        role, rules = ROLE, RULES
    return replace(new, role=role, rules=rules, lines=lines, removed=before.removed, hidden=before.hidden)


def fit(persona: Persona, evidence: Sequence[Evidence]) -> Persona:
    """Return a persona that is short enough for an agent; what the person wrote is never cut.

    Example:
        >>> long = Persona.of_text("x" * 5000).with_line("y", [])
        >>> len(fit(long, []).render([]))
        4000
    """
    while (excess := len(persona.render(evidence)) - MAX_CHARS) > 0:
        learned = _of_code(persona)
        if persona.role != ROLE and len(persona.role) > excess + 1:
            persona = replace(persona, role=cut(persona.role, len(persona.role) - excess))
        elif learned:
            persona = replace(persona, lines=tuple(line for line in persona.lines if line != learned[0]))
        elif persona.facts:
            persona = replace(persona, facts=persona.facts[:-1])
        else:
            break
    return persona


def taken_out(text: str, persona: Persona) -> str:
    """Return the line that the person took out and that ``text`` says again; empty if there is none.

    It does if it has all words of that line.

    Example:
        >>> persona = Persona(removed=(Line(text="Likes heists.", interaction_ids=()),))
        >>> taken_out("Above all likes heists", persona), taken_out("Likes tea.", persona)
        ('Likes heists.', '')
    """
    words = _words(text)
    return next((line.text for line in persona.removed if _words(line.text) <= words), "")


def _line(text: str) -> Line:
    return Line(text=text, interaction_ids=())


def _of_code(persona: Persona) -> tuple[Line, ...]:
    return tuple(line for line in persona.lines if not line.corrected)


def _words(text: str) -> set[str]:
    # A line of signs alone must equal itself, and no other.
    return set(_WORD.findall(text.casefold())) or {text.strip()}


def _checked(text: str) -> str:
    said = " ".join(repair(text).split())
    if not said:
        raise DataError("the text of a line must not be empty")
    if len(said) > MAX_LINE:
        raise DataError(f"a line has at most {MAX_LINE} characters, this one has {len(said)}")
    return said


def _find(lines: Sequence[PersonaLine], line: str | int) -> PersonaLine:
    if isinstance(line, int):
        if not 1 <= line <= len(lines):
            raise DataError(f"the persona has no line {line}; {_LIST}")
        return lines[line - 1]
    wanted = " ".join(line.split())
    found = [row for row in lines if " ".join(row.text.split()) == wanted]
    if not found:
        raise DataError(f"the persona has no line with this text; {_LIST}")
    return found[0]


def _without(persona: Persona, wrong: PersonaLine, day: str) -> Persona:
    """Return a persona without a line, which does not come back."""
    if wrong.kind == "fact":
        return replace(persona, hidden=(*persona.hidden, wrong.key))
    gone = replace(wrong.line, text=wrong.text.strip(), since=0, corrected=day)
    persona = replace(persona, removed=(*persona.removed, gone))
    if wrong.kind == "line":
        return replace(persona, lines=tuple(line for line in persona.lines if line != wrong.line))
    role = "\n".join(line for line in persona.role.split("\n") if line != wrong.text)
    return replace(persona, role=role.strip()) if role.strip() else replace(persona, role=ROLE, rules=RULES)


def _with(persona: Persona, said: str, ids: tuple[str, ...], day: str) -> Persona:
    """Return a persona with a line of its person, in place of a learned one of this text."""
    same = next((line for line in persona.lines if line.text == said), None)
    if same is not None and same.corrected:
        raise DataError("the line is there already")
    if same is not None:
        ids = tuple(dict.fromkeys((*ids, *same.interaction_ids)))
    new = Line(text=said, interaction_ids=ids, corrected=day)
    lines = (*(line for line in persona.lines if line != same), new)
    removed = (line for line in persona.removed if _words(line.text) != _words(said))
    return replace(persona, lines=lines, removed=tuple(removed))


def _clean(text: str, said: set[str], before: Persona) -> str:
    """Return a free text without what the person wrote, which is put back, and took out."""
    kept = []
    for line in text.split("\n"):
        bare = line.strip().removeprefix("- ").strip()
        if bare == SAID or bare in said:
            continue
        if taken_out(bare, before):
            sentences = [part for part in _SENTENCE_END.split(line) if not taken_out(part, before)]
            if not sentences:
                continue
            line = " ".join(sentences)
        kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
