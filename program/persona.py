"""The persona, a user's system prompt: its first texts, its parts, and validation.

A persona is one text, the instructions of the agent's predictor. It may have parts (`Persona`): facts that
code counts again for every prompt, and learned lines, each with the interactions that it rests on. A text
without parts, such as a model's free rewrite, is a persona too, of which nothing is known but the text.

The paper's initial persona (its appendix B, in new wording) has a role, a user summary and rules for
using tools.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from program.errors import DataError, PersonaError
from program.memory.semantic import Profile, render

if TYPE_CHECKING:  # it brings regex
    from program.evidence import Evidence

MAX_CHARS = 4000
"""Default cap on a persona's length, in characters."""

_INITIAL = """\
You are the personal assistant of one user and answer exactly as this user would. Take more than two \
actions to find out what this user prefers before you answer.

What is known about this user:
{profile}

Rules for using tools:
1. Think step by step about which information you still need.
2. You MUST use at least TWO tools before you answer.
3. Choose each tool and its words with care, and take the most accurate information from different tools.
4. Give the final answer clearly and briefly, with no explanation."""

ROLE = "You are the personal assistant of one user. Answer exactly as this user would."
FACTS = "Facts about this user, counted in the history:"
LEARNED = "What this user's answers show:"
SAID = "What this user says, which counts most:"
RULES = """\
Search the user's memory before you answer, and choose the words of a search with care. Give the final \
answer clearly and briefly, with no explanation."""

GENERIC = """\
You are a helpful assistant. Use the tools to find what you need, then answer clearly and briefly, with no \
explanation."""
"""A system prompt without any user information, for an agent without a persona."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a persona: learned, or written by the person whom it is about.

    Attributes:
        text: One line.
        interaction_ids: The interactions that it rests on. A line of the person has those of the line that
            it corrects.
        since: The persona version that brought it; 0 until it is stored.
        corrected: The day on which the person wrote it, as ``2026-11-26``; empty if it was learned.

    Example:
        >>> Line(text="Calls every heist action.", interaction_ids=("7", "9")).since
        0
    """

    text: str
    interaction_ids: tuple[str, ...]
    since: int = 0
    corrected: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the line as JSON data; `corrected` only if it is not empty."""
        data = {"text": self.text, "interaction_ids": list(self.interaction_ids), "since": self.since}
        return {**data, "corrected": self.corrected} if self.corrected else data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Line:
        """Return the line that `as_dict` gave; raises `KeyError`, `TypeError` or `ValueError`."""
        return cls(
            text=_text(data["text"]),
            interaction_ids=tuple(_text(name) for name in data["interaction_ids"]),
            since=int(data["since"]),
            corrected=_text(data.get("corrected", "")),
        )


@dataclass(frozen=True, kw_only=True)
class Persona:
    """The parts of a persona that can be edited.

    What the person corrected (`program.corrections`) is part of it, and no rewrite undoes it: lines with a
    day in `Line.corrected`, `removed` and `hidden`.

    Attributes:
        role: What the agent is.
        facts: Keys or kinds of the evidence that the persona shows (see `program.evidence`). Code owns
            these lines: they are counted again for every prompt, and no rewrite can change them.
        lines: What was learned, and what the person wrote.
        rules: How to use tools and how to answer.
        removed: Lines that the person took out, each with the day. They are not shown.
        hidden: Keys of facts that the person took out.

    Example:
        >>> persona = first_persona().with_line("Likes heists.", ["7"])
        >>> print(persona.render([]))  # doctest: +ELLIPSIS
        You are the personal assistant of one user. Answer exactly as this user would.
        <BLANKLINE>
        What this user's answers show:
        - Likes heists.
        <BLANKLINE>
        Search the user's memory...
    """

    role: str = ROLE
    facts: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    rules: str = RULES
    removed: tuple[Line, ...] = ()
    hidden: tuple[str, ...] = ()

    @property
    def is_corrected(self) -> bool:
        """Whether the person corrected something."""
        return bool(self.removed or self.hidden or any(line.corrected for line in self.lines))

    def render(self, evidence: Sequence[Evidence]) -> str:
        """Return the persona's text.

        Args:
            evidence: Of the interactions that may be seen; those that `facts` names are shown.
        """
        facts = [f"- {item.text}" for item in self.shown_facts(evidence)]
        learned = [f"- {line.text}" for line in self.lines if not line.corrected]
        said = [f"- {line.text}" for line in self.lines if line.corrected]
        blocks = [
            self.role,
            "\n".join([FACTS, *facts]) if facts else "",
            "\n".join([LEARNED, *learned]) if learned else "",
            "\n".join([SAID, *said]) if said else "",
            self.rules,
        ]
        return normalize("\n\n".join(filter(None, blocks)))

    def shown_facts(self, evidence: Sequence[Evidence]) -> list[Evidence]:
        """Return the evidence that the persona shows, in its order."""
        shown = [item for name in self.facts for item in evidence if name in (item.key, item.kind)]
        return [item for item in shown if item.key not in self.hidden]

    def with_facts(self, *names: str) -> Persona:
        """Return the persona with these facts in place of its own."""
        return replace(self, facts=tuple(dict.fromkeys(names)))

    def with_line(self, text: str, interaction_ids: Sequence[str]) -> Persona:
        """Return the persona with another learned line."""
        return replace(self, lines=(*self.lines, Line(text=text, interaction_ids=tuple(interaction_ids))))

    def without_lines_on(self, interaction_ids: Collection[str]) -> Persona:
        """Return the persona without the lines that rest on any of these interactions.

        A line that the person took out goes also if nothing says what it rested on.

        Example:
            >>> persona = first_persona().with_line("Likes heists.", ["7"]).with_line("Likes tea.", ["8"])
            >>> [line.text for line in persona.without_lines_on({"7"}).lines]
            ['Likes tea.']
        """

        def rests_on_them(line: Line) -> bool:
            return not set(line.interaction_ids).isdisjoint(interaction_ids)

        lines = (line for line in self.lines if not rests_on_them(line))
        removed = (line for line in self.removed if line.interaction_ids and not rests_on_them(line))
        return replace(self, lines=tuple(lines), removed=tuple(removed))

    def as_dict(self) -> dict[str, Any]:
        """Return the parts as JSON data; what the person took out only if there is something."""
        data = {
            "role": self.role,
            "facts": list(self.facts),
            "lines": [line.as_dict() for line in self.lines],
            "rules": self.rules,
        }
        removed = {"removed": [line.as_dict() for line in self.removed]} if self.removed else {}
        return {**data, **removed, **({"hidden": list(self.hidden)} if self.hidden else {})}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Persona:
        """Return the parts that `as_dict` gave.

        Raises:
            DataError: Something is missing or has another type.
        """
        try:
            return cls(
                role=_text(data["role"]),
                facts=tuple(_text(name) for name in data["facts"]),
                lines=tuple(Line.from_dict(line) for line in data["lines"]),
                rules=_text(data["rules"]),
                removed=tuple(Line.from_dict(line) for line in data.get("removed", ())),
                hidden=tuple(_text(name) for name in data.get("hidden", ())),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"the parts of a persona are damaged: {error!r}") from error

    @classmethod
    def of_text(cls, text: str) -> Persona:
        """Return a text without parts as a persona that lines can be added to."""
        return cls(role=text, rules="")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def first_persona() -> Persona:
    """Return the persona that grounded alignment starts from: a role and rules, and nothing about the user.

    Facts and lines come in where they help: counts cost a small model accuracy once it sees examples.

    Example:
        >>> first_persona().facts, first_persona().lines
        ((), ())
    """
    return Persona()


def initial_persona(profile: Profile) -> str:
    """Return the first persona of a user, with the user's profile filled in.

    It has counts over the whole history, but no single latest answer: alignment simulates those.

    Example:
        >>> from program import EpisodicMemory, Interaction, build_profile, get_task
        >>> past = [Interaction(id="1", user_id="ana", query="Dinner?", response="Lentils.")]
        >>> profile = build_profile(EpisodicMemory("ana", past), get_task("free-text"), prose=False)
        >>> initial_persona(profile).splitlines()[0][:48]
        'You are the personal assistant of one user and a'
    """
    return normalize(_INITIAL.format(profile=render(profile, recent=False)))


def is_initial(text: str) -> bool:
    """Return whether a persona is an unchanged initial one, for some profile.

    Example:
        >>> from program.memory.semantic import Facts, Profile
        >>> text = initial_persona(Profile(facts=Facts(interactions=6)))
        >>> is_initial(text), is_initial(text + " Be brief.")
        (True, False)
    """
    before, _, after = _INITIAL.partition("{profile}")
    return text.startswith(before) and text.endswith(after)


def normalize(text: str) -> str:
    """Return ``text`` as DSPy reads it back: `inspect.cleandoc`, repeated until nothing changes."""
    while (clean := inspect.cleandoc(text).strip()) != text:
        text = clean
    return text


def validate_persona(text: str, *, max_chars: int = MAX_CHARS) -> str:
    """Return the normalized ``text``.

    Raises:
        PersonaError: It is empty or longer than ``max_chars`` characters.
    """
    text = normalize(text)
    if not text:
        raise PersonaError("a persona must not be empty")
    if len(text) > max_chars:
        raise PersonaError(f"a persona has at most {max_chars} characters, this one has {len(text)}")
    return text
