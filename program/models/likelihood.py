"""Likelihood of labels as continuations of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from program.models.llama_server import Server

_END = "\n"


@dataclass(frozen=True)
class LabelScores:
    """The probability of each label, and the cost of computing them.

    Attributes:
        probabilities: Label to probability, in the order of the request; they sum to 1.
        prompt_tokens: Length of the prompt.
        cached_tokens: Prompt tokens that were in the prefix cache.
        forward_passes: Branching points of the labels' token trie, one model call each.
    """

    probabilities: dict[str, float]
    prompt_tokens: int
    cached_tokens: int
    forward_passes: int

    def divided_by(self, prior: LabelScores) -> LabelScores:
        """Return the probabilities relative to those of ``prior``, rescaled to sum to 1; costs add up.

        Example:
            >>> scores = LabelScores({"yes": 0.6, "no": 0.4}, 10, 0, 1)
            >>> prior = LabelScores({"yes": 0.9, "no": 0.1}, 5, 0, 1)
            >>> scores.divided_by(prior).probabilities
            {'yes': 0.14285714285714285, 'no': 0.8571428571428571}
        """
        weights = {
            label: probability / max(prior.probabilities[label], 1e-9)
            for label, probability in self.probabilities.items()
        }
        total = sum(weights.values())
        return LabelScores(
            {label: weight / total for label, weight in weights.items()},
            self.prompt_tokens + prior.prompt_tokens,
            self.cached_tokens + prior.cached_tokens,
            self.forward_passes + prior.forward_passes,
        )


@dataclass
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    label: str | None = None


def label_likelihood(server: Server, prompt: str, labels: Sequence[str]) -> LabelScores:
    """Score ``labels`` along the trie of their tokens, as continuations of ``prompt`` after a blank.

    At each branching point the probability is renormalized over the tokens that lead to a label, so
    the result is the distribution of a decoder that can only write one of the labels.

    Args:
        server: The loaded model.
        prompt: Ends without white space.
        labels: Two or more, all different.

    Raises:
        lm15.LM15Error: See `program.models.llama_server.Server`.
    """
    probabilities = dict.fromkeys(labels, 0.0)
    usages: list[Mapping[str, Any]] = []
    with server.lock:
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
    return LabelScores(
        {label: value / total for label, value in probabilities.items()},
        int(first["prompt_tokens"]),
        int((first.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        len(usages),
    )


def _trie(server: Server, labels: Sequence[str]) -> _Node:
    root = _Node()
    for label in labels:
        node = root
        # The line end separates a label from a longer one that begins with it.
        for token in server.tokenize(f" {label}{_END}"):
            node = node.children.setdefault(token, _Node())
        node.label = label
    return root


def _shares(
    server: Server, prompt: str, path: Sequence[int], tokens: Sequence[int]
) -> tuple[dict[int, float], Mapping[str, Any]]:
    """Return the next-token probabilities of ``tokens``, renormalized over them, and the call's usage."""
    reply = server.probabilities(
        {
            "prompt": [prompt, *path],
            "max_tokens": 1,
            "temperature": 1.0,
            "samplers": ["top_k", "temperature"],
            "top_k": len(tokens),
            "logprobs": len(tokens),
            "post_sampling_probs": True,
            # An equal bias lifts them above all other tokens and keeps the model's ratios.
            "logit_bias": [[token, 100.0] for token in tokens],
            "cache_prompt": True,
        }
    )
    top = reply["choices"][0]["logprobs"]["content"][0]["top_probs"]
    probabilities = {int(entry["id"]): float(entry["prob"]) for entry in top}
    return {token: probabilities.get(token, 0.0) for token in tokens}, reply["usage"]
