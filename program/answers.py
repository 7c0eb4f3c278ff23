"""Answer types of tasks: one of some labels, a rating, or free text.

A type gives the agent its output annotation, parses the model's text, and scores an answer against
the user's true response.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from program.errors import ConfigError, UnparsableAnswerError


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
    """Free text of at most ``max_chars`` characters, not empty unless ``allow_empty``.

    Example:
        >>> Text(max_chars=11).parse("  Lentil soup, please. ")
        'Lentil soup'
        >>> round(Text().agreement("the cat sat", "the cat ran"), 2)
        0.67
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
        """Return the text, stripped and cut; raise `UnparsableAnswerError` if it is empty."""
        text = str(raw).strip()
        if not text and not self.allow_empty:
            raise UnparsableAnswerError("the answer is empty", raw=str(raw))
        return text[: self.max_chars]

    def agreement(self, answer: str, truth: str) -> float:
        """Return the ROUGE-L F-measure, in [0, 1]."""
        return float(rouge_scorer().score(truth, answer)["rougeL"].fmeasure)


AnswerType = Labels | Rating | Text


def fits(answer_type: AnswerType, text: str) -> bool:
    """Return whether ``answer_type`` can parse ``text``."""
    try:
        answer_type.parse(text)
    except UnparsableAnswerError:
        return False
    return True


@lru_cache(maxsize=1)
def rouge_scorer() -> Any:
    """Return the scorer for ``rouge1`` and ``rougeL`` with LaMP's settings: no stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
