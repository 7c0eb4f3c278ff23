"""DSPy adapters with short prompts, rendered once for each persona.

A signature with a single text output uses plain text: a persona inside JSON costs escapes and makes
small models lose the thread. Any other signature uses one JSON object. DSPy's own JSON adapter
writes the schema of every field into the system message, twice, and builds it for each call; an
engine that enforces the schema does not need to read it. The shared instructions come first and the
persona last, so that a provider's prefix cache serves all users.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import dspy
from dspy.adapters.json_adapter import JSONAdapter
from dspy.utils.exceptions import AdapterParseError
from pydantic import BaseModel, ValidationError

from program.json_schema import is_open_type

_MOST_FORMATS = 256
_MARKER_LINE = re.compile(r"^\[\[ ## (\w+) ## \]\]", re.M)


class _PlainText:
    """Mixin for adapters: a signature with one text output uses plain text, without any format."""

    def format_system_message(self, signature: Any) -> str:
        """Return the instructions alone."""
        if is_text(signature):
            return str(signature.instructions)
        message: str = super().format_system_message(signature)  # type: ignore[misc]
        return message

    def format_user_message_content(
        self, signature: Any, inputs: Any, prefix: str = "", suffix: str = "", main_request: bool = False
    ) -> str:
        """Return the inputs under their names; text inputs skip DSPy's type checks.

        Lines of an input that pose as a heading of the prompt are quoted.
        """
        if not all(isinstance(inputs.get(name), str) for name in signature.input_fields):
            content: str = super().format_user_message_content(  # type: ignore[misc]
                signature, inputs, prefix, suffix, main_request
            )
            return content
        if is_text(signature):
            posing = _posing_as_heading(signature)
            parts = [_heading(name) + posing.sub(r"> \g<0>", inputs[name]) for name in signature.input_fields]
        else:
            parts = [f"[[ ## {name} ## ]]\n{_quote_markers(inputs[name])}" for name in signature.input_fields]
        reminder = self.user_message_output_requirements(signature) if main_request else ""
        return "\n\n".join(part for part in (prefix, *parts, reminder, suffix) if part).strip()

    def user_message_output_requirements(self, signature: Any) -> str:
        """Return the reminder at the end of the user message."""
        if is_text(signature):
            return f"Now write the {_words(output_name(signature))}, and nothing else."
        reminder: str = super().user_message_output_requirements(signature)  # type: ignore[misc]
        return reminder

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Return the text, stripped.

        Raises:
            AdapterParseError: The text is empty.
        """
        if not is_text(signature):
            fields: dict[str, Any] = super().parse(signature, completion)  # type: ignore[misc]
            return fields
        if not completion.strip():
            raise AdapterParseError(
                adapter_name=type(self).__name__,
                signature=signature,
                lm_response=completion,
                message="the text is empty",
            )
        return {output_name(signature): completion.strip()}


class SchemaAdapter(_PlainText, JSONAdapter):  # type: ignore[misc]
    """JSON for models whose engine enforces the schema: one call, no fallback."""

    def __init__(self) -> None:
        super().__init__(use_native_function_calling=False)
        self._system: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._format: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        # By model and types of the outputs: signatures of many users differ in the instructions alone.
        self._same: dict[Any, Any] = {}

    def format_system_message(self, signature: Any) -> str:
        """Return the descriptions of the fields, then the instructions (the persona) verbatim."""
        if is_text(signature):
            return super().format_system_message(signature)
        if signature not in self._system:
            inputs = _describe(signature.input_fields)
            outputs = _describe(signature.output_fields)
            self._system[signature] = (
                f"You are given:\n{inputs}\n\nReply with one JSON object with these fields, in this order:\n"
                f"{outputs}\n\n{signature.instructions}"
            )
        return self._system[signature]

    def format_assistant_message_content(
        self, signature: Any, outputs: Any, missing_field_message: Any = None
    ) -> str:
        """Return the outputs of an example as JSON; texts need no schema of pydantic for that."""
        values = {name: outputs.get(name, missing_field_message) for name in signature.output_fields}
        if all(type(value) is str and value.isprintable() for value in values.values()):
            # What `json.dumps` writes with an indent, which its fast encoder does not know.
            lines = (f'  "{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in values.items())
            return "{\n" + ",\n".join(lines) + "\n}"
        content: str = super().format_assistant_message_content(signature, outputs, missing_field_message)
        return content

    def user_message_output_requirements(self, signature: Any) -> str:
        """Return the reminder at the end of the user message."""
        if is_text(signature):
            return super().user_message_output_requirements(signature)
        return f"Reply with a JSON object with {', '.join(f'`{name}`' for name in signature.output_fields)}."

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Parse a completion by the schema of its request; if that fails, as leniently as DSPy."""
        schema = self._format.get(signature)
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            try:
                answer = schema.model_validate_json(completion)
            except ValidationError:
                pass
            else:
                return {name: getattr(answer, name) for name in signature.output_fields}
        return super().parse(signature, completion)

    def _prepare_response_format(self, lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> None:
        if is_text(signature):
            return
        if signature not in self._format:
            self._format[signature] = self._format_for(lm, signature)
        if self._format[signature] is not None:
            lm_kwargs["response_format"] = self._format[signature]

    def _format_for(self, lm: Any, signature: Any) -> Any:
        """Return the response format of a signature; ``None`` if the model takes none."""
        outputs = signature.output_fields
        key = (type(lm), type(getattr(lm, "_engine_spec", None)), str(lm.model), _types(outputs))
        if key[-1] and key in self._same:
            return self._same[key]
        chosen: dict[str, Any] = {}
        if any(is_open_type(field.annotation) for field in outputs.values()):
            # A strict schema would leave only {} of a mapping, deep in a tool's arguments too.
            chosen["response_format"] = {"type": "json_object"}
        else:
            super()._prepare_response_format(lm, chosen, signature)
        response_format = chosen.get("response_format")
        if key[-1]:
            if len(self._same) >= _MOST_FORMATS:
                self._same.clear()
            self._same[key] = response_format
        return response_format


class JsonAdapter(SchemaAdapter):
    """JSON for models that take no schema, but promise an object."""

    def _prepare_response_format(self, lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> None:
        if not is_text(signature):
            lm_kwargs["response_format"] = {"type": "json_object"}


class PrefillAdapter(SchemaAdapter):
    """Prefills the reply to a rewrite with its heading, for models that continue a prefilled reply.

    Without the prefill a small model often replies that it is ready to help. If it continues after
    the rewrite, it copies the prompt's next heading, so that heading is a stop sequence.
    """

    def format(self, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """Return the messages; for a rewrite the last one is the prefill of the reply."""
        messages: list[dict[str, Any]] = super().format(signature, demos, inputs)
        if _is_rewrite(signature):
            messages.append({"role": "assistant", "content": _heading(output_name(signature))})
        return messages

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Parse a completion; the prefilled heading is not part of a rewrite."""
        if _is_rewrite(signature):
            completion = completion.removeprefix(_heading(output_name(signature)))
        return super().parse(signature, completion)

    def _prepare_response_format(self, lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> None:
        super()._prepare_response_format(lm, lm_kwargs, signature)
        if _is_rewrite(signature):
            lm_kwargs["stop"] = [f"\n\n{_heading(name)}" for name in signature.input_fields]


class MarkerAdapter(_PlainText, dspy.ChatAdapter):  # type: ignore[misc]
    """DSPy's field markers for models without schemas, without DSPy's second call as JSON."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Parse a completion; a marker that an earlier field quotes is part of that field."""
        for name in signature.output_fields:
            markers = list(re.finditer(rf"^\[\[ ## {re.escape(name)} ## \]\]", completion, re.M))
            for match in reversed(markers[:-1]):
                completion = completion[: match.start()] + "> " + completion[match.start() :]
        return super().parse(signature, completion)


def _types(outputs: Any) -> tuple[Any, ...]:
    """Return what decides the schema of output fields; empty if that cannot be compared."""
    types = tuple((name, field.annotation) for name, field in outputs.items() if field.is_required())
    try:
        hash(types)
    except TypeError:
        return ()
    return types if len(types) == len(outputs) else ()


@lru_cache(maxsize=1024)
def is_text(signature: Any) -> bool:
    """Return whether one text is asked for. Cached: DSPy collects a signature's fields at each access."""
    outputs = signature.output_fields
    return len(outputs) == 1 and next(iter(outputs.values())).annotation is str


def _is_rewrite(signature: Any) -> bool:
    """Return whether the only output is a text ``new_NAME`` and there is an input ``current_NAME``."""
    return (
        is_text(signature) and output_name(signature).replace("new_", "current_", 1) in signature.input_fields
    )


@lru_cache(maxsize=1024)
def output_name(signature: Any) -> str:
    """Return the name of the first output field."""
    name: str = next(iter(signature.output_fields))
    return name


def _words(name: str) -> str:
    return name.replace("_", " ")


def _heading(name: str) -> str:
    return f"{_words(name).capitalize()}:\n"


def _quote_markers(text: str) -> str:
    """Return a user's text with lines that pose as DSPy's field markers quoted."""
    return _MARKER_LINE.sub(r"> [[ ## \1 ## ]]", text) if "[[ ##" in text else text


def _describe(fields: Any) -> str:
    return "\n".join(f"- {name}: {field.json_schema_extra['desc']}" for name, field in fields.items())


@lru_cache(maxsize=256)
def _posing_as_heading(signature: Any) -> re.Pattern[str]:
    names = [_words(name).capitalize() + ":" for name in signature.input_fields]
    names += [
        _words(output_name(signature)).capitalize() + ":",
        f"Now write the {_words(output_name(signature))}",
    ]
    return re.compile(rf"^(?:{'|'.join(map(re.escape, names))})", re.M)
