"""Label probabilities: which models provide them, and how to read them (DSPy's decision requests)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dspy.adapters.decision import record_evidence

from program.answers import AnswerType, Text


def decision_client(lm: Any, answer_type: AnswerType) -> Any:
    """Return the client that scores the labels of ``answer_type``, from the attribute ``lm.decisions``.

    ``None`` for free text, or if the model has no such client.
    """
    return None if isinstance(answer_type, Text) else getattr(lm, "decisions", None)


@contextmanager
def record_probabilities() -> Iterator[Callable[[], Mapping[str, float] | None]]:
    """Record the latest decision inside the block; the yielded function returns its probabilities.

    They map each label, as text, to its probability; ``None`` if there was no decision.
    """
    with record_evidence() as log:
        yield lambda: {str(k): float(v) for k, v in log[-1][2]["probabilities"].items()} if log else None
