"""Label likelihood with the packaged model."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Literal

import dspy
import pytest
from dspy.adapters.decision import record_evidence

from program.models.decisions import DecisionLM, render
from program.models.likelihood import label_likelihood
from program.models.llama_server import ModelFile, Server, get_server
from program.models.weights import find_model

TAGS = ["comedy", "dark comedy", "romance", "romance and war", "sci-fi"]
EXAMPLES = "movie: Aliens attack.\ntag: sci-fi\n\nmovie: A wedding by the sea.\ntag: romance\n\n"
PARIS = f"{EXAMPLES}movie: Two strangers fall in love in Paris.\ntag:"
MARS = f"{EXAMPLES}movie: A spaceship of robots lands on Mars.\ntag:"


class Tag(dspy.Signature):  # type: ignore[misc]
    """You tag movies."""

    movie: str = dspy.InputField(desc="a movie")
    tag: Literal["comedy", "romance", "sci-fi"] = dspy.OutputField(desc="its tag")


class Judge(dspy.Signature):  # type: ignore[misc]
    """You judge statements."""

    statement: str = dspy.InputField(desc="a statement")
    true: bool = dspy.OutputField(desc="whether it is true")
    stars: Literal[1, 2, 3, 4, 5] = dspy.OutputField(desc="how good it is")


@pytest.fixture(scope="module")
def client() -> DecisionLM:
    return DecisionLM()


@pytest.fixture(scope="module")
def server() -> Server:
    return get_server(ModelFile(path=find_model("embedded").path))


def test_probabilities_sum_to_one_and_follow_the_text(server: Server) -> None:
    paris, mars = (label_likelihood(server, prompt, TAGS).probabilities for prompt in (PARIS, MARS))
    assert list(paris) == TAGS
    assert sum(paris.values()) == pytest.approx(1.0)
    assert paris["romance"] > mars["romance"]
    assert mars["sci-fi"] > paris["sci-fi"]


def test_label_that_is_a_prefix_of_another_gets_its_own_probability(server: Server) -> None:
    scores = label_likelihood(
        server, "country: Love and bombs in 1944.\ntag:", ["romance", "romance and war"]
    )
    assert all(0.0 < share < 1.0 for share in scores.probabilities.values())
    assert scores.forward_passes == 1


def test_probabilities_equal_the_renormalized_vocabulary_distribution(server: Server) -> None:
    words = [" comedy", " romance"]
    tokens = [server.tokenize(word) for word in words]
    assert [len(token) for token in tokens] == [1, 1]
    reply = server.probabilities({"prompt": PARIS, "max_tokens": 1, "temperature": 1.0, "n_probs": 49152})
    top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    logprob = {entry["id"]: entry["logprob"] for entry in top}
    comedy, romance = (math.exp(logprob[token[0]]) for token in tokens)
    scores = label_likelihood(server, PARIS, ["comedy", "romance"])
    assert scores.probabilities["comedy"] == pytest.approx(comedy / (comedy + romance), abs=1e-4)


def test_label_order_does_not_change_probabilities(server: Server) -> None:
    forward = label_likelihood(server, PARIS, TAGS).probabilities
    assert label_likelihood(server, PARIS, TAGS[::-1]).probabilities == pytest.approx(forward)


def test_prefix_cache_does_not_change_probabilities(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the answer cache, so that the second request is computed too.
    monkeypatch.setattr(server, "_cached_ask", server._ask)
    prompt = "A fox met a traveller at the edge of the wood. " * 12 + PARIS
    label_likelihood(server, "something else entirely\ntag:", TAGS)
    cold = label_likelihood(server, prompt, TAGS)
    warm = label_likelihood(server, prompt, TAGS)
    assert warm.cached_tokens > cold.cached_tokens
    assert warm.probabilities == cold.probabilities


def test_predictor_returns_the_most_likely_label_with_evidence(client: DecisionLM) -> None:
    with record_evidence() as log:
        answer = dspy.Predict(Tag)(movie="Two strangers fall in love in Paris.", lm=client)
    probabilities = log[0][2]["probabilities"]
    assert answer.tag == max(probabilities, key=probabilities.__getitem__)
    assert log[0][2]["confidence"] == probabilities[answer.tag]


def test_booleans_and_integers_keep_their_types(client: DecisionLM) -> None:
    answer = dspy.Predict(Judge)(statement="Water is wet.", lm=client)
    assert isinstance(answer.true, bool)
    assert answer.stars in {1, 2, 3, 4, 5}


async def test_async_call_gives_the_same_answer(client: DecisionLM) -> None:
    tag = dspy.Predict(Tag)
    answers = await asyncio.gather(*(tag.acall(movie="A robot dreams.", lm=client) for _ in range(3)))
    assert {answer.tag for answer in answers} == {tag(movie="A robot dreams.", lm=client).tag}


def test_prompt_ends_with_the_name_of_the_output() -> None:
    state = {
        "instructions": "You know Ann.",
        "inputs": {"task": "Which tag?", "query": "A robot dreams."},
        "demos": [{"query": "Two clowns.", "tag": "comedy"}],
    }
    assert render(state, "tag") == (
        "You know Ann.\n\nquery: Two clowns.\ntag: comedy\n\ntask: Which tag?\nquery: A robot dreams.\ntag:"
    )


def test_calibration_prior_excludes_persona_and_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []
    from program.models import decisions

    def recording(server: Any, prompt: str, labels: list[str]) -> Any:
        prompts.append(prompt)
        return label_likelihood(server, prompt, labels)

    monkeypatch.setattr(decisions, "label_likelihood", recording)
    with record_evidence() as log:
        dspy.Predict(Tag.with_instructions("Ann loves sci-fi."))(
            movie="A robot.", lm=DecisionLM(calibrate=True)
        )
    assert [("Ann" in prompt, "robot" in prompt) for prompt in prompts] == [(True, True), (False, False)]
    assert sum(log[0][2]["probabilities"].values()) == pytest.approx(1.0)


def test_text_output_raises_value_error(client: DecisionLM) -> None:
    with pytest.raises(ValueError, match="Unsupported System One output"):
        dspy.Predict("movie -> review")(movie="A robot.", lm=client)


def test_prompt_longer_than_the_context_raises_context_error(client: DecisionLM) -> None:
    with pytest.raises(dspy.ContextWindowExceededError):
        dspy.Predict(Tag)(movie="word " * 9000, lm=client)


def test_saved_predictor_restores_its_client(client: DecisionLM) -> None:
    program = dspy.Predict(Tag)
    program.lm = DecisionLM(calibrate=True)
    loaded = dspy.Predict(Tag)
    loaded.load_state(program.dump_state(), allow_unsafe_lm_state=True)
    assert isinstance(loaded.lm, DecisionLM)
    assert loaded.lm.calibrate is True
