"""Likelihood of a given text: over a fake server with one token a character, and with the packaged model."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from collections.abc import Mapping
from typing import Any, cast

import dspy
import pytest
from dspy import lm15
from dspy.utils.callback import BaseCallback
from hypothesis import given
from hypothesis import strategies as st

from program import scripted_lm
from program.models.decisions import DecisionLM
from program.models.embedded import EmbeddedLM
from program.models.label_probabilities import text_scorer
from program.models.llama_server import ModelFile, Server, get_server
from program.models.text_likelihood import TextScore, text_likelihood
from program.models.weights import find_model
from program.usage import UsageTracker, stage, track_lm, track_usage

HEADLINE = "Firefighters Battle Massive Blaze in Downtown"
MESSAGES = [
    {"role": "system", "content": "You write headlines."},
    {"role": "user", "content": "Article: a fire in a warehouse hurt two people. Write its headline."},
]
STORY = "A fox met a traveller at the edge of the wood. "


class FakeServer:
    """Tokens are code points; each has the same probability everywhere. Withholds those in ``withheld``."""

    def __init__(self, probabilities: Mapping[str, float], withheld: str = "") -> None:
        self.lock = threading.RLock()
        self.known, self.withheld = probabilities, withheld
        self.bodies: list[Mapping[str, Any]] = []

    def tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def probabilities(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        prompt, *path = body["prompt"]
        usage = {
            "prompt_tokens": len(prompt) + len(path),
            "prompt_tokens_details": {"cached_tokens": len(path)},
        }
        weights = {token: self.known[chr(token)] * math.exp(bias) for token, bias in body["logit_bias"]}
        sampled = max(weights, key=weights.__getitem__)
        if chr(sampled) in self.withheld:
            return {"choices": [{"logprobs": None}], "usage": usage}
        entry: dict[str, Any] = {"id": sampled, "logprob": math.log(self.known[chr(sampled)] or 1e-300)}
        if body["post_sampling_probs"]:
            total = sum(weights.values())
            entry["top_probs"] = [{"id": token, "prob": weight / total} for token, weight in weights.items()]
        return {"choices": [{"logprobs": {"content": [entry]}}], "usage": usage}


def score(text: str, probabilities: Mapping[str, float], withheld: str = "") -> tuple[TextScore, FakeServer]:
    server = FakeServer(probabilities, withheld)
    return text_likelihood(cast(Server, server), "reply:", text), server


def test_log_probability_is_the_sum_over_the_tokens() -> None:
    result, server = score("aba", {"a": 0.5, "b": 0.125})
    assert result.log_probability == pytest.approx(math.log(0.5 * 0.125 * 0.5))
    assert result.mean == pytest.approx(math.log(0.5 * 0.125 * 0.5) / 3)
    assert [body["prompt"] for body in server.bodies] == [["reply:"], ["reply:", 97], ["reply:", 97, 98]]


def test_cost_is_one_forward_pass_a_token_and_the_prompt_of_the_first() -> None:
    result, server = score("abab", {"a": 0.5, "b": 0.125})
    assert (result.tokens, result.forward_passes, len(server.bodies)) == (4, 4, 4)
    assert (result.prompt_tokens, result.cached_tokens) == (len("reply:"), 0)
    assert all(body["max_tokens"] == 1 and body["cache_prompt"] for body in server.bodies)


@given(share=st.floats(1e-9, 0.99), reference=st.floats(1e-9, 0.99))
def test_withheld_token_is_scored_by_its_ratio_to_a_shown_one(share: float, reference: float) -> None:
    result, server = score("x", {"x": share, ".": reference}, withheld="x")
    assert result.log_probability == pytest.approx(math.log(share), rel=1e-6)
    assert result.forward_passes == len(server.bodies) == 3


def test_token_of_probability_zero_gets_the_lowest_log_probability() -> None:
    assert score("z", {"z": 0.0})[0].log_probability == -103.0
    assert score("z", {"z": 0.0, ".": 0.5}, withheld="z")[0].log_probability == -103.0


@pytest.mark.parametrize(("text", "reason"), [("", "empty"), ("a\ud800", "half of a character")])
def test_text_that_cannot_be_scored_is_refused_before_any_call(text: str, reason: str) -> None:
    server = FakeServer({})
    with pytest.raises(ValueError, match=reason):
        text_likelihood(cast(Server, server), "reply:", text)
    assert not server.bodies
    with pytest.raises(ValueError, match=reason):
        EmbeddedLM().text_likelihood(MESSAGES, text)


@pytest.fixture(scope="module")
def lm() -> EmbeddedLM:
    return EmbeddedLM(max_tokens=24)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server without its answer cache, so that every request is computed."""
    server = get_server(ModelFile(path=find_model("embedded").path))
    monkeypatch.setattr(server, "_cached_ask", server._ask)
    return server


def vocabulary(server: Server, prompt: list[str | int]) -> dict[int, float]:
    """Return the log probability of every token, with a whole character as the sampled token."""
    (shown,) = server.tokenize(".")
    body = {"prompt": prompt, "max_tokens": 1, "n_probs": 49152, "logit_bias": [[shown, 100.0]]}
    (entry,) = server.probabilities(body)["choices"][0]["logprobs"]["content"]
    return {top["id"]: top["logprob"] for top in entry["top_logprobs"]}


def test_one_token_has_its_probability_in_the_whole_vocabulary(server: Server) -> None:
    prompt = server.render(MESSAGES)
    distribution = vocabulary(server, [prompt])
    assert sum(map(math.exp, distribution.values())) == pytest.approx(1.0, rel=1e-3)
    for text in ("Fire", "The", " the", "\n"):
        (token,) = server.tokenize(text)
        result = text_likelihood(server, prompt, text)
        assert math.exp(result.log_probability) == pytest.approx(math.exp(distribution[token]), rel=1e-3)
        assert result.forward_passes == 1


def test_character_of_several_tokens_has_their_probability_in_the_whole_vocabulary(server: Server) -> None:
    prompt, tokens = server.render(MESSAGES), server.tokenize("京")
    assert len(tokens) > 1
    expected = sum(vocabulary(server, [prompt, *tokens[:place]])[token] for place, token in enumerate(tokens))
    result = text_likelihood(server, prompt, "京")
    assert math.exp(result.log_probability) == pytest.approx(math.exp(expected), rel=1e-3)
    assert result.forward_passes > result.tokens == len(tokens)


def test_score_of_a_text_is_the_sum_of_its_parts(server: Server) -> None:
    prompt, first, second = server.render(MESSAGES), HEADLINE[:19], HEADLINE[19:]
    assert server.tokenize(HEADLINE) == server.tokenize(first) + server.tokenize(second)
    parts = text_likelihood(server, prompt, first), text_likelihood(server, prompt + first, second)
    whole = text_likelihood(server, prompt, HEADLINE)
    assert whole.log_probability == pytest.approx(sum(part.log_probability for part in parts), abs=1e-3)
    assert whole.tokens == sum(part.tokens for part in parts)


def test_score_equals_the_probabilities_of_the_same_reply_in_a_chat(server: Server, lm: EmbeddedLM) -> None:
    for prefill in ([], [{"role": "assistant", "content": "Headline:\n"}]):
        messages = [*MESSAGES, *prefill]
        body = {"messages": messages, "max_tokens": 8, "temperature": 0, "logprobs": True, "top_logprobs": 1}
        reply = server.chat(body)
        content = reply["choices"][0]["logprobs"]["content"]
        text = "".join(entry["token"] for entry in content)
        result = lm.text_likelihood(messages, text)
        assert result.prompt_tokens == reply["usage"]["prompt_tokens"]
        assert result.tokens == len(content)
        expected = sum(entry["logprob"] for entry in content)
        assert result.log_probability == pytest.approx(expected, abs=1e-3)


def test_greedy_reply_is_more_likely_than_its_words_in_another_order(lm: EmbeddedLM) -> None:
    request = lm15.request_from_openai_chat(
        {"model": lm.model, "messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    )
    reply = str(lm(request).message.text)
    words = reply.split()
    assert len(words) > 4
    best = lm.text_likelihood(MESSAGES, reply).mean
    for seed in range(3):
        shuffled = random.Random(seed).sample(words, len(words))
        assert lm.text_likelihood(MESSAGES, " ".join(shuffled)).mean < best


def test_score_does_not_depend_on_earlier_prompts(server: Server, lm: EmbeddedLM) -> None:
    # Long enough to need several batches of prompt tokens.
    messages = [MESSAGES[0], {"role": "user", "content": STORY * 20}]
    first = lm.text_likelihood(messages, HEADLINE)
    repeated = lm.text_likelihood(messages, HEADLINE)
    lm.text_likelihood(MESSAGES, "Something else entirely, and longer than it was before.")
    lm.decisions({"instructions": STORY, "inputs": {}}, {"tag": {"type": "choice", "criteria": ["a", "b"]}})
    again = lm.text_likelihood(messages, HEADLINE)
    assert first.log_probability == repeated.log_probability == again.log_probability
    assert repeated.cached_tokens == repeated.prompt_tokens - 1


def test_repeated_score_is_answered_from_the_cache(lm: EmbeddedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lm.text_likelihood(MESSAGES, "A cached headline")
    server = get_server(ModelFile(path=find_model("embedded").path))
    monkeypatch.setattr(server, "_call", None)
    assert lm.text_likelihood(MESSAGES, "A cached headline") == first


def test_name_of_a_special_token_is_plain_text(lm: EmbeddedLM) -> None:
    assert lm.text_likelihood(MESSAGES, "Stop<|im_end|>").tokens > 3


def test_parts_of_a_message_are_read_as_its_text(lm: EmbeddedLM) -> None:
    parts = [
        {"role": message["role"], "content": [{"type": "text", "text": message["content"]}]}
        for message in MESSAGES
    ]
    assert lm.text_likelihood(parts, "Fire") == lm.text_likelihood(MESSAGES, "Fire")


async def test_async_score_is_the_same(lm: EmbeddedLM) -> None:
    scores = await asyncio.gather(*(lm.atext_likelihood(MESSAGES, HEADLINE) for _ in range(3)))
    assert {found.log_probability for found in scores} == {
        lm.text_likelihood(MESSAGES, HEADLINE).log_probability
    }


async def test_tracked_run_counts_scores_like_other_calls(lm: EmbeddedLM) -> None:
    with track_usage(UsageTracker(), lm) as tracker:
        scorer = text_scorer(dspy.settings.lm)
        assert scorer is not None
        with stage("score"):
            found = scorer.text_likelihood(MESSAGES, HEADLINE)
            await scorer.atext_likelihood(MESSAGES, HEADLINE)
    usage = tracker.by_stage()["score"]
    assert (usage.calls, usage.usd, usage.unpriced) == (2, 0.0, 0)
    assert usage.input_tokens == 2 * found.prompt_tokens
    assert usage.output_tokens == 2 * found.tokens


def test_history_shows_the_messages_and_the_score() -> None:
    lm = EmbeddedLM()
    with dspy.context(disable_history=False), dspy.track_usage() as used:
        found = lm.text_likelihood(MESSAGES, "Fire")
    (entry,) = lm.history
    assert entry["messages"] == MESSAGES
    assert entry["cost"] == 0.0
    assert '"text": "Fire"' in entry["outputs"][0]
    assert used.get_total_tokens()[lm.model]["prompt_tokens"] == found.prompt_tokens


async def test_callbacks_see_a_score_as_a_call_of_the_model() -> None:
    seen: list[Any] = []

    class Record(BaseCallback):  # type: ignore[misc]
        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            seen.append(inputs["messages"])

        def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
            seen.append(outputs)

    lm = EmbeddedLM(callbacks=[Record()])
    found = lm.text_likelihood(MESSAGES, "Fire")
    await lm.atext_likelihood(MESSAGES, "Fire")
    assert seen == [MESSAGES, found] * 2


def test_prompt_longer_than_the_context_raises_context_error(lm: EmbeddedLM) -> None:
    with pytest.raises(dspy.ContextWindowExceededError):
        lm.text_likelihood([{"role": "user", "content": "word " * 9000}], "Fire")


def test_only_models_that_score_texts_are_scorers(lm: EmbeddedLM) -> None:
    assert text_scorer(lm) is lm
    tracked = track_lm(track_lm(lm, UsageTracker()), UsageTracker())
    assert text_scorer(tracked) is tracked
    others = [scripted_lm(lambda system, user: "no"), dspy.LM("openai/gpt-4o"), DecisionLM(), None]
    assert [text_scorer(other) for other in others] == [None] * len(others)
