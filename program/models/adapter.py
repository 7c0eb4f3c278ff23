"""DSPy adapters with short prompts, rendered once for each persona.

A signature with a single text output uses plain text: a persona inside JSON costs escapes and makes
small models lose the thread. Any other signature uses one JSON object. DSPy's own JSON adapter
writes the schema of every field into the system message, twice, and builds it for each call; an
engine that enforces the schema does not need to read it. The shared instructions come first and the
persona last, so that a provider's prefix cache serves all users.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import dspy
from dspy.adapters.json_adapter import JSONAdapter
from dspy.utils.exceptions import AdapterParseError
from pydantic import BaseModel, ValidationError

from program.errors import ConfigError
from program.json_schema import is_open_type
from program.models.abilities import FORMS, Form, abilities_of
from program.models.patience import acall_with_patience, call_with_patience
from program.models.usable_text import UnusableTextError, usable_text
from program.sync import run_now
from program.text_safety import repair
from program.usage import Exchange, observe_exchange, reserve_call, track_if_untracked

_MARKER_LINE = re.compile(r"^\[\[ ## (\w+) ## \]\]", re.M)


class _PlainText:
    """Mixin for adapters: a signature with one text output uses plain text, without any format."""

    def format_system_message(self, signature: Any) -> str:
        """Return the instructions alone."""
        if _is_text(signature):
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
        if _is_text(signature):
            posing = _posing_as_heading(signature)
            parts = [_heading(name) + posing.sub(r"> \g<0>", inputs[name]) for name in signature.input_fields]
        else:
            parts = [f"[[ ## {name} ## ]]\n{_quote_markers(inputs[name])}" for name in signature.input_fields]
        reminder = self.user_message_output_requirements(signature) if main_request else ""
        return "\n\n".join(part for part in (prefix, *parts, reminder, suffix) if part).strip()

    def user_message_output_requirements(self, signature: Any) -> str:
        """Return the reminder at the end of the user message."""
        if _is_text(signature):
            return f"Now write the {_words(_output(signature))}, and nothing else."
        reminder: str = super().user_message_output_requirements(signature)  # type: ignore[misc]
        return reminder

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Return the text, stripped.

        Raises:
            AdapterParseError: The text is empty.
        """
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
    """JSON for models whose engine enforces the schema: one call, no fallback."""

    def __init__(self) -> None:
        super().__init__(use_native_function_calling=False)
        self._system: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._format: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def format_system_message(self, signature: Any) -> str:
        """Return the descriptions of the fields, then the instructions (the persona) verbatim."""
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
        if _is_text(signature):
            return
        if signature not in self._format:
            if any(is_open_type(field.annotation) for field in signature.output_fields.values()):
                # A strict schema would leave only {} of a mapping, deep in a tool's arguments too.
                lm_kwargs["response_format"] = {"type": "json_object"}
            else:
                super()._prepare_response_format(lm, lm_kwargs, signature)
            self._format[signature] = lm_kwargs.get("response_format")
        elif self._format[signature] is not None:
            lm_kwargs["response_format"] = self._format[signature]


class JsonAdapter(SchemaAdapter):
    """JSON for models that take no schema, but promise an object."""

    def _prepare_response_format(self, lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> None:
        if not _is_text(signature):
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
            messages.append({"role": "assistant", "content": _heading(_output(signature))})
        return messages

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Parse a completion; the prefilled heading is not part of a rewrite."""
        if _is_rewrite(signature):
            completion = completion.removeprefix(_heading(_output(signature)))
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


@lru_cache(maxsize=1024)
def _is_text(signature: Any) -> bool:
    # Kept, because DSPy collects a signature's fields at each access.
    outputs = signature.output_fields
    return len(outputs) == 1 and next(iter(outputs.values())).annotation is str


def _is_rewrite(signature: Any) -> bool:
    """Return whether the only output is a text ``new_NAME`` and there is an input ``current_NAME``."""
    return _is_text(signature) and _output(signature).replace("new_", "current_", 1) in signature.input_fields


@lru_cache(maxsize=1024)
def _output(signature: Any) -> str:
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
    names += [_words(_output(signature)).capitalize() + ":", f"Now write the {_words(_output(signature))}"]
    return re.compile(rf"^(?:{'|'.join(map(re.escape, names))})", re.M)


_FORMS: dict[Form, Any] = {"schema": SchemaAdapter(), "json": JsonAdapter(), "text": MarkerAdapter()}
_PREFILL = PrefillAdapter()
_chosen: ContextVar[Form | None] = ContextVar("personaagent_form", default=None)


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


class ProgramAdapter(dspy.Adapter):  # type: ignore[misc]
    """Asks in the best form that a model takes, and returns usable text only.

    A refused form is replaced by the next one (`program.models.abilities`). An unusable text is asked
    for once more. Only usable replies reach the cache.

    Args:
        inner: An adapter to use for every request, such as the one configured in DSPy; ``None``
            chooses by what the model takes.
    """

    def __init__(self, inner: Any = None) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
        """Ask, and return one dictionary of output fields for each completion."""
        return run_now(self._ask(lm, lm_kwargs, signature, demos, inputs, wait=False))

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
        """Ask like `__call__`, without blocking the event loop."""
        return await self._ask(lm, lm_kwargs, signature, demos, inputs, wait=True)

    def format(self, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """Return the messages of a request to DSPy's configured model."""
        messages: list[dict[str, Any]] = self.form_for(dspy.settings.lm).format(signature, demos, inputs)
        return messages

    def format_user_message_content(self, signature: Any, inputs: Any, *parts: Any, **options: Any) -> str:
        """Return the inputs as they stand in a request to DSPy's configured model (ReAct asks for it)."""
        form = self.form_for(dspy.settings.lm)
        content: str = form.format_user_message_content(signature, inputs, *parts, **options)
        return content

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Parse a completion of DSPy's configured model."""
        fields: dict[str, Any] = self.form_for(dspy.settings.lm).parse(signature, completion)
        return fields

    async def _ask(
        self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any, *, wait: bool
    ) -> Any:
        abilities, settings, repeated = abilities_of(lm), dict(lm_kwargs), False
        while True:
            form = self.form_for(lm)
            try:
                fields = await self._request(
                    form, lm, abilities.fit(lm, settings), signature, demos, inputs, wait=wait
                )
            except UnusableReply:
                if repeated or not _asks_again(signature):
                    raise
                repeated = True
                # The same request would get the same reply from a cache or a deterministic model.
                settings = {**settings, "rollout_id": 1, "temperature": 0.7}
            except dspy.LMError as error:
                used = self.inner is None and not _is_text(signature) and _chosen.get() is None
                if not abilities.learn(error, form_used=used):
                    raise
            else:
                abilities.confirmed = True
                return fields
            reserve_call()

    async def _request(
        self, form: Any, lm: Any, settings: Any, signature: Any, demos: Any, inputs: Any, *, wait: bool
    ) -> Any:
        """Make one request, with retries, and return its usable fields."""
        retries = getattr(lm, "retries", 0)
        with observe_exchange() as exchange:
            try:
                if wait:
                    outputs = await acall_with_patience(
                        lambda: form.acall(lm, dict(settings), signature, demos, inputs), retries
                    )
                else:
                    outputs = call_with_patience(
                        lambda: form(lm, dict(settings), signature, demos, inputs), retries
                    )
            except AdapterParseError as error:
                reply = error.lm_response if isinstance(error.lm_response, str) else ""
                raise _explain_unusable(signature, exchange, reply) or error from error
            except RecursionError as error:
                raise UnusableReply(signature, "the reply is nested too deeply") from error
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                # A reply without choices, or with other types than the protocol's, ends there in DSPy.
                if exchange.entries or not _from_dspy(error):
                    raise
                raise UnusableReply(signature, "the reply has no message") from error
            if not outputs:
                raise UnusableReply(signature, "the reply has no message")
            if unusable := _unusable_finish(exchange):
                raise UnusableReply(signature, unusable)
            fields = [_usable_fields(signature, output) for output in outputs]
            for store in exchange.to_cache:
                store()
            return fields

    def form_for(self, lm: Any) -> Any:
        """Return the adapter that formats and parses the requests to ``lm``."""
        if self.inner is not None:
            return self.inner
        if getattr(lm, "supports_prefill", False):
            return _PREFILL
        return _FORMS[_chosen.get() or abilities_of(lm).form]


def _asks_again(signature: Any) -> bool:
    """Whether an unusable reply is asked for once more: a text, or the final answer; not a step."""
    return len(signature.output_fields) == 1


def _explain_unusable(signature: Any, exchange: Exchange, reply: str) -> UnusableReply | None:
    """Return why a reply that could not be parsed is not an answer at all; ``None`` if it is one."""
    if unusable := _unusable_finish(exchange):
        return UnusableReply(signature, unusable)
    # A model outside a tracker reports nothing; then the reply alone decides.
    if exchange.entries and _text_of(exchange.entries[-1]) is None:
        return UnusableReply(signature, "the reply has no text")
    try:
        usable_text(reply, field=_output(signature), prose=_is_text(signature))
    except UnusableTextError as error:
        # Where JSON was asked for, other JSON is the model's own mistake: an invalid answer.
        if _is_text(signature) or "JSON" not in str(error):
            return UnusableReply(signature, str(error), reply)
    return None


def _unusable_finish(exchange: Exchange) -> str:
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


def _usable_fields(signature: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with usable texts.

    Raises:
        UnusableReply: A text is not one.
    """
    single = _is_text(signature)
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


def _from_dspy(error: BaseException) -> bool:
    """Whether an error was raised inside DSPy, not in our code or a user's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return name.startswith(("dspy.", "litellm", "lm15"))


_ASK_IN_BEST_FORM = ProgramAdapter()


def adapter_for(lm: Any) -> Any:
    """Return the adapter for ``lm``. One that is configured in DSPy is used for every request."""
    configured = dspy.settings.adapter
    if configured is None:
        return _ASK_IN_BEST_FORM
    return configured if isinstance(configured, ProgramAdapter) else ProgramAdapter(configured)


@contextmanager
def use_adapter(form: str | None) -> Iterator[None]:
    """Ask in one form inside the block, whatever the model takes; ``None`` changes nothing.

    Args:
        form: ``schema``, ``json`` or ``text``.

    Raises:
        ConfigError: There is no such form.
    """
    if form is not None and form not in FORMS:
        raise ConfigError(f"`adapter` must be one of {', '.join(FORMS)}, got {form!r}")
    token = _chosen.set(form)
    try:
        yield
    finally:
        _chosen.reset(token)


@contextmanager
def program_adapter() -> Iterator[None]:
    """Let predictors inside the block ask through `ProgramAdapter`, outside DSPy's history."""
    with track_if_untracked(), dspy.context(adapter=adapter_for(dspy.settings.lm)):
        yield
