"""Short forms of texts, for prompts, tables and error lines."""

from __future__ import annotations


def cut(text: str, max_chars: int) -> str:
    """Return ``text`` in at most ``max_chars`` characters; a cut text ends with an ellipsis.

    Example:
        >>> cut("A clerk finds that his city is a laboratory.", 15)
        'A clerk finds …'
    """
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def one_line(text: object, max_chars: int) -> str:
    r"""Return ``text`` with every run of white space as one space, cut to ``max_chars`` characters.

    Example:
        >>> one_line("two\n  lines", 20)
        'two lines'
    """
    return cut(" ".join(str(text).split()), max_chars)
