"""How likely a model finds each of some labels as the continuation of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from program.models.llama_server import Server

_END = "\n"


@dataclass(frozen=True)
class Scored:
    """The probability of each label, summing to 1, and what it cost.

    Attributes:
        probabilities: In the order of the labels asked for.
        prompt_tokens: Length of the prompt.
        cached_tokens: How many of them were in the prefix cache.
        forward_passes: Branching points of the labels' token trie, one model call each.
    """

    probabilities: dict[str, float]
    prompt_tokens: int
    cached_tokens: int
    forward_passes: int


@dataclass
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    label: str | None = None


def label_likelihood(server: Server, prompt: str, labels: Sequence[str]) -> Scored:
    """Score ``labels`` along the trie of their tokens, as continuations of ``prompt`` after a blank.

    At each branching point the probability is shared out among the tokens that lead to a label,
    so the result is the distribution of a decoder that can only say one of the labels.

    Raises:
        lm15.LM15Error: See `program.models.llama_server.Server`.
    """
    probabilities = dict.fromkeys(labels, 0.0)
    usages: list[Mapping[str, Any]] = []
    with server.turn:
        pending: list[tuple[_Node, list[int], float]] = [(_trie(server, labels), [], 1.0)]
        while pending:
            node, path, mass = pending.pop()
            if node.label is not None:
                probabilities[node.label] = mass
            shares = dict.fromkeys(node.children, 1.0)
            if len(shares) > 1:
                shares, usage = _shares(server, prompt, path, list(node.children))
                usages.append(usage)
            for token, child in node.children.items():
                pending.append((child, [*path, token], mass * shares[token]))
    total = sum(probabilities.values())
    first = usages[0]
    return Scored(
        {label: value / total for label, value in probabilities.items()},
        int(first["prompt_tokens"]),
        int((first.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        len(usages),
    )


def _trie(server: Server, labels: Sequence[str]) -> _Node:
    root = _Node()
    for label in labels:
        node = root
        # The line end tells a label from a longer one that begins with it.
        for token in server.tokenize(f" {label}{_END}"):
            node = node.children.setdefault(token, _Node())
        node.label = label
    return root


def _shares(
    server: Server, prompt: str, path: Sequence[int], tokens: Sequence[int]
) -> tuple[dict[int, float], Mapping[str, Any]]:
    """Return the next-token probabilities of ``tokens``, shared out among them."""
    reply = server.probabilities(
        {
            "prompt": [prompt, *path],
            "max_tokens": 1,
            "temperature": 1.0,
            "samplers": ["top_k", "temperature"],
            "top_k": len(tokens),
            "logprobs": len(tokens),
            "post_sampling_probs": True,
            # The same amount for each, far above all others: their ratios stay the model's own.
            "logit_bias": [[token, 100.0] for token in tokens],
            "cache_prompt": True,
        }
    )
    top = reply["choices"][0]["logprobs"]["content"][0]["top_probs"]
    found = {int(entry["id"]): float(entry["prob"]) for entry in top}
    return {token: found.get(token, 0.0) for token in tokens}, reply["usage"]
