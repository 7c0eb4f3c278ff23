"""The embedded language model for DSPy: an engine in the process, and an `LM` around it."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import dspy
from dspy import lm15
from dspy.clients.base_lm import LM_CLASS_STATE_KEY
from dspy.clients.errors import error_boundary
from dspy.clients.lm15_boundary import request_kwargs
from dspy.utils.callback import with_callbacks

from program.calls import make_call
from program.models.decisions import DecisionLM
from program.models.llama_server import ModelFile, Server, get_server
from program.models.score_calls import report_scores
from program.models.seeds import next_seed
from program.models.text_likelihood import TextScore, check_text, text_likelihood
from program.models.weights import find_model
from program.usage import Prices

_NEVER = "\x01"
_SENTENCE = 80
"""Longest string, in characters, if an answer has several."""
_BOUNDS = ("enum", "const", "maxLength", "format", "pattern")


@dataclass(frozen=True, kw_only=True)
class EmbeddedEngine:
    """DSPy's engine contract (`dspy.clients.engines.base`) for a model in the process."""

    file: ModelFile

    supports_response_schema: ClassVar[bool] = True
    supported_params: ClassVar[frozenset[str]] = frozenset(
        {"temperature", "max_tokens", "top_p", "stop", "seed", "frequency_penalty", "presence_penalty"}
        | {"response_format"}
    )

    @property
    def server(self) -> Server:
        """The loaded model; the first use in the process loads it."""
        return get_server(self.file)

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Answer one request; a JSON schema in it is enforced token by token.

        Raises:
            lm15.LM15Error: See `program.models.llama_server.Server`.
        """
        body = _body(request)
        if "response_format" in body:
            # JSON in one line: a third of the tokens of a step were line breaks and indents.
            body["logit_bias"] = [[token, False] for token in self.server.line_breaks]
        reply = self.server.chat(body)
        # llama.cpp names the model by its path, which must not leave the machine.
        reply["model"] = request.model
        return lm15.response_from_openai_chat(reply, model=request.model)


@dataclass(frozen=True, kw_only=True)
class AsyncEmbeddedEngine:
    """The asyncio side of an `EmbeddedEngine`: calls run in a thread; llama.cpp releases the GIL."""

    engine: EmbeddedEngine

    supports_response_schema: ClassVar[bool] = True
    supported_params: ClassVar[frozenset[str]] = EmbeddedEngine.supported_params

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Answer one request without blocking the event loop."""
        return await asyncio.to_thread(self.engine.complete, request)


def _body(request: lm15.Request) -> dict[str, Any]:
    body = request_kwargs(request, "chat")
    body["max_tokens"] = body.pop("max_completion_tokens", None) or body.get("max_tokens") or 300
    body["cache_prompt"] = True
    if body.get("temperature") != 0:
        # A fixed seed would make repeated samples of one prompt identical.
        body.setdefault("seed", next_seed())
    format_ = body.get("response_format")
    if format_ and format_.get("type") == "json_schema":
        body["response_format"] = _bounded(format_, body["max_tokens"])
    else:
        # Without these a small model repeats itself until its tokens run out. DRY penalizes repeated
        # phrases, across any punctuation; the penalty on single tokens is small, because numbers and
        # names must be copied.
        body |= {"dry_multiplier": 0.8, "dry_sequence_breakers": [_NEVER]}
        body.setdefault("frequency_penalty", 0.15)
    return dict(body)


def _bounded(format_: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    """Return the response format with a maximum length for each unbounded string.

    A small model that loops then still closes its JSON before its tokens run out. The limit is two
    characters a token, half the average of English.
    """
    bounded = copy.deepcopy(dict(format_))
    strings = [part for part in _parts(bounded) if _is_unbounded_string(part)]
    limit = 2 * max_tokens
    if len(strings) > 1:
        # Several strings, as in a step of an agent, are thoughts or searches: one sentence each.
        limit = min(_SENTENCE, limit // len(strings))
    for part in strings:
        part["maxLength"] = max(16, limit)
    return bounded


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _parts(child)


def _is_unbounded_string(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "string" and part.keys().isdisjoint(_BOUNDS)


class EmbeddedLM(dspy.LM):  # type: ignore[misc]
    """A `dspy.LM` that runs in the process and costs nothing.

    Its JSON schema constrains every structured answer: use it with `dspy.JSONAdapter`. At temperature
    0 the same prompt gives the same answer, independent of other and concurrent calls.

    Attributes:
        source: ``embedded`` or ``gguf:PATH``.
        context: Longest prompt plus answer, in tokens.
        calibrate: Whether `decisions` divides by the labels' prior.
        supports_prefill: Whether it continues a reply whose beginning is given; llama.cpp does.
        uses_tools: Whether its tool calls are worth their time. Those of a model of this size mostly
            repeat the query, so an agent that searches first with the query itself answers at once.
        summarises: Whether its prose about a user is worth keeping. The packaged model invents
            facts, so profiles hold only the counted facts unless a caller requests prose.
    """

    supports_prefill: ClassVar[bool] = True
    uses_tools: ClassVar[bool] = False

    prices: Prices = Prices(usd_in=0.0, usd_out=0.0)

    def __init__(
        self,
        source: str = "embedded",
        *,
        context: int = 8192,
        calibrate: bool = False,
        temperature: float = 0.0,
        max_tokens: int = 300,
        callbacks: list[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check the model's file; the first call loads the model.

        Args:
            source: ``embedded`` for the packaged model, ``gguf:PATH`` for any file.
            context: Longest prompt plus answer, in tokens.
            calibrate: Whether to divide label probabilities by their prior; helps without
                examples in the prompt, hurts with them.
            temperature: 0 for the most likely answer.
            max_tokens: Longest answer, in tokens.
            callbacks: DSPy callbacks of this object.
            **kwargs: More request defaults, such as ``frequency_penalty``.

        Raises:
            ModelSetupError: The file is missing or wrong.
        """
        model = find_model(source)
        engine = EmbeddedEngine(file=ModelFile(path=model.path, context=context))
        super().__init__(
            model.name,
            engine=engine,
            async_engine=AsyncEmbeddedEngine(engine=engine),
            temperature=temperature,
            max_tokens=max_tokens,
            callbacks=callbacks,
            # DSPy's cache key does not include `context`; `program.models.cache` serves repeats.
            cache=False,
            num_retries=0,
            **kwargs,
        )
        self.source, self.context, self.calibrate = model.source, context, calibrate
        self.summarises = model.source != "embedded"
        self._receive: Callable[[Mapping[str, Any]], None] | None = None

    @property
    def decisions(self) -> DecisionLM:
        """The same model for decision requests; its calls appear in this object's history."""
        client = DecisionLM(self.source, context=self.context, calibrate=self.calibrate)
        client.callbacks = self.callbacks
        client.update_history = self.update_history
        return client

    @with_callbacks  # type: ignore[untyped-decorator]
    def text_likelihood(self, messages: Sequence[Mapping[str, Any]], text: str) -> TextScore:
        """Score ``text`` as the reply to ``messages``.

        Args:
            messages: OpenAI messages, as DSPy's adapters make them. If the last one is the
                assistant's, the text continues it.
            text: The reply, exactly as the model would write it.

        Raises:
            ValueError: The text is empty or not valid Unicode.
            dspy.LMError: The prompt does not fit, or the model failed.
        """
        return self._score_text(messages, text)

    @with_callbacks  # type: ignore[untyped-decorator]
    async def atext_likelihood(self, messages: Sequence[Mapping[str, Any]], text: str) -> TextScore:
        """Score like `text_likelihood`, without blocking the event loop."""

        def score() -> dict[str, Any]:
            return asdict(self._score_text(messages, text))

        found: dict[str, Any] = await make_call(lambda: asyncio.to_thread(score), self.model, messages, text)
        return TextScore(**found)

    def _score_text(self, messages: Sequence[Mapping[str, Any]], text: str) -> TextScore:
        check_text(text)
        with error_boundary(self.model, unexpected=True):
            # The same conversion as that of a call, so that the model reads the same.
            chat = lm15.request_from_openai_chat({"model": self.model, "messages": list(messages)})
            server = self.engine.server
            prompt = server.render(request_kwargs(chat, "chat")["messages"])
            score = text_likelihood(server, prompt, text)
        found = {"text": text, "log_probability": score.log_probability, "tokens": score.tokens}
        output = json.dumps(found, ensure_ascii=False)
        report_scores(self, [score], kind="likelihood", output=output, messages=messages)
        return score

    @property
    def update_history(self) -> Callable[[Mapping[str, Any]], None]:
        """The function that receives each finished call from DSPy; assign another to redirect them."""
        # DSPy leaves the cost of custom engines unknown; a model in the process is free.
        receive = self._receive or super().update_history
        return lambda entry: receive({**entry, "cost": 0.0})

    @update_history.setter
    def update_history(self, receive: Callable[[Mapping[str, Any]], None]) -> None:
        self._receive = receive

    def dump_state(self) -> dict[str, Any]:
        """Return the settings for `load_state`; the weights are named, not copied."""
        return {
            LM_CLASS_STATE_KEY: f"{__name__}.{type(self).__qualname__}",
            "source": self.source,
            "context": self.context,
            "calibrate": self.calibrate,
            **self.kwargs,
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> EmbeddedLM:
        """Restore the model from `dump_state`.

        Raises:
            ModelSetupError: The file is missing or wrong on this machine.
        """
        return cls(**{key: value for key, value in state.items() if key != LM_CLASS_STATE_KEY})
