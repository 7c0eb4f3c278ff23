"""Asking a model: in the best form that it takes, with patience, and for usable replies only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from program.errors import ConfigError
from program.models.abilities import FORMS, Form, abilities_of
from program.models.forms import JsonAdapter, MarkerAdapter, PrefillAdapter, SchemaAdapter, is_text
from program.models.patience import acall_with_patience, call_with_patience
from program.models.replies import (
    UnusableReply,
    asks_again,
    explain_unusable,
    is_from_dspy,
    unusable_finish,
    usable_fields,
)
from program.sync import run_now
from program.usage import configured_lm, observe_exchange, reserve_call, track_if_untracked

__all__ = ["ProgramAdapter", "UnusableReply", "adapter_for", "program_adapter", "use_adapter"]

_FORMS: dict[Form, Any] = {"schema": SchemaAdapter(), "json": JsonAdapter(), "text": MarkerAdapter()}
_PREFILL = PrefillAdapter()
_chosen: ContextVar[Form | None] = ContextVar("personaagent_form", default=None)


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
                if repeated or not asks_again(signature):
                    raise
                repeated = True
                # The same request would get the same reply from a cache or a deterministic model.
                settings = {**settings, "rollout_id": 1, "temperature": 0.7}
            except dspy.LMError as error:
                used = self.inner is None and not is_text(signature) and _chosen.get() is None
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
                raise explain_unusable(signature, exchange, reply) or error from error
            except RecursionError as error:
                raise UnusableReply(signature, "the reply is nested too deeply") from error
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                # A reply without choices, or with other types than the protocol's, ends there in DSPy.
                if exchange.entries or not is_from_dspy(error):
                    raise
                raise UnusableReply(signature, "the reply has no message") from error
            if not outputs:
                raise UnusableReply(signature, "the reply has no message")
            if unusable := unusable_finish(exchange):
                raise UnusableReply(signature, unusable)
            fields = [usable_fields(signature, output) for output in outputs]
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
    with track_if_untracked(), dspy.context(adapter=adapter_for(configured_lm())):
        yield
