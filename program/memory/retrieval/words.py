"""Words of a text in any script, for search.

Scripts without spaces between words have no words without a dictionary. They are searched by pairs of
neighbouring characters, as in Lucene's CJK analysis; Korean too, because its particles join the words.
"""

from __future__ import annotations

import unicodedata

import regex

_UNSPACED_CLASS = "ー" + "".join(
    rf"\p{{Script={name}}}"
    for name in (
        *("Han", "Hiragana", "Katakana", "Bopomofo", "Hangul", "Yi"),
        *("Thai", "Lao", "Khmer", "Myanmar", "Tai_Tham", "Tai_Le", "New_Tai_Lue", "Tai_Viet"),
        *("Javanese", "Balinese"),
    )
)
_UNSPACED = regex.compile(f"([{_UNSPACED_CLASS}]+)")
_SYLLABLE = regex.compile(r"[\p{Script=Han}\p{Script=Hangul}]")
_LETTER = regex.compile(r"[\p{L}\p{M}\p{N}]")
_SYMBOL = regex.compile(r"[\p{So}\p{Co}\p{Cn}]")
# Hebrew points, Arabic vowel signs and tatweel are optional in writing, and Turkish capital İ folds
# to i with a dot above.
_OPTIONAL = regex.compile(
    r"[\p{Default_Ignorable_Code_Point}\u0307\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670]"
)
_UNSPACED_MARK = "\x00"


class _Characters(dict[int, str]):
    """A table for `str.translate`: words stay, symbols become words, the rest separates words.

    Characters of scripts without spaces are marked.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if _OPTIONAL.match(character):
            text = ""
        elif _LETTER.match(character):
            text = f"{_UNSPACED_MARK}{character}" if _UNSPACED.match(character) else character
        else:
            text = f" {character} " if _SYMBOL.match(character) else " "
        self[code] = text
        return text


_CHARACTERS = _Characters({ord("\u0131"): "i"})


def split_words(text: str) -> list[str]:
    """Return the words of ``text`` in order, without case and punctuation; emoji are words.

    A run of characters of a script without spaces gives its pairs of neighbours, and each Chinese
    character and Korean syllable alone.

    Example:
        >>> split_words("Sushi, or STRASSE?") == split_words("sushi or Straße")
        True
        >>> split_words("緑茶を 2 🍵")
        ['緑茶', '茶を', '緑', '茶', '2', '🍵']
    """
    marked = unicodedata.normalize("NFKC", text).casefold().translate(_CHARACTERS)
    if _UNSPACED_MARK not in marked:
        return marked.split()
    words: list[str] = []
    for chunk in marked.replace(_UNSPACED_MARK, "").split():
        # The pattern's group makes every second part a run of a script without spaces.
        for number, part in enumerate(_UNSPACED.split(chunk)):
            words += _grams(part) if number % 2 else [part] if part else []
    return words


def _grams(run: str) -> list[str]:
    if len(run) == 1:
        return [run]
    pairs = [run[start : start + 2] for start in range(len(run) - 1)]
    return pairs + [str(syllable) for syllable in _SYLLABLE.findall(run)]
