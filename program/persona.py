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
RULES = """\
Search the user's memory before you answer, and choose the words of a search with care. Give the final \
answer clearly and briefly, with no explanation."""

GENERIC = """\
You are a helpful assistant. Use the tools to find what you need, then answer clearly and briefly, with no \
explanation."""
"""A system prompt without any user information, for an agent without a persona."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A learned line of a persona.

    Attributes:
        text: One line.
        interaction_ids: The interactions that it rests on.
        since: The persona version that brought it; 0 until it is stored.

    Example:
        >>> Line(text="Calls every heist action.", interaction_ids=("7", "9")).since
        0
    """

    text: str
    interaction_ids: tuple[str, ...]
    since: int = 0


@dataclass(frozen=True, kw_only=True)
class Persona:
    """The parts of a persona that can be edited.

    Attributes:
        role: What the agent is.
        facts: Keys or kinds of the evidence that the persona shows (see `program.evidence`). Code owns
            these lines: they are counted again for every prompt, and no rewrite can change them.
        lines: What was learned.
        rules: How to use tools and how to answer.

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

    def render(self, evidence: Sequence[Evidence]) -> str:
        """Return the persona's text.

        Args:
            evidence: Of the interactions that may be seen; those that `facts` names are shown.
        """
        facts = [f"- {item.text}" for item in self.shown_facts(evidence)]
        learned = [f"- {line.text}" for line in self.lines]
        blocks = [
            self.role,
            "\n".join([FACTS, *facts]) if facts else "",
            "\n".join([LEARNED, *learned]) if learned else "",
            self.rules,
        ]
        return normalize("\n\n".join(filter(None, blocks)))

    def shown_facts(self, evidence: Sequence[Evidence]) -> list[Evidence]:
        """Return the evidence that the persona shows, in its order."""
        return [item for name in self.facts for item in evidence if name in (item.key, item.kind)]

    def with_facts(self, *names: str) -> Persona:
        """Return the persona with these facts in place of its own."""
        return replace(self, facts=tuple(dict.fromkeys(names)))

    def with_line(self, text: str, interaction_ids: Sequence[str]) -> Persona:
        """Return the persona with another learned line."""
        return replace(self, lines=(*self.lines, Line(text=text, interaction_ids=tuple(interaction_ids))))

    def without_lines_on(self, interaction_ids: Collection[str]) -> Persona:
        """Return the persona without the learned lines that rest on any of these interactions.

        Example:
            >>> persona = first_persona().with_line("Likes heists.", ["7"]).with_line("Likes tea.", ["8"])
            >>> [line.text for line in persona.without_lines_on({"7"}).lines]
            ['Likes tea.']
        """
        lines = (line for line in self.lines if not set(line.interaction_ids).intersection(interaction_ids))
        return replace(self, lines=tuple(lines))

    def as_dict(self) -> dict[str, Any]:
        """Return the parts as JSON data."""
        lines = [
            {"text": line.text, "interaction_ids": list(line.interaction_ids), "since": line.since}
            for line in self.lines
        ]
        return {"role": self.role, "facts": list(self.facts), "lines": lines, "rules": self.rules}

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
                lines=tuple(
                    Line(
                        text=_text(line["text"]),
                        interaction_ids=tuple(_text(name) for name in line["interaction_ids"]),
                        since=int(line["since"]),
                    )
                    for line in data["lines"]
                ),
                rules=_text(data["rules"]),
            )
        except (KeyError, TypeError, ValueError) as error:
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
