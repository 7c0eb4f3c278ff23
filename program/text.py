"""Shortens text for prompts, tables and error messages, and words counts."""

from __future__ import annotations


def cut(text: str, max_chars: int) -> str:
    """Return at most ``max_chars`` characters of ``text``; shortened text ends with an ellipsis.

    Example:
        >>> cut("A clerk finds that his city is a laboratory.", 15)
        'A clerk finds …'
    """
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def one_line(text: object, max_chars: int) -> str:
    r"""Return ``text`` with each run of white space replaced by one space, cut to ``max_chars`` characters.

    Example:
        >>> one_line("two\n  lines", 20)
        'two lines'
    """
    return cut(" ".join(str(text).split()), max_chars)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return ``number`` with its noun in the singular or the plural, which by default adds an "s".

    Example:
        >>> counted(1, "user"), counted(0, "user"), counted(2048, "query", "queries")
        ('1 user', '0 users', '2,048 queries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
