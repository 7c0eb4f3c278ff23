"""How a predictor's fields become a prompt: short, and rendered once for each persona.

A single text is asked for and read as it is: a persona inside JSON costs escapes and, with small
models, sense. Everything else is one JSON object. DSPy's own JSON adapter writes the schema of every
field into the system message, twice, and builds it anew for each call; an engine that enforces the
schema does not need to read it. The shared instructions come first and the persona last, so that a
provider's prefix cache serves all users.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

import dspy
from dspy.adapters.json_adapter import JSONAdapter
from dspy.utils.exceptions import AdapterParseError
from pydantic import BaseModel, ValidationError


class _PlainText:
    """Mixed into an adapter: a prediction of one text has no format at all."""

    def format_system_message(self, signature: Any) -> str:
        """Return the instructions alone."""
        if _is_text(signature):
            return str(signature.instructions)
        said: str = super().format_system_message(signature)  # type: ignore[misc]
        return said

    def format_user_message_content(
        self, signature: Any, inputs: Any, prefix: str = "", suffix: str = "", main_request: bool = False
    ) -> str:
        """Return the inputs under their names; plain texts without DSPy's type checks of each."""
        if not all(isinstance(inputs.get(name), str) for name in signature.input_fields):
            said: str = super().format_user_message_content(  # type: ignore[misc]
                signature, inputs, prefix, suffix, main_request
            )
            return said
        if _is_text(signature):
            parts = [_heading(name) + inputs[name] for name in signature.input_fields]
        else:
            parts = [f"[[ ## {name} ## ]]\n{inputs[name]}" for name in signature.input_fields]
        ask = self.user_message_output_requirements(signature) if main_request else ""
        return "\n\n".join(part for part in (prefix, *parts, ask, suffix) if part).strip()

    def user_message_output_requirements(self, signature: Any) -> str:
        """Return the reminder at the end of the user message."""
        if _is_text(signature):
            return f"Now write the {_words(_output(signature))}, and nothing else."
        said: str = super().user_message_output_requirements(signature)  # type: ignore[misc]
        return said

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Return the text as it is; an empty one cannot be read."""
        if not _is_text(signature):
            fields: dict[str, Any] = super().parse(signature, completion)  # type: ignore[misc]
            return fields
        if not completion.strip():
            raise AdapterParseError(
                adapter_name=type(self).__name__,
                signature=signature,
                lm_response=completion,
                message="the text is empty",
            )
        return {_output(signature): completion.strip()}


class SchemaAdapter(_PlainText, JSONAdapter):  # type: ignore[misc]
    """For models whose engine enforces a JSON schema: one call, no fallback."""

    def __init__(self) -> None:
        super().__init__(use_native_function_calling=False)
        self._system: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._format: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def format_system_message(self, signature: Any) -> str:
        """Return what the fields mean, then the instructions (the persona) verbatim."""
        if _is_text(signature):
            return super().format_system_message(signature)
        if signature not in self._system:
            inputs = _describe(signature.input_fields)
            outputs = _describe(signature.output_fields)
            self._system[signature] = (
                f"You are given:\n{inputs}\n\nReply with one JSON object with these fields, in this order:\n"
                f"{outputs}\n\n{signature.instructions}"
            )
        return self._system[signature]

    def user_message_output_requirements(self, signature: Any) -> str:
        """Return the reminder at the end of the user message."""
        if _is_text(signature):
            return super().user_message_output_requirements(signature)
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
        return super().parse(signature, completion)

    def _prepare_response_format(self, lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> None:
        if _is_text(signature):
            return
        if signature not in self._format:
            super()._prepare_response_format(lm, lm_kwargs, signature)
            self._format[signature] = lm_kwargs.get("response_format")
        elif self._format[signature] is not None:
            lm_kwargs["response_format"] = self._format[signature]


class OpeningAdapter(SchemaAdapter):
    """For models that go on with a reply begun for them: a rewrite begins with its heading.

    Asked to rewrite a text, a small model often replies that it is ready to help. One that goes on
    after the rewrite copies the prompt's next heading, and is stopped there.
    """

    def format(self, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """Return the messages; where a rewrite is wanted, the last is the beginning of the reply."""
        messages: list[dict[str, Any]] = super().format(signature, demos, inputs)
        if _is_rewrite(signature):
            messages.append({"role": "assistant", "content": _heading(_output(signature))})
        return messages

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Read an answer; the heading that a rewrite was begun with is not part of it."""
        if _is_rewrite(signature):
            completion = completion.removeprefix(_heading(_output(signature)))
        return super().parse(signature, completion)

    def _prepare_response_format(self, lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> None:
        super()._prepare_response_format(lm, lm_kwargs, signature)
        if _is_rewrite(signature):
            lm_kwargs["stop"] = [f"\n\n{_heading(name)}" for name in signature.input_fields]


class MarkedAdapter(_PlainText, dspy.ChatAdapter):  # type: ignore[misc]
    """For models without schemas: DSPy's field markers, without its second call in another format."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)


def _is_text(signature: Any) -> bool:
    outputs = signature.output_fields
    return len(outputs) == 1 and next(iter(outputs.values())).annotation is str


def _is_rewrite(signature: Any) -> bool:
    """Whether one text is wanted, ``new_NAME``, and the old one is there as ``current_NAME``."""
    return _is_text(signature) and _output(signature).replace("new_", "current_", 1) in signature.input_fields


def _output(signature: Any) -> str:
    name: str = next(iter(signature.output_fields))
    return name


def _words(name: str) -> str:
    return name.replace("_", " ")


def _heading(name: str) -> str:
    return f"{_words(name).capitalize()}:\n"


def _describe(fields: Any) -> str:
    return "\n".join(f"- {name}: {field.json_schema_extra['desc']}" for name, field in fields.items())


_OPENING = OpeningAdapter()
_SCHEMA = SchemaAdapter()
_MARKED = MarkedAdapter()


def adapter_for(lm: Any) -> Any:
    """Return the adapter this program uses with ``lm``: one model call for each prediction.

    An adapter that the user configured in DSPy is left alone.
    """
    if dspy.settings.adapter is not None:
        return dspy.settings.adapter
    if getattr(lm, "continues", False):
        return _OPENING
    return _SCHEMA if getattr(lm, "supports_response_schema", False) else _MARKED


def program_adapter() -> AbstractContextManager[Any]:
    """Return a context in which predictors use `adapter_for` the configured model."""
    context: AbstractContextManager[Any] = dspy.context(adapter=adapter_for(dspy.settings.lm))
    return context
