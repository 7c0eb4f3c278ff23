"""Texts that no model meant as language: broken JSON, parts of web pages, errors of servers."""

from __future__ import annotations

import json
import re
from http import HTTPStatus

_DECODER = json.JSONDecoder()
_OPENING_FENCE = re.compile(r"^```[\w+-]*\s*")
_EVENT = re.compile(r"^data:\s*(?=[\[{])")
# A key and a colon, as JSON or as Python writes it: prose may begin with a bracket, but not so.
_OBJECT = re.compile(r"""^\[?\s*\{\s*(?:"[^"\n]{0,80}"|'[^'\n]{0,80}')\s*:""")
_TAIL = re.compile(r'^[\w-]{0,40}"\s*:\s*["\[{\d]')
_PAGE = re.compile(r"^<(?:center|hr|meta|script|style)\b|^<h1>\s*\d{3}\b|</(?:body|html)>\s*$", re.I)
_STATUSES = "|".join(re.escape(status.phrase) for status in HTTPStatus if status >= 400)
_SERVER_ERROR = re.compile(
    rf"(?:HTTP/[\d.]+ |HTTP |error:? |status:? |error code:? )*[45]\d\d[ :-]+(?:{_STATUSES})\b.{{0,100}}"
    r"|error code: \d{3}\b.{0,2000}"
    r"|upstream (?:connect error|request timeout)\b.{0,300}"
    r"|no healthy upstream"
    r"|traceback \(most recent call last\):.{0,20000}",
    re.I | re.S,
)


def why_garbled(text: str) -> str:
    r"""Return why a reply is not a text but a part of something else, in a few words; empty if it is one.

    Example:
        >>> why_garbled('{"answer": ')
        'the reply is broken JSON'
        >>> why_garbled("502 Bad Gateway")
        "the reply is a server's error"
        >>> why_garbled('{"answer": "tea"} is what this user expects.')
        ''
    """
    if _is_broken_json(_EVENT.sub("", _OPENING_FENCE.sub("", text))):
        return "the reply is broken JSON"
    if _PAGE.search(text):
        return "the reply is a part of a page of HTML"
    if _SERVER_ERROR.fullmatch(text.strip()):
        return "the reply is a server's error"
    return ""


def _is_broken_json(text: str) -> bool:
    """Return whether a text begins as JSON, and neither ends with it nor goes on as prose."""
    if _TAIL.match(text):
        return True
    rest = text.strip()
    while rest[:1] in ("{", "["):
        try:
            _, end = _DECODER.raw_decode(rest)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(rest) or error.msg.startswith("Unterminated string")
            return cut or _OBJECT.match(rest) is not None
        except RecursionError:
            return True
        rest = rest[end:].strip()
        if rest and not any(character.isalpha() for character in rest):
            return True
    return False
