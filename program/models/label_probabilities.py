"""Label probabilities: which models give them, and how they are read (DSPy's decision requests)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dspy.adapters.decision import record_evidence

from program.answers import AnswerType, Text


def decision_client(lm: Any, answer: AnswerType) -> Any:
    """Return what answers closed questions by likelihood for ``lm``; ``None`` where nothing does.

    A model offers it as its attribute ``decisions``.
    """
    return None if isinstance(answer, Text) else getattr(lm, "decisions", None)


@contextmanager
def probabilities() -> Iterator[Callable[[], Mapping[str, float] | None]]:
    """Collect the evidence of the decision made inside; the function yielded returns it.

    It maps each label, as text, to its probability, or is ``None`` where none was given.
    """
    with record_evidence() as log:
        yield lambda: {str(k): float(v) for k, v in log[-1][2]["probabilities"].items()} if log else None
