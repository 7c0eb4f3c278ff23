"""The tool `search_memory`."""

from __future__ import annotations

from textwrap import dedent

from program.memory.interaction import Interaction
from program.text import one_line
from program.tools.base import ToolContext

_INDENT = "    "


def search_memory(context: ToolContext, query: str) -> str:
    """Find this user's own past interactions most like the query, each with the user's true response.

    One item for each, best match first: number, date, response, then the request it answered. The
    response comes first so that no cut can lose it and a small model has it where it looks. Texts keep
    their lines, which are indented: no text can pose as another item or as a heading of a prompt.
    """
    matches = context.memory.search(query, context.k, before=context.before, exclude=context.exclude)
    context.shown.extend(matches)
    if not matches:
        return "No past interaction of this user was found."
    noun, max_chars = context.response_noun, context.max_chars
    return "\n".join(
        f"{number}. {render_interaction(item, noun, max_chars)}" for number, item in enumerate(matches, 1)
    )


def render_interaction(item: Interaction, response_noun: str, max_chars: int) -> str:
    """Return an interaction as a prompt shows it.

    Example:
        >>> item = Interaction(id="1", user_id="ana", query="A robot dreams.", response="sci-fi")
        >>> render_interaction(item, "tag", 600)
        'tag: sci-fi | A robot dreams.'
    """
    date = f"{item.timestamp:%Y-%m-%d} " if item.timestamp else ""
    response, query = (_shorten(text, max_chars) for text in (item.response, item.query))
    separator = "\n  | " if "\n" in response else " | "
    return f"{date}{response_noun}: {response}{separator}{query}"


def _shorten(text: str, max_chars: int) -> str:
    """Return a text of one line with single spaces, one of several lines with all but the first indented."""
    lines = text.strip().splitlines()
    if len(lines) <= 1:
        return one_line(text, max_chars)
    first, *others = dedent("\n".join(text.splitlines())).strip().splitlines()
    indented = "\n".join([first, *(f"{_INDENT}{line}".rstrip() for line in others)])
    # The cut may end within an indent: no line begins with the ellipsis.
    return indented if len(indented) <= max_chars else indented[: max_chars - 1].rstrip() + "…"
