"""Sums usage and cost along the call tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Totals = dict[str, Any]
"""Nested dicts of numbers, as in a call's ``summary``, which Weave adds to its parent's."""


def add(totals: Totals, summary: Mapping[str, Any]) -> None:
    """Add the numbers of ``summary`` to ``totals`` in place; values of other types are ignored.

    Example:
        >>> totals = {"usage": {"m": {"requests": 1}}}
        >>> add(totals, {"usage": {"m": {"requests": 2}}, "title": "step 1"})
        >>> totals
        {'usage': {'m': {'requests': 3}}}
    """
    for name, value in summary.items():
        if isinstance(value, Mapping):
            inner = totals.setdefault(name, {})
            if isinstance(inner, dict):
                add(inner, value)
        elif isinstance(value, (int, float)) and isinstance(totals.get(name, 0), (int, float)):
            totals[name] = totals.get(name, 0) + value


def of_call(entry: Mapping[str, Any]) -> Totals:
    """Return the totals of one model call from DSPy's history entry.

    ``usage`` is by model, for Weave's price table. ``cost`` holds DSPy's price: ``usd`` is a lower
    bound if ``unpriced`` is above zero. A cache hit costs nothing.
    """
    usage = entry.get("usage") or {}
    hit = bool(entry.get("cache_hit")) or not usage
    cost = entry.get("cost")
    input_tokens = int(usage.get("prompt_tokens") or 0)
    output_tokens = int(usage.get("completion_tokens") or 0)
    return {
        "usage": {
            str(entry.get("model")): {
                "requests": 1,
                "prompt_tokens": input_tokens,
                "completion_tokens": output_tokens,
                "total_tokens": input_tokens + output_tokens,
            }
        },
        "cost": {
            "usd": 0.0 if hit else float(cost or 0.0),
            "unpriced": int(cost is None and not hit),
            "cache_hits": int(hit),
        },
    }
