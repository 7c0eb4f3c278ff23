"""What a model's provider takes: learned from its refusals, remembered for the process.

A request starts in the best form. If the provider refuses a part of it, the next request leaves that
part out, for this model and address, in every thread.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Any, Literal

import dspy
from dspy.utils.exceptions import ContextWindowExceededError, LMUnsupportedFeatureError

Form = Literal["schema", "json", "text"]
"""How a reply with several fields is asked for: an enforced schema, a JSON object, or field markers."""

FORMS: tuple[Form, ...] = ("schema", "json", "text")
"""From the strictest form to the one that every model takes."""

_FORMAT = re.compile(
    r"response.?format|json.?schema|json.?object|json.?mode|structured.?output|\bschema\b|guided", re.I
)
_PROMPT = re.compile(r"content|filter|policy|moderation|safety|context|too long|length|tokens", re.I)


@dataclass
class Abilities:
    """What one model takes.

    Attributes:
        form: The form in use.
        confirmed: Whether a request in this form has been answered.
        temperature: Whether it takes a temperature.
        max_tokens: Whether it takes ``max_tokens``; otherwise ``max_completion_tokens``.
    """

    form: Form
    confirmed: bool = False
    temperature: bool = True
    max_tokens: bool = True

    def fit(self, lm: Any, lm_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a call without those that the model refuses."""
        fitted = dict(lm_kwargs)
        if not self.temperature and (lm.kwargs.get("temperature") is not None or "temperature" in fitted):
            fitted["temperature"] = None
        limit = fitted.get("max_tokens", lm.kwargs.get("max_tokens"))
        if not self.max_tokens and limit is not None:
            fitted.update(max_tokens=None, max_completion_tokens=limit)
        return fitted

    def learn(self, error: dspy.LMError, *, form_used: bool) -> bool:
        """Learn from a refusal; return whether another request is worth trying.

        Args:
            error: What the provider said.
            form_used: Whether the request asked for a schema or a JSON object.
        """
        if isinstance(error, ContextWindowExceededError) or not _is_refusal(error):
            return False
        message = f"{error.message} {error.provider_code or ''}"
        if re.search("temperature", message, re.I) and self.temperature:
            self.temperature = False
            return True
        if re.search("max_completion_tokens", message) and self.max_tokens:
            self.max_tokens = False
            return True
        if not form_used or self.form == "text":
            return False
        if _FORMAT.search(message) or isinstance(error, LMUnsupportedFeatureError):
            self.form = FORMS[FORMS.index(self.form) + 1]
            return True
        # A provider that refuses without a reason is tried once more in the form that all take.
        if self.confirmed or _PROMPT.search(message):
            return False
        self.form = "text"
        return True


def _is_refusal(error: dspy.LMError) -> bool:
    if isinstance(error, LMUnsupportedFeatureError):
        return True
    return isinstance(error, dspy.LMInvalidRequestError) or error.status in (400, 415, 422)


_known: dict[tuple[str, str], Abilities] = {}
_lock = threading.Lock()


def abilities_of(lm: Any) -> Abilities:
    """Return what is known of a model, by its name and address; the same object each time."""
    key = str(lm.model), str(lm.kwargs.get("api_base") or lm.kwargs.get("base_url") or "")
    known = _known.get(key)
    if known is None:
        # Asking DSPy what a model supports takes longer than all the rest of a call.
        form: Form = "schema" if getattr(lm, "supports_response_schema", False) else "text"
        with _lock:
            known = _known.setdefault(key, Abilities(form))
    return known


def forget_abilities() -> None:
    """Forget everything learned, for tests."""
    with _lock:
        _known.clear()
