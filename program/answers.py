# ruff: noqa: RUF002 - examples in other scripts
"""Answer types of tasks: one of some labels, a rating, or free text.

A type gives the agent its output annotation, parses the model's text, and scores an answer against
the user's true response.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from program.errors import ConfigError, UnparsableAnswerError
from program.text_safety import repair

_MAX_COMPARED = 20_000


@dataclass(frozen=True)
class Labels:
    r"""One of a fixed list of labels, compared exactly.

    Example:
        >>> genre = Labels(("comedy", "drama"))
        >>> genre.parse(" drama\n")
        'drama'
        >>> genre.agreement("drama", "comedy")
        0.0
    """

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or len(set(self.values)) != len(self.values):
            raise ConfigError(f"`values` must be two or more different labels, got {self.values!r}")

    @cached_property
    def annotation(self) -> Any:
        """The type of the agent's output field."""
        return Literal[self.values]

    @property
    def hint(self) -> str:
        """The required form of the answer, for the agent's output field."""
        return "exactly one of: " + ", ".join(self.values)

    def parse(self, raw: object) -> str:
        """Return the label, or raise `UnparsableAnswerError`; only surrounding white space is ignored."""
        text = str(raw).strip()
        if text not in self.values:
            raise UnparsableAnswerError(
                f"{text[:80]!r} is not one of the {len(self.values)} labels", raw=text
            )
        return text

    def agreement(self, answer: str, truth: str) -> float:
        """Return 1.0 if the labels are equal, else 0.0."""
        return float(answer == truth)


@dataclass(frozen=True)
class Rating:
    """An integer from ``low`` to ``high``, both included.

    Example:
        >>> stars = Rating(1, 5)
        >>> stars.parse("4")
        '4'
        >>> stars.agreement("2", "5")
        0.25
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ConfigError(f"`low` must be below `high`, got {self.low!r} and {self.high!r}")

    @cached_property
    def annotation(self) -> Any:
        """The type of the agent's output field."""
        return Literal[tuple(range(self.low, self.high + 1))]

    @property
    def hint(self) -> str:
        """The required form of the answer, for the agent's output field."""
        return f"an integer from {self.low} to {self.high}"

    def parse(self, raw: object) -> str:
        """Return the rating as text, or raise `UnparsableAnswerError`."""
        text = str(raw).strip()
        try:
            value = int(text) if text.removeprefix("-").isdecimal() else None
        except ValueError:
            # Python refuses to read numbers of thousands of digits.
            value = None
        if value is None or not self.low <= value <= self.high:
            raise UnparsableAnswerError(f"{text[:80]!r} is not {self.hint}", raw=text)
        return str(value)

    def agreement(self, answer: str, truth: str) -> float:
        """Return 1 minus the distance as a share of the scale, in [0, 1]."""
        return 1.0 - abs(int(answer) - int(truth)) / (self.high - self.low)


@dataclass(frozen=True)
class Text:
    """Free text, not empty unless ``allow_empty``.

    A text of any length is kept whole. Prompts cut it by `AgentSettings`, `agreement` at ``max_chars``.

    Attributes:
        max_chars: Most characters of a text that are compared.
        allow_empty: Whether an empty text is an answer.

    Example:
        >>> Text(max_chars=11).parse("  Lentil soup, please. ")
        'Lentil soup, please.'
        >>> round(Text().agreement("чай с мёдом", "чай с лимоном"), 2)
        0.4
    """

    max_chars: int = 4000
    allow_empty: bool = False

    @property
    def annotation(self) -> Any:
        """The type of the agent's output field."""
        return str

    @property
    def hint(self) -> str:
        """The required form of the answer, for the agent's output field."""
        return "the answer alone, without explanation"

    def parse(self, raw: object) -> str:
        """Return the text, stripped; raise `UnparsableAnswerError` if it is empty."""
        text = str(raw).strip()
        if not text and not self.allow_empty:
            raise UnparsableAnswerError("the answer is empty", raw=str(raw))
        return text

    def agreement(self, answer: str, truth: str) -> float:
        """Return the `chrf` of the texts, both cut at ``max_chars``, in [0, 1].

        It works in every script. Reports score with the task's own ``metrics``: LaMP's texts with ROUGE.
        """
        return chrf(answer.strip()[: self.max_chars], truth.strip()[: self.max_chars])


AnswerType = Labels | Rating | Text


def fits(answer_type: AnswerType, text: str) -> bool:
    """Return whether ``answer_type`` can parse ``text``."""
    try:
        answer_type.parse(text)
    except UnparsableAnswerError:
        return False
    return True


def chrf(first: str, second: str) -> float:
    """Return how many character n-grams two texts share, in [0, 1]; the order of the texts is irrelevant.

    Equal texts score 1 and an empty text scores 0 with any other. Surrounding white space, Unicode
    composition and the kind of line end are ignored; case, other white space and line breaks count.
    Different texts are compared up to 20,000 characters: longer ones would take gigabytes.

    Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation", as chrF1 with
    sacrebleu's defaults, n-grams of 1 to 6 characters, but with white space.

    Example:
        >>> chrf("чай с мёдом", "чай с мёдом"), chrf("tea", ""), round(chrf("tea", "teas"), 2)
        (1.0, 0.0, 0.78)
    """
    first, second = (unicodedata.normalize("NFC", repair(text)).strip() for text in (first, second))
    if first == second:
        return 1.0
    score = _chrf_scorer().sentence_score(first[:_MAX_COMPARED], [second[:_MAX_COMPARED]]).score
    return min(float(score) / 100, 1.0)


@lru_cache(maxsize=1)
def _chrf_scorer() -> Any:
    # Importing sacrebleu takes 60 ms and 15 MB.
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(beta=1, whitespace=True)
