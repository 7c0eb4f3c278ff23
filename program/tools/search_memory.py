"""The tool `search_memory`."""

from __future__ import annotations

from program.memory.interaction import Interaction
from program.text import one_line
from program.tools.base import ToolContext


def search_memory(context: ToolContext, query: str) -> str:
    """Find this user's own past interactions most like the query, each with the user's true response.

    One line for each, best match first: number, date, response, then the request it answered. The
    response comes first so that no cut can lose it and a small model has it where it looks.
    """
    matches = context.memory.search(query, context.k, before=context.before, exclude=context.exclude)
    if not matches:
        return "No past interaction of this user was found."
    return "\n".join(f"{number}. {_line(item, context)}" for number, item in enumerate(matches, 1))


def _line(item: Interaction, context: ToolContext) -> str:
    date = f"{item.timestamp:%Y-%m-%d} " if item.timestamp else ""
    response, query = (one_line(text, context.max_chars) for text in (item.response, item.query))
    return f"{date}{context.response_noun}: {response} | {query}"
