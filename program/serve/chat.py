"""Reads and changes the requests and replies of OpenAI's chat and responses APIs, and of nothing else.

Every field that is not named here stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

Api = Literal["chat/completions", "responses"]

_SYSTEM = ("system", "developer")


def last_request(api: Api, body: Mapping[str, Any]) -> str:
    """Return the text of the user's last message; empty if there is none.

    Example:
        >>> last_request("responses", {"input": "What shall I cook?"})
        'What shall I cook?'
        >>> parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {}}]
        >>> last_request("chat/completions", {"messages": [{"role": "user", "content": parts}]})
        'What is this?'
    """
    messages = body.get("messages" if api == "chat/completions" else "input")
    if isinstance(messages, str):
        return messages
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, Mapping) and message.get("role") == "user":
            return _text(message.get("content"))
    return ""


def ends_with_request(api: Api, body: Mapping[str, Any]) -> bool:
    """Return whether the user's message is the newest: else it is a tool's result that is answered."""
    messages = body.get("messages" if api == "chat/completions" else "input")
    if not isinstance(messages, list):
        return isinstance(messages, str)
    return bool(messages) and isinstance(messages[-1], Mapping) and messages[-1].get("role") == "user"


def with_context(api: Api, body: Mapping[str, Any], context: str) -> dict[str, Any]:
    r"""Return a request with one system text more, after the client's own.

    The client's own system text stays first and as it is, so that a provider's cache of it still holds.

    Example:
        >>> hello = {"role": "user", "content": "Hello"}
        >>> own = {"role": "system", "content": "Be brief."}
        >>> body = with_context("chat/completions", {"messages": [own, hello]}, "Likes pulses.")
        >>> [message["content"] for message in body["messages"]]
        ['Be brief.', 'Likes pulses.', 'Hello']
        >>> with_context("responses", {"input": "Hello", "instructions": "Be brief."}, "Likes pulses.")
        {'input': 'Hello', 'instructions': 'Be brief.\n\nLikes pulses.'}
    """
    if api == "chat/completions":
        messages = body["messages"]
        return {**body, "messages": _inserted(messages, context)}
    own, items = body.get("instructions"), body.get("input")
    if own is None and isinstance(items, list) and _n_system(items):
        return {**body, "input": _inserted(items, context)}
    return {**body, "instructions": f"{own}\n\n{context}" if own else context}


def find_problem(api: Api, body: object) -> tuple[str, str] | None:
    """Return the field of a request that cannot be used, and why; ``None`` if the rest is the model's."""
    if not isinstance(body, Mapping):
        return "body", "must be a JSON object"
    if api == "chat/completions" and not isinstance(body.get("messages"), list):
        return "messages", "must be a list"
    if api == "responses" and not isinstance(body.get("instructions"), str | None):
        return "instructions", "must be text"
    return None


class ReplyText:
    r"""Collects the text of a reply, streamed or whole.

    Args:
        api: Of which API.
        streams: Whether it arrives as server-sent events.
        most: Bytes to keep at most; a longer reply counts as not finished.

    Example:
        >>> reply = ReplyText("chat/completions", streams=True)
        >>> reply.feed(b'data: {"choices": [{"index": 0, "delta": {"content": "Len"}}]}\n\nda')
        >>> reply.feed(b'ta: {"choices": [{"index": 0, "delta": {"content": "tils"}}]}\n\ndata: [DONE]\n\n')
        >>> reply.finish()
        'Lentils'
    """

    def __init__(self, api: Api, *, streams: bool, most: int = 4 << 20) -> None:
        self._api, self._streams, self._most = api, streams, most
        self._rest = bytearray()
        self._size = 0
        self._texts: list[str] = []
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Add bytes of the reply's body."""
        self._size += len(data)
        if self._size > self._most:
            self._rest.clear()
            return
        self._rest += data
        if self._streams:
            *lines, self._rest[:] = bytes(self._rest).split(b"\n")
            for line in lines:
                self._read_event(line.strip())

    def finish(self) -> str | None:
        """Return the text of the whole reply; ``None`` if it did not end, is too long, or has no text."""
        if self._size > self._most:
            return None
        if self._streams:
            return "".join(self._texts) or None if self._ended else None
        try:
            return _reply_text(self._api, json.loads(bytes(self._rest)))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return None

    def _read_event(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self._ended = True
            return
        try:
            event = json.loads(data)
            if self._api == "responses":
                self._ended |= event["type"] == "response.completed"
                if event["type"] == "response.output_text.delta":
                    self._texts.append(str(event["delta"]))
            else:
                for choice in event["choices"]:
                    if choice["index"] == 0 and choice["delta"].get("content"):
                        self._texts.append(str(choice["delta"]["content"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return


def _reply_text(api: Api, body: Any) -> str | None:
    if api == "chat/completions":
        text = body["choices"][0]["message"].get("content")
        return text if isinstance(text, str) and text else None
    items = [item for item in body["output"] if item["type"] == "message"]
    texts = [part["text"] for item in items for part in item["content"] if part["type"] == "output_text"]
    return "".join(texts) or None


def _inserted(messages: list[Any], context: str) -> list[Any]:
    place = _n_system(messages)
    role = messages[place - 1]["role"] if place else "system"
    return [*messages[:place], {"role": role, "content": context}, *messages[place:]]


def _n_system(messages: Iterable[Any]) -> int:
    """Return how many system messages a conversation begins with."""
    count = 0
    for message in messages:
        if not (isinstance(message, Mapping) and message.get("role") in _SYSTEM):
            break
        count += 1
    return count


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))
