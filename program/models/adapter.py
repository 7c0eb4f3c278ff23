"""How a predictor's fields become a prompt: short, and rendered once for each persona.

DSPy's own JSON adapter writes the schema of every field into the system message, twice, and builds
it anew for each call. An engine that enforces the schema does not need to read it; a small model is
confused by it. Here the shared instructions come first and the persona last, so that a provider's
prefix cache serves all users.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

import dspy
from dspy.adapters.json_adapter import JSONAdapter
from pydantic import BaseModel, ValidationError


class CompactJSONAdapter(JSONAdapter):  # type: ignore[misc]
    """Asks for one JSON object whose schema the engine enforces; one call, no fallback."""

    def __init__(self) -> None:
        super().__init__(use_native_function_calling=False)
        self._system: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._format: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def format_system_message(self, signature: Any) -> str:
        """Return what the fields mean, then the instructions (the persona) verbatim."""
        if signature not in self._system:
            inputs = _describe(signature.input_fields)
            outputs = _describe(signature.output_fields)
            self._system[signature] = (
                f"You are given:\n{inputs}\n\nReply with one JSON object with these fields, in this order:\n"
                f"{outputs}\n\n{signature.instructions}"
            )
        return self._system[signature]

    def format_user_message_content(
        self, signature: Any, inputs: Any, prefix: str = "", suffix: str = "", main_request: bool = False
    ) -> str:
        """Return the inputs under their names; plain texts without DSPy's type checks of each."""
        if not all(isinstance(inputs.get(name), str) for name in signature.input_fields):
            said = super().format_user_message_content(signature, inputs, prefix, suffix, main_request)
            return str(said)
        parts = [f"[[ ## {name} ## ]]\n{inputs[name]}" for name in signature.input_fields]
        ask = self.user_message_output_requirements(signature) if main_request else ""
        return "\n\n".join(part for part in (prefix, *parts, ask, suffix) if part).strip()

    def user_message_output_requirements(self, signature: Any) -> str:
        """Return the reminder at the end of the user message."""
        return f"Reply with a JSON object with {', '.join(f'`{name}`' for name in signature.output_fields)}."

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Read an answer: by the schema it was asked under, else as leniently as DSPy does."""
        schema = self._format.get(signature)
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            try:
                read = schema.model_validate_json(completion)
            except ValidationError:
                pass
            else:
                return {name: getattr(read, name) for name in signature.output_fields}
        fields: dict[str, Any] = super().parse(signature, completion)
        return fields

    def _prepare_response_format(self, lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> None:
        if signature not in self._format:
            super()._prepare_response_format(lm, lm_kwargs, signature)
            self._format[signature] = lm_kwargs.get("response_format")
        elif self._format[signature] is not None:
            lm_kwargs["response_format"] = self._format[signature]


def _describe(fields: Any) -> str:
    return "\n".join(f"- {name}: {field.json_schema_extra['desc']}" for name, field in fields.items())


_JSON = CompactJSONAdapter()
_CHAT = dspy.ChatAdapter(use_json_adapter_fallback=False)


def adapter_for(lm: Any) -> Any:
    """Return the adapter this program uses with ``lm``: one model call for each prediction.

    An adapter that the user configured in DSPy is left alone.
    """
    if dspy.settings.adapter is not None:
        return dspy.settings.adapter
    return _JSON if getattr(lm, "supports_response_schema", False) else _CHAT


def program_adapter() -> AbstractContextManager[Any]:
    """Return a context in which predictors use `adapter_for` the configured model."""
    context: AbstractContextManager[Any] = dspy.context(adapter=adapter_for(dspy.settings.lm))
    return context
