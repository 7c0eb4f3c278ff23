"""Reads the query of a chat log. No turn of it is the user's response.

{"messages": [{"role": "user", "content": "Dinner?"}, {"role": "assistant", "content": "Pasta."}]}

The last turn of the user is the query. The turn of the assistant is a model's text: an agent that
learned from it would imitate the model, not the user. So a chat log needs a ``response`` beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

from program.store.importers.reader import FieldError

_FIELDS = ("messages", "conversations", "conversation", "turns")
_USER = ("user", "human", "prompter")


def chat_field(record: Mapping[str, object]) -> str | None:
    """Return the field of a record that holds a chat log, or ``None``."""
    return next((name for name in _FIELDS if isinstance(record.get(name), list)), None)


def read_query(record: Mapping[str, object], field: str) -> str:
    """Return the text of the user's last turn.

    Raises:
        FieldError: The record has no ``response``, or the log has no text of the user.
    """
    if record.get("response") is None:
        raise FieldError(
            "response",
            f"is missing: the last `user` turn of `{field}` would become the query, but an `assistant` turn "
            "is the model's text and not the user's response; add `response` with what the user really "
            "said or chose",
        )
    turns = record[field]
    assert isinstance(turns, list)
    for turn in reversed(turns):
        if isinstance(turn, Mapping) and turn.get("role", turn.get("from")) in _USER:
            text = _content(turn.get("content", turn.get("value")))
            if text.strip():
                return text
    raise FieldError(field, "has no `user` turn with text to become the query; add `query`")


def _content(content: object) -> str:
    """Return a turn's text; some formats split it into parts."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
