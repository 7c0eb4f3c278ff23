"""The persona, a user's system prompt: its initial text, and validation.

The initial persona has the parts of the paper's (appendix B), in new wording: role, user summary,
rules for using tools.
"""

from __future__ import annotations

import inspect

from program.errors import PersonaError
from program.memory.semantic import Profile, render

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

GENERIC = """\
You are a helpful assistant. Use the tools to find what you need, then answer clearly and briefly, with no \
explanation."""
"""A system prompt without any user information, for an agent without a persona."""


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
