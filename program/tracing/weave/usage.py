"""What calls cost, in the form that adds up along the call tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Totals = dict[str, Any]
"""Nested dicts of numbers; Weave adds a call's ``summary`` to its parent's, leaf by leaf."""


def add(to: Totals, more: Mapping[str, Any]) -> None:
    """Add the numbers of ``more`` to those of ``to``; leaves of other types are left out."""
    for name, value in more.items():
        if isinstance(value, Mapping):
            inner = to.setdefault(name, {})
            if isinstance(inner, dict):
                add(inner, value)
        elif isinstance(value, (int, float)) and isinstance(to.get(name, 0), (int, float)):
            to[name] = to.get(name, 0) + value


def of_call(entry: Mapping[str, Any]) -> Totals:
    """Return the totals of one model call, given DSPy's history entry of it.

    ``usage`` is by model, as Weave wants it for its price table; ``cost`` is what DSPy knows:
    ``usd`` is a lower bound where ``unpriced`` is above zero.
    """
    usage = entry.get("usage") or {}
    hit = bool(entry.get("cache_hit")) or not usage
    cost = entry.get("cost")
    read, written = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    return {
        "usage": {
            str(entry.get("model")): {
                "requests": 1,
                "prompt_tokens": read,
                "completion_tokens": written,
                "total_tokens": read + written,
            }
        },
        "cost": {
            "usd": 0.0 if hit else float(cost or 0.0),
            "unpriced": int(cost is None and not hit),
            "cache_hits": int(hit),
        },
    }
