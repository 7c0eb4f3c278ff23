"""What an answer may be: one of some labels, an integer in a range, or text.

The type travels with the task. It gives the agent its output annotation, reads what a model
said, and says how near an answer comes to the user's true response.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from program.errors import ConfigError, UnparsableAnswerError


@dataclass(frozen=True)
class Labels:
    """One of a fixed list of labels, compared exactly."""

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
        """How the answer must look, for the agent's output field."""
        return "exactly one of: " + ", ".join(self.values)

    def parse(self, raw: object) -> str:
        """Return the label, or raise `UnparsableAnswerError`; nothing is repaired."""
        text = str(raw).strip()
        if text not in self.values:
            raise UnparsableAnswerError(f"{text[:80]!r} is none of the {len(self.values)} labels", raw=text)
        return text

    def agreement(self, answer: str, truth: str) -> float:
        """Return 1.0 for the user's own label, else 0.0."""
        return float(answer == truth)


@dataclass(frozen=True)
class Rating:
    """An integer from ``low`` to ``high``, both included."""

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
        """How the answer must look, for the agent's output field."""
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
    """Free text of at most ``max_chars`` characters; an empty one only with ``allow_empty``."""

    max_chars: int = 4000
    allow_empty: bool = False

    @property
    def annotation(self) -> Any:
        """The type of the agent's output field."""
        return str

    @property
    def hint(self) -> str:
        """How the answer must look, for the agent's output field."""
        return "the answer alone, without explanation"

    def parse(self, raw: object) -> str:
        """Return the stripped text, or raise `UnparsableAnswerError` where nothing is left."""
        text = str(raw).strip()
        if not text and not self.allow_empty:
            raise UnparsableAnswerError("the answer is empty", raw=str(raw))
        return text[: self.max_chars]

    def agreement(self, answer: str, truth: str) -> float:
        """Return the ROUGE-L F-measure, in [0, 1] (LaMP's scorer settings: no stemming)."""
        return float(_rouge().score(truth, answer)["rougeL"].fmeasure)


AnswerType = Labels | Rating | Text


def fits(answer: AnswerType, text: str) -> bool:
    """Return whether ``text`` can be read as such an answer."""
    try:
        answer.parse(text)
    except UnparsableAnswerError:
        return False
    return True


@lru_cache(maxsize=1)
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)
