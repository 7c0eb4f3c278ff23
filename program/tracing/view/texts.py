"""What was asked, answered and said in a call, as labelled texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TELLING = (
    "ask",
    "agent",
    "tool",
    "simulate",
    "textual_loss",
    "evaluate",
    "step",
    "review",
    "gate",
    "predict",
)
"""The spans with texts to show; the failure of every span is shown."""


def call_texts(name: str, call: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of a call by label; empty if it has none.

    Labels: ``asked``, ``answered``, ``true`` (the user's own answer), ``feedback``, ``tool`` (its name and
    arguments), ``saw`` (what the tool showed), ``note`` and ``failed``.

    Args:
        name: The span's name.
        call: Its record in Weave's format, with ``inputs``, ``output`` and ``exception``.

    Example:
        >>> call_texts("ask", {"inputs": {"query": "Which tea?"}, "output": {"answer": "Mint."}})
        {'asked': 'Which tea?', 'answered': 'Mint.'}
    """
    inputs, output = mapping(call.get("inputs")), mapping(call.get("output"))
    read = _READERS.get(name)
    texts = {} if read is None else {label: _plain(value) for label, value in read(inputs, output).items()}
    if failure := failure_text(call.get("exception")):
        texts["failed"] = failure
    return {label: text for label, text in texts.items() if text}


def failure_text(exception: Any) -> str:
    """Return the type and message of a stored exception; empty if there is none or it cannot be read."""
    try:
        stored = mapping(json.loads(exception or "{}"))
    except (TypeError, ValueError, RecursionError):
        return ""
    return ": ".join(filter(None, (_plain(stored.get("type")), _plain(stored.get("message")))))


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a stored value that should be a mapping; an empty one if it is not."""
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _agent(inputs: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    return {"asked": inputs.get("query"), "answered": mapping(output.get("finished")).get("answer")}


def _ask(inputs: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    return {"asked": inputs.get("query"), "answered": output.get("answer")}


def _evaluate(inputs: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    result = mapping(output.get("result"))
    return {"asked": inputs.get("query"), "answered": result.get("text")}


def _tool(inputs: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    action, seen = mapping(inputs.get("action")), mapping(output.get("observation"))
    arguments = ", ".join(
        str(value) for name, value in action.items() if name not in ("tool", "answer") and value
    )
    name = _plain(action.get("tool"))
    return {"tool": f"{name}({arguments})" if name else "", "saw": seen.get("text")}


def _rollout(inputs: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    made = mapping(output.get("simulation"))
    return {
        "asked": made.get("query"),
        "answered": made.get("answer"),
        "true": made.get("truth"),
        "failed": made.get("error"),
    }


def _feedback(inputs: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    return {"feedback": output.get("feedback")}


def _step(inputs: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    return {"note": mapping(output.get("step")).get("note")}


def _decision(inputs: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    decision = mapping(output.get("decision"))
    outcome, reason = _plain(decision.get("outcome")), _plain(decision.get("reason"))
    return {"note": ": ".join(filter(None, (outcome, reason)))}


def _prediction(inputs: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    """Return why a reply was no answer; what was answered stands at the agent."""
    unreadable = mapping(output.get("prediction"))
    return {"failed": unreadable.get("unusable") or unreadable.get("raw")}


_READERS = {
    "agent": _agent,
    "ask": _ask,
    "evaluate": _evaluate,
    "gate": _decision,
    "predict": _prediction,
    "review": _decision,
    "simulate": _rollout,
    "step": _step,
    "textual_loss": _feedback,
    "tool": _tool,
}
