"""How tools keep what they show short."""

from __future__ import annotations


def cut(text: str, max_chars: int) -> str:
    """Return ``text`` in at most ``max_chars`` characters, an ellipsis at the end where it was cut."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def one_line(text: str, max_chars: int) -> str:
    """Return ``text`` with all white space as single spaces, cut to ``max_chars`` characters."""
    return cut(" ".join(text.split()), max_chars)
