"""Label likelihood over a fake server with one token for each character and hand-written probabilities."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.answers import Labels, Rating, Text
from program.models.label_probabilities import decision_client, record_probabilities
from program.models.likelihood import LabelScores, label_likelihood
from program.models.llama_server import Server


class FakeServer:
    """Tokens are code points. ``next_tokens`` maps the text so far to the weights of next characters."""

    def __init__(self, next_tokens: Mapping[str, Mapping[str, float]]) -> None:
        self.lock = threading.RLock()
        self.next_tokens = next_tokens
        self.bodies: list[Mapping[str, Any]] = []

    def tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def probabilities(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        prompt, *path = body["prompt"]
        weights = self.next_tokens["".join(map(chr, path))]
        allowed = {chr(token): weights.get(chr(token), 0.0) for token, _ in body["logit_bias"]}
        total = sum(allowed.values())
        top = [{"id": ord(char), "prob": weight / total} for char, weight in allowed.items() if weight]
        details = {"cached_tokens": len(self.bodies) - 1}
        return {
            "choices": [{"logprobs": {"content": [{"top_probs": top}]}}],
            "usage": {"prompt_tokens": len(prompt), "prompt_tokens_details": details},
        }


def scores(next_tokens: Mapping[str, Mapping[str, float]], *labels: str) -> tuple[LabelScores, FakeServer]:
    server = FakeServer(next_tokens)
    return label_likelihood(cast(Server, server), "tag:", labels), server


def test_two_labels_take_one_call_and_share_the_probability() -> None:
    result, server = scores({" ": {"a": 0.2, "b": 0.6, "z": 0.2}}, "ab", "ba")
    assert result.probabilities == pytest.approx({"ab": 0.25, "ba": 0.75})
    assert result.forward_passes == len(server.bodies) == 1


def test_probability_of_a_label_is_the_product_along_its_path() -> None:
    next_tokens = {" ": {"a": 0.8, "b": 0.2}, " a": {"a": 0.25, "b": 0.75}}
    result, server = scores(next_tokens, "aa", "ab", "b")
    # 0.8 * 0.25, 0.8 * 0.75, 0.2
    assert result.probabilities == pytest.approx({"aa": 0.2, "ab": 0.6, "b": 0.2})
    assert result.forward_passes == len(server.bodies) == 2


def test_prefix_label_ends_at_the_line_break() -> None:
    result, _ = scores({" a": {"\n": 0.3, "b": 0.1}}, "a", "ab")
    assert result.probabilities == pytest.approx({"a": 0.75, "ab": 0.25})


def test_token_that_the_server_omits_has_probability_zero() -> None:
    result, _ = scores({" ": {"a": 1.0}}, "a", "b")
    assert result.probabilities == {"a": 1.0, "b": 0.0}


def test_token_counts_are_those_of_the_first_call() -> None:
    result, server = scores({" ": {"a": 0.5, "b": 0.5}, " a": {"a": 0.5, "b": 0.5}}, "aa", "ab", "b")
    assert (result.prompt_tokens, result.cached_tokens) == (len("tag:"), 0)
    assert all(body["max_tokens"] == 1 and body["cache_prompt"] for body in server.bodies)


def test_calls_bias_only_the_tokens_that_lead_to_a_label() -> None:
    _, server = scores({" ": {"a": 0.5, "b": 0.5}}, "a", "b")
    (body,) = server.bodies
    assert sorted(body["logit_bias"]) == [[ord("a"), 100.0], [ord("b"), 100.0]]
    assert body["top_k"] == body["logprobs"] == 2


@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3), order=st.permutations(["aa", "ab", "b"])
)
def test_probabilities_sum_to_one_in_the_order_of_the_labels(weights: list[float], order: list[str]) -> None:
    first, second, third = weights
    next_tokens = {" ": {"a": first, "b": second}, " a": {"a": third, "b": first}}
    result, _ = scores(next_tokens, *order)
    assert list(result.probabilities) == order
    assert sum(result.probabilities.values()) == pytest.approx(1.0)


def test_division_by_a_prior_equals_values_computed_by_hand() -> None:
    answer = LabelScores({"a": 0.5, "b": 0.5}, 10, 4, 1)
    prior = LabelScores({"a": 0.8, "b": 0.2}, 5, 1, 2)
    # 0.625 and 2.5, so 1 : 4
    assert answer.divided_by(prior) == LabelScores(
        {"a": pytest.approx(0.2), "b": pytest.approx(0.8)}, 15, 5, 3
    )


def test_division_by_a_uniform_prior_changes_nothing() -> None:
    answer = LabelScores({"a": 0.1, "b": 0.9}, 1, 0, 1)
    uniform = LabelScores({"a": 0.5, "b": 0.5}, 1, 0, 1)
    assert answer.divided_by(uniform).probabilities == pytest.approx(answer.probabilities)


def test_division_survives_a_prior_of_zero() -> None:
    divided = LabelScores({"a": 0.5, "b": 0.5}, 1, 0, 1).divided_by(
        LabelScores({"a": 0.0, "b": 1.0}, 1, 0, 1)
    )
    assert sum(divided.probabilities.values()) == pytest.approx(1.0)
    assert divided.probabilities["a"] > 0.999


class Client:
    decisions = "the client"


@pytest.mark.parametrize("answer_type", [Labels(("a", "b")), Rating(1, 5)])
def test_decision_client_is_the_attribute_of_the_model(answer_type: Labels | Rating) -> None:
    assert decision_client(Client(), answer_type) == "the client"
    assert decision_client(object(), answer_type) is None


def test_free_text_has_no_decision_client() -> None:
    assert decision_client(Client(), Text()) is None


def test_recorded_probabilities_are_none_without_a_decision() -> None:
    with record_probabilities() as read:
        assert read() is None
    assert read() is None
