"""Likelihood of a given text as the continuation of a prompt, over the whole vocabulary.

llama.cpp has no probabilities of prompt tokens. But it gives the full-vocabulary probability of the
token that it samples, from before sampling: a bias forces each token of the text in turn, one
forward pass each. A grammar that forces the text in one request is no faster (both take 10 ms a
token) and fails where a character has several tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from program.models.llama_server import Server

_LIFT = 100.0
"""A bias that lifts a token above all tokens without it."""
_LEAD = 50.0
"""How far the reference is lifted above a withheld token, so that it is the one that is sampled."""
_REFERENCE = "."
"""A text of one token, a whole character, in any vocabulary."""
_LOWEST = -103.0
"""The smallest log probability: llama.cpp's are 32-bit floats, and smaller ones are 0."""


@dataclass(frozen=True)
class TextScore:
    """The probability of a text, and the cost of computing it.

    Attributes:
        log_probability: Natural logarithm of the probability that the model continues the prompt
            with the text. Whether the reply ends there does not count, so the score of a text is the
            sum over its parts, and a prefilled reply is scored like any other.
        tokens: Length of the text.
        prompt_tokens: Length of the prompt.
        cached_tokens: Prompt tokens that were in the prefix cache.
        forward_passes: Model calls.

    Example:
        >>> TextScore(-24.0, tokens=12, prompt_tokens=90, cached_tokens=80, forward_passes=12).mean
        -2.0
    """

    log_probability: float
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    forward_passes: int

    @property
    def mean(self) -> float:
        """Log probability per token, in nats: comparable between texts of different lengths."""
        return self.log_probability / self.tokens


def text_likelihood(server: Server, prompt: str, text: str) -> TextScore:
    """Score ``text`` as a continuation of ``prompt``, token by token.

    The text is scored exactly as it is, white space included, and special tokens in it are plain
    characters. Its tokens are those of the text alone, as in a reply, which starts anew after the prompt.

    Args:
        server: The loaded model.
        prompt: What the model has read, with its special tokens.
        text: Has at least one character.

    Raises:
        ValueError: The text is empty or not valid Unicode.
        lm15.LM15Error: See `program.models.llama_server.Server`.
    """
    check_text(text)
    tokens = server.tokenize(text)
    total = 0.0
    usages: list[Mapping[str, Any]] = []
    with server.lock:
        for place, token in enumerate(tokens):
            total += max(_LOWEST, _log_probability(server, [prompt, *tokens[:place]], token, usages))
    first = usages[0]
    return TextScore(
        total,
        len(tokens),
        int(first["prompt_tokens"]),
        int((first.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        len(usages),
    )


def check_text(text: str) -> None:
    """Raise `ValueError` if ``text`` cannot be scored: it is empty or not valid Unicode.

    Example:
        >>> check_text("")
        Traceback (most recent call last):
        ValueError: cannot score an empty text: it has no tokens; give the reply to score
    """
    if not text:
        raise ValueError("cannot score an empty text: it has no tokens; give the reply to score")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"cannot score the text: {text[error.start]!a} at character {error.start} is half of a "
            "character; remove it"
        ) from error


def _log_probability(
    server: Server, prompt: Sequence[str | int], token: int, usages: list[Mapping[str, Any]]
) -> float:
    """Return the log probability of ``token`` after ``prompt``; adds the usage of each call."""
    sampled = _sample(server, prompt, {token: _LIFT}, usages)
    if sampled is not None:
        return float(sampled["logprob"])
    # llama.cpp withholds the probabilities of a token that starts a character without ending it. It
    # is compared with a token that it does show.
    (reference,) = server.tokenize(_REFERENCE)[-1:]
    known = _sample(server, prompt, {reference: _LIFT}, usages)
    both = _sample(server, prompt, {token: _LIFT, reference: _LIFT + _LEAD}, usages)
    if known is None or both is None:
        raise RuntimeError(f"llama.cpp gives no probability of token {token}")
    shares = {int(entry["id"]): float(entry["prob"]) for entry in both["top_probs"]}
    share = shares.get(token, 0.0) / shares[reference]
    return float(known["logprob"]) + _LEAD + math.log(share) if share else _LOWEST


def _sample(
    server: Server, prompt: Sequence[str | int], bias: Mapping[int, float], usages: list[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Sample one of the tokens in ``bias``, and return its probabilities; ``None`` if they are withheld.

    Of one token: in the whole vocabulary, before the bias. Of several: their shares after the bias.
    """
    reply = server.probabilities(
        {
            "prompt": list(prompt),
            "max_tokens": 1,
            "temperature": 1.0,
            "samplers": ["top_k", "temperature"],
            "top_k": len(bias),
            "logprobs": len(bias),
            "post_sampling_probs": len(bias) > 1,
            "logit_bias": [[token, lift] for token, lift in bias.items()],
            "cache_prompt": True,
        }
    )
    usages.append(reply["usage"])
    probabilities = reply["choices"][0]["logprobs"]
    entry: Mapping[str, Any] | None = probabilities["content"][0] if probabilities else None
    return entry
