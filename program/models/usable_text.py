"""What of a model's reply is usable text: the one place that decides it.

Personas, profiles, feedback, answers and summaries all come through `usable_text`. It removes what
models wrap around a text (thoughts, code fences, chat) and refuses what is not one: refusals, error
pages, data, noise.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from program.models.garbled import why_garbled
from program.text_safety import repair

_THOUGHTS = re.compile(
    r"<(think|thinking|thought|thoughts|reasoning|reflection)>.*?</\1>\s*|◁think▷.*?◁/think▷\s*", re.S | re.I
)
_THOUGHTS_END = re.compile(
    r"^.*?(?:</(?:think|thinking|thought|thoughts|reasoning)>|◁/think▷)\s*", re.S | re.I
)
_THOUGHTS_START = re.compile(r"<(?:think|thinking|thought|thoughts|reasoning)>|◁think▷", re.I)
_CHANNEL = re.compile(r"^.*<\|channel\|>final<\|message\|>", re.S)
_SPECIAL_TOKEN = re.compile(r"<\|[a-z_]{2,30}\|>|</?s>(?=\s*$)", re.I)
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.S)
_INTRODUCTION = re.compile(
    r"^(?:(?:sure|certainly|of course|absolutely|okay|ok|great)\b[^\n]{0,80}[!.,:]\s*)?"
    r"(?:here(?:'s| is| are)\b|below is\b|this is\b)[^\n]{0,120}"
    r"(?:prompt|persona|profile|feedback|summary|answer|response|version|rewrite|text|headline|title|tweet)"
    r"[^\n]{0,60}:\s*\n+",
    re.I,
)
_GREETING = re.compile(r"^(?:sure|certainly|of course|absolutely)[!,.:][^\n]{0,60}\n\s*\n", re.I)
_OFFER = re.compile(
    r"\n\s*\n(?:let me know|i hope this|feel free to|please let me know|would you like me)\b[^\n]{0,200}$",
    re.I,
)
_APOLOGY = (
    r"^(?:i(?:'m| am) (?:very |so |really )?sorry[,.]?\s*(?:but )?|sorry[,.]?\s*(?:but )?"
    r"|i apologi[sz]e[,.]?\s*(?:but )?|unfortunately,?\s*|as an ai(?: language model| assistant)?,?\s*)*"
)
_CANNOT = (
    r"(?:i|we)(?:'m| am)? (?:can(?:'t|not| not)|won't|will not|not able to|unable to|must decline to"
    r"|have to decline to|do not feel comfortable|don't feel comfortable)\s+"
)
_SERVE = (
    r"(?:(?:to|with) )?(?:assist|help|comply|answer|do that|provide|continue|create|write|engage"
    r"|discuss|process|generate|complete|respond|support|participate|share|produce|rewrite)"
)
_REFUSAL = re.compile(_APOLOGY + _CANNOT + _SERVE, re.I)
_HTML = re.compile(r"^\s*(?:<!doctype\s+html|<html[\s>]|<\?xml\b|<head[\s>]|<body[\s>])", re.I)
_ONE_CHARACTER = re.compile(r"([^\s\-_=*#~.])\1{39,}")
_NULLS = frozenset(("none", "null", "undefined", "nan", "n/a", "[object object]"))
# As programming languages write a missing value: "none" or "None." may be a user's answer.
_NULL_VALUES = frozenset(("None", "null", "undefined", "NaN", "[object Object]"))
_ERROR_KEYS = frozenset(("error", "errors", "detail", "status", "code"))
_MOST_REFUSAL_CHARS = 600
_MOST_NOISE = 0.5
_MOST_UNDECODED = 0.05
_REPEATS = 12


class UnusableTextError(ValueError):
    """A reply holds no usable text; the message is the reason, in a few words."""


def usable_text(reply: str, *, field: str = "", prose: bool = True) -> str:
    r"""Return the text of a model's reply, without thoughts, fences and chat around it.

    Args:
        reply: The reply's content.
        field: The name that the text was asked for under; JSON with that one field is unwrapped.
        prose: Whether the text must read as language. An answer may be an emoji or a number.

    Raises:
        UnusableTextError: It is empty, only thoughts, a refusal, a page of HTML, whole or broken JSON, a
            server's error, the word ``None``, undecodable, or noise.

    Example:
        >>> usable_text("<think>She likes tea.</think>\n\nAnswer in one word.")
        'Answer in one word.'
        >>> usable_text("I'm sorry, but I can't help with that.")
        Traceback (most recent call last):
        program.models.usable_text.UnusableTextError: the model refused
    """
    text = _without_thoughts(repair(reply)).strip()
    text = _unfenced(text)
    text = _unwrapped(text, field)
    text = _without_chat(text)
    if not text:
        raise UnusableTextError("the reply is empty")
    if text in _NULL_VALUES or (prose and text.lower() in _NULLS):
        raise UnusableTextError(f"the reply is the word {text!r}")
    if _HTML.match(text):
        raise UnusableTextError("the reply is a page of HTML or XML")
    if is_refusal(text):
        raise UnusableTextError("the model refused")
    # A word that lost half an emoji is still an answer.
    if text.count("\ufffd") > max(_MOST_UNDECODED * len(text), 0 if prose else 2):
        raise UnusableTextError("the reply cannot be decoded")
    if _ONE_CHARACTER.search(text):
        raise UnusableTextError("the reply repeats one character")
    if reason := why_garbled(text):
        raise UnusableTextError(reason)
    if prose and (reason := _noise(text)):
        raise UnusableTextError(reason)
    return text


def is_refusal(text: str) -> bool:
    """Return whether a text declines the request instead of answering it.

    Example:
        >>> is_refusal("I cannot assist with that request.")
        True
        >>> is_refusal("I'm sorry, but I can't make it tonight.")
        False
    """
    plain = text.strip().replace("\u2019", "'")
    return len(plain) <= _MOST_REFUSAL_CHARS and _REFUSAL.match(plain) is not None


def _without_thoughts(text: str) -> str:
    text = _CHANNEL.sub("", text)
    text = _THOUGHTS.sub("", text)
    # Some servers leave out the opening tag; a reply that was cut may lack the closing one.
    text = _THOUGHTS_END.sub("", text)
    start = _THOUGHTS_START.search(text)
    if start is not None:
        text = text[: start.start()]
        if not text.strip():
            raise UnusableTextError("the reply is only thoughts")
    return _SPECIAL_TOKEN.sub("", text)


def _unfenced(text: str) -> str:
    """Return the inside of the only fence, if little else is said."""
    fences = list(_FENCE.finditer(text))
    if len(fences) == 1 and text.count("```") == 2:
        fence = fences[0]
        outside = text[: fence.start()] + text[fence.end() :]
        if len(outside.strip()) <= min(200, max(80, len(fence[1]))):
            return fence[1].strip()
    return text


def _unwrapped(text: str, field: str) -> str:
    """Return the one text inside JSON; refuse other JSON, which was not asked for."""
    if text[:1] not in "{[" or text[-1:] not in "}]":
        return text
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(data, dict):
        values = [data[field]] if field in data else list(data.values())
        if len(values) == 1 and isinstance(values[0], str) and _ERROR_KEYS.isdisjoint(data):
            return repair(values[0]).strip()
        raise UnusableTextError("the reply is JSON, not text")
    if data and not all(isinstance(item, int | float | str) for item in data):
        raise UnusableTextError("the reply is JSON, not text")
    return text


def _without_chat(text: str) -> str:
    for pattern in (_INTRODUCTION, _GREETING, _OFFER):
        shorter = pattern.sub("", text).strip()
        if shorter:
            text = _unfenced(shorter)
    return text


def _noise(text: str) -> str:
    """Return why a text is not language; empty if it is."""
    letters = sum(character.isalpha() for character in text)
    visible = sum(not character.isspace() for character in text)
    if letters < 1 or letters < (1 - _MOST_NOISE) * visible * 0.8:
        return "the reply is not language"
    words = text.split()
    if len(words) >= _REPEATS and Counter(words).most_common(1)[0][1] > 0.7 * len(words):
        return "the reply repeats one word"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) >= _REPEATS and Counter(lines).most_common(1)[0][1] > 0.7 * len(lines):
        return "the reply repeats one line"
    return ""
