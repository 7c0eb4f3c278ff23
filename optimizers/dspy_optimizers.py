"""DSPy's own optimizers on the same persona: what GEPA, MIPROv2 and SIMBA need to work on an agent.

They score a failed call as a wrong answer, and write whole examples to the log and to stdout.
`OptimizableAgent` prevents both: an outage ends the compile, and nothing is printed.
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
from program.corrections import fit, keep_corrections
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

    GEPA calls it once more for one predictor and then gets feedback beside the score. The metric
    itself makes no model call.

    Example:
        >>> from program import get_task
        >>> metric = persona_metric(get_task("LaMP-2M"))
        >>> gold = dspy.Example(query="A heist goes wrong.", response="action")
        >>> metric(gold, dspy.Prediction(answer="comedy", steps=()))
        0.0
        >>> metric(gold, dspy.Prediction(answer="comedy", steps=()), None, "act").feedback.splitlines()[0]
        'Asked about: A heist goes wrong.'
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
    tools = ", ".join(step.call for step in pred.steps) or "no tool"
    return f"Asked about: {gold.query}\nThe agent used {tools} and answered {answer!r}. {verdict}"


class PersonaProposer:
    """Rewrites a persona from feedback with the prompt of `PersonaAlignment` (a GEPA ``ProposalFn``).

    A rewrite that cannot be a persona is asked for once more; then the old text stays.

    Args:
        max_chars: Longest persona that is accepted, in characters.
        on_refused: Receives the error if a budget refuses a call; GEPA itself only loses the proposal.

    Example:
        >>> from program import UsageTracker, scripted_lm, track_usage
        >>> rows = {"act": [{"Feedback": "This user likes short answers."}]}
        >>> with track_usage(UsageTracker(), scripted_lm(lambda system, user: "Answer in one word.")):
        ...     PersonaProposer()({"act": "Be helpful."}, rows, ["act"])
        {'act': 'Answer in one word.'}
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


class OptimizableAgent(dspy.Module):  # type: ignore[misc]
    """An agent that any DSPy optimizer can compile: it counts rollouts and remembers outages.

    An answer that cannot be read is an empty answer, which the metric scores 0.

    Args:
        agent: The agent; it is not changed.
        traced: Whether the optimizer sees the agent's single steps, which it needs for examples only.

    Attributes:
        rollouts: Counts rollouts; all copies of the program share it.

    Example:
        >>> from optimizers import PersonaProposer, examples
        >>> from program import EpisodicMemory, Interaction, get_task, scripted_lm
        >>> film = Interaction(id="1", user_id="ana", query="A heist goes wrong.", response="action")
        >>> memory, task = EpisodicMemory("ana", [film]), get_task("LaMP-2M")
        >>> agent = OptimizableAgent(PersonaAgent.for_user("ana", memory, task=task, persona="Be brief."))
        >>> finish = {"thought": "", "action": {"tool": "finish", "answer": "action"}}
        >>> gepa = dspy.GEPA(
        ...     persona_metric(task), max_metric_calls=2, num_threads=1,
        ...     reflection_lm=scripted_lm(lambda system, user: finish),
        ...     instruction_proposer=PersonaProposer(),
        ... )
        >>> with dspy.context(lm=scripted_lm(lambda system, user: finish)):
        ...     agent.compile(gepa, trainset=examples(memory, task), valset=examples(memory, task))
        'Be brief.'
    """

    def __init__(self, agent: PersonaAgent, *, traced: bool = True) -> None:
        super().__init__()
        self.agent = agent.deepcopy()
        self.rollouts = _Rollouts()
        self.traced = traced

    def forward(self, query: str, before: Before = None, exclude: Collection[str] = ()) -> dspy.Prediction:
        """Answer one past interaction as if it were new."""
        if self.rollouts.outage is not None:
            raise self.rollouts.outage
        self.rollouts.count += 1
        tracing = nullcontext() if self.traced else dspy.context(trace=None)
        with stage("simulate"), tracing:
            try:
                return self.agent(query=query, before=before, exclude=exclude)
            except UnparsableAnswerError:
                return dspy.Prediction(answer="", steps=(), probabilities=None)
            except (dspy.LMError, BudgetExceededError) as error:
                self.rollouts.end_compile(error)
                raise

    def compile(self, optimizer: Any, **arguments: Any) -> str:
        """Return the best persona that ``optimizer`` finds, with what its person corrected.

        Args:
            optimizer: Any of DSPy's; it must work in this thread (``num_threads=1``).
            **arguments: Arguments of its ``compile``, such as ``trainset``.

        Raises:
            dspy.LMError: A call failed; the candidates so far are worth nothing.
            BudgetExceededError: The next call would pass a limit.
            PersonaError: The best candidate cannot be a persona.
        """
        callbacks = [*dspy.settings.callbacks, _OutageCallback(self.rollouts)]
        parts = self.agent.parts
        with stage("update"), silence(), program_adapter(), dspy.context(callbacks=callbacks):
            try:
                best = optimizer.compile(self, **arguments)
            finally:
                # Optimizers turn what a program raises into a score of 0, or into errors of their own.
                if self.rollouts.outage is not None:
                    raise self.rollouts.outage
        persona = keep_corrections(best.agent.persona, parts)
        return validate_persona(persona if isinstance(persona, str) else fit(persona, []).render([]))


class _Rollouts:
    """Counts rollouts and keeps the first outage; copies of a program share it."""

    def __init__(self) -> None:
        self.count = 0
        self.outage: Exception | None = None

    def end_compile(self, error: Exception) -> None:
        """End the compile with ``error``, however the optimizer handles it."""
        self.outage = self.outage or error

    def __deepcopy__(self, memo: object) -> _Rollouts:
        return self


class _OutageCallback(BaseCallback):  # type: ignore[misc]
    """Notices failed calls whose errors an optimizer swallows: those of its own proposals.

    A request that can never be served, such as a prompt that is too long, does not end the compile.
    """

    def __init__(self, rollouts: _Rollouts) -> None:
        self._rollouts = rollouts

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if isinstance(exception, dspy.LMError) and not isinstance(exception, dspy.LMInvalidRequestError):
            self._rollouts.end_compile(exception)
