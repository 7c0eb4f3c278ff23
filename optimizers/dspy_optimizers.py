"""DSPy's own optimizers on the same persona: what GEPA, MIPROv2 and SIMBA need to work on an agent.

    optimizable = OptimizableAgent(agent)
    best = optimizable.compile(dspy.GEPA(persona_metric(task), instruction_proposer=PersonaProposer(), ...),
                             trainset=examples(memory, task)[-3:])
    agent.persona = best

They score a failed call as a wrong answer and write whole examples into log lines and to stdout.
`OptimizableAgent` keeps both from happening: an outage ends the compile, and nothing is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from optimizers.loss import UpdatePersona
from optimizers.prompting import ask_text, number_feedback
from optimizers.silence import silence
from program.agent import PersonaAgent
from program.errors import BudgetExceededError, UnparsableAnswerError
from program.memory.base import Before
from program.models.adapter import program_adapter
from program.persona import MAX_CHARS, validate_persona
from program.sync import run_now
from program.task import Task
from program.usage import stage

Metric = Callable[..., Any]


def persona_metric(task: Task) -> Metric:
    """Return a metric for any of DSPy's optimizers: agreement with the user's true response, in [0, 1].

    GEPA calls it a second time for one predictor and then gets a feedback text beside the score. No
    model is asked for either.
    """

    def metric(
        gold: dspy.Example,
        pred: dspy.Prediction,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
    ) -> Any:
        answer = (pred.get("answer") if pred is not None else None) or ""
        score = task.answer.agreement(answer, gold.response) if answer else 0.0
        if pred_name is None:
            return score
        return dspy.Prediction(score=score, feedback=_feedback(gold, pred, answer, score, task))

    return metric


def _feedback(gold: dspy.Example, pred: dspy.Prediction, answer: str, score: float, task: Task) -> str:
    if not answer:
        return f"The answer could not be read; it must be {task.answer.hint}."
    verdict = "This is what the user said." if score == 1.0 else f"The user really said {gold.response!r}."
    used = ", ".join(step.call for step in pred.steps) or "no tool"
    return f"Asked about: {gold.query}\nThe agent used {used} and answered {answer!r}. {verdict}"


class PersonaProposer:
    """Rewrites a persona from feedback with `PersonaAlignment`'s own prompt (a GEPA ``ProposalFn``).

    A rewrite that cannot be a persona leaves the old text.

    Args:
        max_chars: Longest persona that is accepted, in characters.
        on_refused: Told of a call that a budget refused; GEPA itself would only lose the proposal.
    """

    def __init__(
        self, *, max_chars: int = MAX_CHARS, on_refused: Callable[[Exception], None] = lambda _: None
    ) -> None:
        self.max_chars = max_chars
        self.on_refused = on_refused

    def __call__(
        self,
        candidate: Mapping[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: Sequence[str],
    ) -> dict[str, str]:
        """Return a new text for each component."""
        return {
            name: self._rewrite(
                candidate[name], [str(row["Feedback"]) for row in reflective_dataset.get(name, ())]
            )
            for name in components_to_update
        }

    def _rewrite(self, persona: str, feedback: list[str]) -> str:
        with dspy.context(trace=None):
            try:
                rewrite = run_now(
                    ask_text(
                        "update",
                        UpdatePersona,
                        lm=None,
                        max_chars=self.max_chars,
                        wait=False,
                        current_system_prompt=persona,
                        feedback=number_feedback(feedback),
                    )
                )
            except BudgetExceededError as error:
                self.on_refused(error)
                raise
        return persona if rewrite is None else rewrite


class _Runs:
    """Counts agent runs; copies of a program share it."""

    def __init__(self) -> None:
        self.count = 0
        self.outage: Exception | None = None

    def note(self, error: Exception) -> None:
        """Remember the first error that ends the compile, whatever the optimizer makes of it."""
        self.outage = self.outage or error

    def __deepcopy__(self, memo: object) -> _Runs:
        return self


class _Outages(BaseCallback):  # type: ignore[misc]
    """Notes every call that failed, also those whose errors an optimizer swallows: its own proposals.

    A request that can never be served, such as a prompt that is too long, is the optimizer's affair.
    """

    def __init__(self, runs: _Runs) -> None:
        self._runs = runs

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if isinstance(exception, dspy.LMError) and not isinstance(exception, dspy.LMInvalidRequestError):
            self._runs.note(exception)


class OptimizableAgent(dspy.Module):  # type: ignore[misc]
    """An agent as an optimizer may try it out: runs are counted, and outages are remembered.

    An answer that cannot be read is an empty answer, which the metric scores 0.

    Args:
        agent: It is not changed.
        traced: Whether the optimizer sees the agent's single steps. MIPROv2 pickles what it sees, and
            actions are of types made at run time, so it must not; it needs them for examples only.
    """

    def __init__(self, agent: PersonaAgent, *, traced: bool = True) -> None:
        super().__init__()
        self.agent = agent.deepcopy()
        self.runs = _Runs()
        self.traced = traced

    def forward(self, query: str, before: Before = None, exclude: Collection[str] = ()) -> dspy.Prediction:
        """Answer one past interaction again."""
        if self.runs.outage is not None:
            raise self.runs.outage
        self.runs.count += 1
        untraced = nullcontext() if self.traced else dspy.context(trace=None)
        with stage("simulate"), untraced:
            try:
                return self.agent(query=query, before=before, exclude=exclude)
            except UnparsableAnswerError:
                return dspy.Prediction(answer="", steps=(), probabilities=None)
            except (dspy.LMError, BudgetExceededError) as error:
                self.runs.note(error)
                raise

    def compile(self, optimizer: Any, **arguments: Any) -> str:
        """Return the persona that ``optimizer`` finds; ``arguments`` go to its ``compile``.

        The optimizer must work in this thread (``num_threads=1``).

        Raises:
            dspy.LMError: A call failed; what was found until then is worth nothing.
            BudgetExceededError: A call would have passed a limit.
            PersonaError: What was found cannot be a persona.
        """
        watch = [*dspy.settings.callbacks, _Outages(self.runs)]
        with stage("update"), silence(), program_adapter(), dspy.context(callbacks=watch):
            try:
                best = optimizer.compile(self, **arguments)
            finally:
                # Optimizers turn what a program raises into a score of 0, or into errors of their own.
                if self.runs.outage is not None:
                    raise self.runs.outage
        return validate_persona(best.agent.persona)
