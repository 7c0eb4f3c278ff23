"""Decision requests (DSPy 3.4, experimental): a probability for each label instead of text.

If its LM is a `DecisionLM`, a `dspy.Predict` sends its inputs and questions here, provided that all
its outputs are `Literal`, `bool` or DSPy's decision types. Labels are scored by likelihood after a
short prompt without markers: at 135M parameters the form of the prompt decides whether the model
uses the user's own items (see ``benchmarks/bench_embedded.py``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.clients.base_lm import LM_CLASS_STATE_KEY
from dspy.clients.errors import error_boundary
from dspy.utils.callback import with_callbacks

from program.calls import make_call
from program.models.likelihood import LabelScores, label_likelihood
from program.models.llama_server import ModelFile, get_server
from program.models.score_calls import report_scores
from program.models.weights import find_model

_BOOLEAN = ("yes", "no")


class DecisionLM(dspy.BaseLM):  # type: ignore[misc]
    """Answers decision requests with a model in the process. Costs nothing, needs no key.

    Attributes:
        source: ``embedded`` or ``gguf:PATH``.
        context: Longest prompt, in tokens.
        calibrate: Whether to divide the probabilities by the labels' prior, their probabilities
            without inputs, instructions (the persona) and examples. Helps if the prompt has no
            examples, hurts if it has some.
    """

    supports_decision_requests = True

    def __init__(
        self,
        source: str = "embedded",
        *,
        context: int = 8192,
        calibrate: bool = False,
        callbacks: list[Any] | None = None,
    ) -> None:
        """Check the model's file; the first call loads the model.

        Raises:
            ModelSetupError: The file is missing or wrong.
        """
        model = find_model(source)
        super().__init__(model.name, cache=False, num_retries=0, callbacks=callbacks)
        self.source, self.context, self.calibrate = model.source, context, calibrate
        self._file = ModelFile(path=model.path, context=context)

    @with_callbacks  # type: ignore[untyped-decorator]
    def __call__(self, state: Mapping[str, Any], questions: Mapping[str, Any]) -> dict[str, Any]:
        """Answer each question about one state.

        Args:
            state: ``instructions``, ``inputs`` (name to value), optionally ``demos``.
            questions: Output name to ``type`` (``choice``, ``score`` or ``noul``) and ``criteria``.

        Returns:
            Output name to evidence, in the form DSPy decodes: ``probabilities`` (sum 1) and
            ``confidence`` (the highest of them), or ``noul``, the probability of true.

        Raises:
            dspy.LMError: The prompt does not fit, or the model failed.
        """
        return self._answer(state, questions)

    @with_callbacks  # type: ignore[untyped-decorator]
    async def acall(self, state: Mapping[str, Any], questions: Mapping[str, Any]) -> dict[str, Any]:
        """Answer like `__call__`, without blocking the event loop."""
        answers: dict[str, Any] = await make_call(
            lambda: asyncio.to_thread(self._answer, state, questions),
            self.model,
            self.calibrate,
            state,
            questions,
        )
        return answers

    def _answer(self, state: Mapping[str, Any], questions: Mapping[str, Any]) -> dict[str, Any]:
        with error_boundary(self.model, unexpected=True):
            scores = {name: self._score(state, name, question) for name, question in questions.items()}
        answers = {name: _evidence(questions[name], scores[name].probabilities) for name in questions}
        self._report(state, questions, answers, list(scores.values()))
        return answers

    def _score(self, state: Mapping[str, Any], name: str, question: Mapping[str, Any]) -> LabelScores:
        labels = _labels(question)
        server = get_server(self._file)
        with server.lock:
            scores = label_likelihood(server, render(state, name), labels)
            if not self.calibrate:
                return scores
            prior = label_likelihood(server, render(_without_content(state), name), labels)
        return scores.divided_by(prior)

    def _report(
        self, state: Mapping[str, Any], questions: Any, answers: Mapping[str, Any], scores: list[LabelScores]
    ) -> None:
        report_scores(
            self,
            scores,
            kind="decision",
            output=json.dumps(answers),
            prompt="\n\n".join(render(state, name) for name in questions),
        )

    def dump_state(self) -> dict[str, Any]:
        """Return the settings for `load_state`; the weights are named, not copied."""
        return {
            LM_CLASS_STATE_KEY: f"{__name__}.{type(self).__qualname__}",
            "source": self.source,
            "context": self.context,
            "calibrate": self.calibrate,
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> DecisionLM:
        """Restore the client from `dump_state`.

        Raises:
            ModelSetupError: The file is missing or wrong on this machine.
        """
        return cls(**{key: value for key, value in state.items() if key != LM_CLASS_STATE_KEY})


def render(state: Mapping[str, Any], question: str) -> str:
    """Return a prompt that the model continues with the answer to ``question``.

    Instructions, then examples, then one line for each input, then the name of the output.
    """
    blocks = [str(state["instructions"]).strip()]
    blocks += [_lines(demo) for demo in state.get("demos", ())]
    blocks.append(_lines(state["inputs"]) + f"\n{question}:")
    return "\n\n".join(block for block in blocks if block).strip()


def _lines(fields: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in fields.items())


def _without_content(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same form without content. The persona goes too: calibration must not divide it out."""
    return {"instructions": "", "inputs": dict.fromkeys(state["inputs"], "N/A")}


def _labels(question: Mapping[str, Any]) -> list[str]:
    if question["type"] == "noul":
        return list(_BOOLEAN)
    if question["type"] == "score":
        return [str(level) for level in range(len(question["criteria"]))]
    return [str(label) for label in question["criteria"]]


def _evidence(question: Mapping[str, Any], probabilities: Mapping[str, float]) -> dict[str, Any]:
    if question["type"] == "noul":
        return {"noul": probabilities["yes"]}
    best = max(probabilities.values())
    return {"probabilities": dict(probabilities), "confidence": best}
