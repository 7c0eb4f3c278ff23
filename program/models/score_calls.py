"""Reports of calls that score instead of writing, to DSPy's usage tracker and history."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import dspy


class Cost(Protocol):
    """What a score costs: see `LabelScores` and `TextScore`."""

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were in the prefix cache."""

    @property
    def forward_passes(self) -> int:
        """Model calls."""


def report_scores(
    client: Any,
    scores: Sequence[Cost],
    *,
    kind: str,
    output: str,
    prompt: str | None = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Report one finished call of ``client``; each forward pass counts as an output token.

    Args:
        client: Its `update_history` receives the call.
        scores: The scores of the call.
        kind: DSPy's ``model_type``.
        output: What the call found, for the history.
        prompt: What the model has read.
        messages: The same as messages.
    """
    usage = {
        "prompt_tokens": sum(score.prompt_tokens for score in scores),
        "completion_tokens": sum(score.forward_passes for score in scores),
        "prompt_tokens_details": {"cached_tokens": sum(score.cached_tokens for score in scores)},
    }
    if dspy.settings.usage_tracker:
        dspy.settings.usage_tracker.add_usage(client.model, usage)
    if dspy.settings.disable_history:
        return
    client.update_history(
        {
            "prompt": prompt,
            "messages": None if messages is None else list(messages),
            "kwargs": {},
            "outputs": [output],
            "usage": usage,
            "cost": 0.0,
            "timestamp": datetime.datetime.now(datetime.timezone.utc).isoformat(),
            "model": client.model,
            "response_model": client.model,
            "model_type": kind,
        }
    )
