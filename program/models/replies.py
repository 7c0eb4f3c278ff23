"""Whether a reply is usable: why it ended, whether it is text, and its repaired fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy.utils.exceptions import AdapterParseError
from pydantic import BaseModel

from program.models.forms import is_text, output_name
from program.models.usable_text import UnusableTextError, usable_text
from program.text_safety import repair
from program.usage import Exchange


class UnusableReply(AdapterParseError):  # type: ignore[misc]
    """The provider gave no usable text: a refusal, a cut reply, an error page, nothing at all.

    Attributes:
        reason: Why, in a few words.
    """

    def __init__(self, signature: Any, reason: str, reply: str = "") -> None:
        super().__init__(
            adapter_name="ProgramAdapter",
            signature=signature,
            lm_response=reply,
            message=f"unusable: {reason}",
        )
        self.reason = reason


def asks_again(signature: Any) -> bool:
    """Whether an unusable reply is asked for once more: a text, or the final answer; not a step."""
    return len(signature.output_fields) == 1


def explain_unusable(signature: Any, exchange: Exchange, reply: str) -> UnusableReply | None:
    """Return why a reply that could not be parsed is not an answer at all; ``None`` if it is one."""
    if unusable := unusable_finish(exchange):
        return UnusableReply(signature, unusable)
    # A model outside a tracker reports nothing; then the reply alone decides.
    if exchange.entries and _text_of(exchange.entries[-1]) is None:
        return UnusableReply(signature, "the reply has no text")
    try:
        usable_text(reply, field=output_name(signature), prose=is_text(signature))
    except UnusableTextError as error:
        # Where JSON was asked for, other JSON is the model's own mistake: an invalid answer.
        if is_text(signature) or "JSON" not in str(error):
            return UnusableReply(signature, str(error), reply)
    return None


def unusable_finish(exchange: Exchange) -> str:
    """Return why the provider ended the reply early; empty if it did not."""
    response = exchange.entries[-1].get("response") if exchange.entries else None
    if isinstance(response, tuple | list):
        response = response[-1] if response else None
    finish = getattr(response, "finish_reason", None)
    if finish is None:
        choices = getattr(response, "choices", None)
        finish = getattr(choices[0], "finish_reason", None) if choices else None
    if finish == "length":
        return "the reply was cut at the length limit"
    if finish in ("content_filter", "refusal", "safety"):
        return "the provider filtered the reply"
    parts = getattr(getattr(response, "message", None), "parts", ())
    if any(type(part).__name__ == "RefusalPart" for part in parts):
        return "the model refused"
    return ""


def _text_of(entry: Mapping[str, Any]) -> str | None:
    outputs = entry.get("outputs") or [None]
    output = outputs[-1]
    return output.get("text") if isinstance(output, dict) else output


def usable_fields(signature: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with usable texts.

    Raises:
        UnusableReply: A text is not one.
    """
    single = is_text(signature)
    usable: dict[str, Any] = {}
    for name, value in fields.items():
        try:
            if isinstance(value, str) and (single or name == "answer"):
                usable[name] = usable_text(value, field=name, prose=single and name != "answer")
            elif isinstance(value, str):
                usable[name] = repair(value)
            elif isinstance(value, BaseModel):
                usable[name] = _usable_action(value)
            else:
                usable[name] = value
        except UnusableTextError as error:
            raise UnusableReply(signature, str(error), str(value)) from error
    return usable


def _usable_action(action: BaseModel) -> BaseModel:
    """Return an action whose texts are repaired and whose answer, if it has one, is usable."""
    changes = {
        name: usable_text(value, field=name, prose=False) if name == "answer" else repair(value)
        for name, value in action
        if isinstance(value, str)
    }
    changed = {name: value for name, value in changes.items() if value != getattr(action, name)}
    return action.model_copy(update=changed) if changed else action


def is_from_dspy(error: BaseException) -> bool:
    """Whether an error was raised inside DSPy, not in our code or a user's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return name.startswith(("dspy.", "litellm", "lm15"))
