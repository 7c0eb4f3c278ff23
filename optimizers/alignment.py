"""Test-time alignment of a persona: the paper's Algorithm 1 as a DSPy optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import dspy
from dspy.teleprompt.teleprompt import Teleprompter
from dspy.utils.callback import with_callbacks

from optimizers.checking import Choice, choose, review_pending
from optimizers.config import PAPER, AlignmentConfig, Plan, make_plan
from optimizers.contracts import Candidate, Journal
from optimizers.journal import MemoryJournal
from optimizers.record import AlignmentRecord, AlignmentStep, Rollout
from optimizers.run import AlignmentRun, writes
from optimizers.trainset import check_trainset
from optimizers.trials import Past
from optimizers.updates import propose
from program.agent import PersonaAgent
from program.errors import ConfigError, EmptyHistoryError
from program.spans import about, span
from program.sync import run_now
from program.usage import Budget, UsageTracker, current_tracker, track_usage


class PersonaAlignment(Teleprompter):  # type: ignore[misc]
    """Rewrites a persona so that the agent answers past interactions as the user really did.

    Runs ``steps`` iterations, however well the agent already answers.

    Args:
        config: Settings; the default `PAPER` is Algorithm 1.
        prompt_model: The model of feedback and update; ``None`` for the agent's model.
        past: What earlier alignments of this user left; `optimizers.align_user` reads it from the store.
        journal: Runs each piece of paid work once; ``None`` for one in memory for each compile. With a
            journal of an alignment that was stopped, a compile pays only for the rest.
        budget: Limits of one compile, which stops before the call that would exceed them.
        on_step: Called with each finished step, to show progress or to save it.
        **options: Single settings in place of those in ``config``, such as ``steps=3``.

    Raises:
        ConfigError: A setting is unknown or out of range.

    Example:
        >>> from optimizers import examples
        >>> from program import EpisodicMemory, Interaction, PersonaAgent, get_task, scripted_lm
        >>> film = Interaction(id="1", user_id="ana", query="A heist goes wrong.", response="action")
        >>> memory = EpisodicMemory("ana", [film])
        >>> agent = PersonaAgent.for_user("ana", memory, task=get_task("LaMP-2M"), persona="Be brief.")
        >>> def reply(system, user):
        ...     if "critical evaluator" in system:
        ...         return "This user calls heists action."
        ...     if "refine the system prompt" in system:
        ...         return "This user likes action."
        ...     return {"thought": "", "action": {"tool": "finish", "answer": "comedy"}}
        >>> with dspy.context(lm=scripted_lm(reply)):
        ...     aligned = PersonaAlignment().compile(agent, trainset=examples(memory, agent.context.task))
        >>> aligned.persona
        'This user likes action.'
        >>> aligned.alignment.steps[0].rollouts[0].score
        0.0
    """

    def __init__(
        self,
        config: AlignmentConfig = PAPER,
        *,
        prompt_model: Any = None,
        past: Past | None = None,
        journal: Journal | None = None,
        budget: Budget | None = None,
        on_step: Callable[[AlignmentStep], None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        try:
            self.config = replace(config, **options)
        except TypeError as error:
            raise ConfigError(f"unknown alignment setting: {error}") from error
        self.prompt_model = prompt_model
        self.past = past or Past()
        self.journal = journal
        self.budget = budget
        self.on_step = on_step

    def plan(self, student: PersonaAgent, trainset: Sequence[Any], valset: Sequence[Any] = ()) -> Plan:
        """Return what `compile` would do, without a model call."""
        return make_plan(
            self.config,
            trainset=len(trainset),
            valset=len(valset),
            calls_per_rollout=student.calls_per_answer(),
            calls_per_score=student.calls_per_score(),
            writes=writes(self.prompt_model),
        )

    def compile(
        self,
        student: PersonaAgent,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> PersonaAgent:
        """Return a copy of ``student`` with the aligned persona and an ``alignment`` record.

        Args:
            student: The user's agent; it is not changed.
            trainset: Past interactions, oldest first, made with `optimizers.examples`.
            teacher: Not used; Algorithm 1 has none.
            valset: Interactions that a gate scores both personas on; without them it uses the batch.

        Raises:
            ConfigError: An example has no ``before``, so its own answer could be looked up.
            EmptyHistoryError: The trainset is empty.
            AlignmentFailedError: No rollout of a batch gave an answer.
            BudgetExceededError: The next call would exceed a limit.
            dspy.LMError: The model failed; an outage never becomes feedback.
        """
        return run_now(self._compile(student, trainset, valset or (), wait=False))

    @with_callbacks  # type: ignore[untyped-decorator]
    async def acompile(
        self,
        student: PersonaAgent,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> PersonaAgent:
        """Compile like `compile`; the rollouts of a batch run concurrently."""
        return await self._compile(student, trainset, valset or (), wait=True)

    async def _compile(
        self,
        student: PersonaAgent,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example],
        *,
        wait: bool,
    ) -> PersonaAgent:
        if not trainset:
            raise EmptyHistoryError("there is no interaction to learn from; record one with `observe` first")
        check_trainset([*trainset, *valset])
        plan = self.plan(student, trainset, valset)
        tracker = UsageTracker(self.budget, parent=current_tracker(), resumes=True)
        with (
            track_usage(tracker, student.act.lm),
            about(user_id=student.context.memory.user_id),
            span("align", config=self.config.as_dict(), plan=plan.as_dict()) as trace,
        ):
            run = AlignmentRun(
                self.config,
                student.deepcopy(),
                trainset,
                valset,
                self.prompt_model,
                self.past,
                self.journal or MemoryJournal(),
                wait,
            )
            review = await review_pending(run)
            steps = await self._algorithm_1(run)
            record = AlignmentRecord(
                config=self.config,
                plan=plan,
                steps=steps,
                n_rollouts=run.n_rollouts,
                usage=tracker.by_stage(),
                seconds=tracker.seconds,
                review=review,
                pending=run.pending,
                **run.models(),
            )
            trace.output(record=record.as_dict())
        run.agent.alignment = record
        return run.agent

    async def _algorithm_1(self, run: AlignmentRun) -> list[AlignmentStep]:
        """Iterate E times: roll out, criticise, rewrite, decide (paper, section 2.2, Algorithm 1)."""
        steps: list[AlignmentStep] = []
        for number in range(1, self.config.steps + 1):
            tracker = UsageTracker(parent=current_tracker())
            with track_usage(tracker), span("step", number=number) as trace:
                before = run.agent.persona
                rollouts = await run.roll_out_batch()
                feedback = await run.textual_losses(rollouts)
                proposal = await propose(run, feedback)
                choice = await self._decide(run, rollouts, proposal.candidates)
                if choice.decision.accept and choice.candidate is not None:
                    with span("persona", text=choice.text):
                        run.agent.persona = choice.candidate.persona
                    run.pending = choice.pending
                step = AlignmentStep(
                    number=number,
                    persona_before=before,
                    candidate=choice.text,
                    persona_after=run.agent.persona,
                    rollouts=rollouts,
                    feedback=feedback,
                    decision=choice.decision,
                    note=proposal.note,
                    usage=tracker.by_stage(),
                    parts=run.agent.parts.as_dict() if run.agent.parts else None,
                    checks=list(choice.checks),
                    refusals=list(proposal.refusals),
                )
                trace.output(step=step.as_dict())
            steps.append(step)
            if self.on_step is not None:
                self.on_step(step)
        return steps

    async def _decide(
        self, run: AlignmentRun, rollouts: list[Rollout], candidates: Sequence[Candidate]
    ) -> Choice:
        """Ask the gate which candidate becomes the persona, if any."""
        with span("gate", rule=self.config.as_dict()["gate"]) as trace:
            choice = await choose(run, rollouts, candidates)
            trace.output(decision=choice.decision)
        return choice
