r"""Texts from outside: what is repaired, what is refused, and how they are printed.

Users' texts are refused with a reason (`find_problem`), so that nothing changes unseen. Models' texts
are repaired (`repair`), because nobody can correct them. Texts for a terminal are escaped
(`printable`): a user's text must not move the cursor, set the title, or fill the clipboard.
"""

from __future__ import annotations

import re
import unicodedata

_SURROGATE = re.compile("[\ud800-\udfff]")
_DROPPED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_PRINTED_CONTROLS = frozenset("\n\t")
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Characters of other categories that nobody sees: fillers, joiners and variation selectors.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Persian, Indic scripts and emoji cannot be written without these.
_JOINERS = frozenset("\u200c\u200d\ufe0e\ufe0f")


def repair(text: str) -> str:
    r"""Return ``text`` as any database, prompt or file can hold it.

    Two halves of a surrogate pair are joined, a single half becomes U+FFFD, line ends become ``\n``,
    and control characters other than tab and line end are dropped.

    Example:
        >>> repair("tea\x00 \ud83d\r\ncake")
        'tea \ufffd\ncake'
    """
    if text.isascii() and text.isprintable():
        return text
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _DROPPED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def find_problem(text: str) -> str:
    r"""Return why a text cannot be stored; empty if it can.

    Example:
        >>> find_problem("half an emoji \ud83d")
        'holds half of a surrogate pair at character 14'
        >>> find_problem("plain text")
        ''
    """
    if text.isascii() and "\x00" not in text:
        return ""
    if match := _SURROGATE.search(text):
        return f"holds half of a surrogate pair at character {match.start()}"
    position = text.find("\x00")
    return f"holds a NUL character at character {position}" if position >= 0 else ""


def find_unseen(name: str) -> int | None:
    r"""Return the position of the first character that nobody can see or type, for ids; ``None`` if none.

    These are control, format, bidi and zero-width characters, fillers and line separators. Joiners count
    only where no script needs them: at the start, and after an ASCII character or another joiner.

    Example:
        >>> find_unseen("ann\u200b"), find_unseen("ann\u202e"), find_unseen("க்\u200cஷ")
        (3, 3, None)
    """
    if name.isascii() and name.isprintable():
        return None
    for position, character in enumerate(name):
        before = name[position - 1] if position else "a"
        if character in _JOINERS and not before.isascii() and not _is_unseen(before):
            continue
        if _is_unseen(character):
            return position
    return None


def visible(name: str) -> str:
    r"""Return an id with everything that nobody can see as an escape; earlier versions stored such ids.

    Example:
        >>> print(visible("ann\u200b"))
        ann\u200b
    """
    while (position := find_unseen(name)) is not None:
        name = name[:position] + _code(name[position]) + name[position + 1 :]
    return name


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN or _BLANK.match(character) is not None


def printable(text: str) -> str:
    r"""Return ``text`` with everything that could control a terminal as a visible escape.

    Tab and line feed stay; all other control, format-override and surrogate characters are written
    as ``\x1b``, ``\u202e`` and the like.

    Example:
        >>> print(printable("\x1b]0;title\x07 and \u202e"))
        \x1b]0;title\x07 and \u202e
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character in _PRINTED_CONTROLS:
        return character
    if unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI or character in "\u2028\u2029":
        return _code(character)
    return character


def _code(character: str) -> str:
    code = ord(character)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
