"""Probabilities of answers: which models provide them, and how to read them (DSPy's decision requests)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from dspy.adapters.decision import record_evidence

from program.answers import AnswerType, Text

if TYPE_CHECKING:  # it brings the engine
    from program.models.text_likelihood import TextScore


def decision_client(lm: Any, answer_type: AnswerType) -> Any:
    """Return the client that scores the labels of ``answer_type``, from the attribute ``lm.decisions``.

    ``None`` for free text, or if the model has no such client.
    """
    return None if isinstance(answer_type, Text) else getattr(lm, "decisions", None)


class TextScorer(Protocol):
    """A model that scores a given text as its reply; see `program.models.embedded.EmbeddedLM`."""

    def text_likelihood(self, messages: Sequence[Mapping[str, Any]], text: str) -> TextScore:
        """Score ``text`` as the reply to ``messages``."""

    def atext_likelihood(self, messages: Sequence[Mapping[str, Any]], text: str) -> Awaitable[TextScore]:
        """Score like `text_likelihood`, without blocking the event loop."""


def text_scorer(lm: Any) -> TextScorer | None:
    """Return ``lm`` if it scores given texts; ``None`` for any other model."""
    return lm if callable(getattr(lm, "text_likelihood", None)) else None


@contextmanager
def record_probabilities() -> Iterator[Callable[[], Mapping[str, float] | None]]:
    """Record the latest decision inside the block; the yielded function returns its probabilities.

    They map each label, as text, to its probability; ``None`` if there was no decision.
    """
    with record_evidence() as log:
        yield lambda: {str(k): float(v) for k, v in log[-1][2]["probabilities"].items()} if log else None
