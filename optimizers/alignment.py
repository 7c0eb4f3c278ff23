"""Test-time alignment of a persona: the paper's Algorithm 1 as a DSPy optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import dspy
from dspy.teleprompt.teleprompt import Teleprompter
from dspy.utils.callback import with_callbacks

from optimizers import batch
from optimizers.config import PAPER, AlignmentConfig, Plan, plan
from optimizers.gate import decide
from optimizers.record import AlignmentRecord, AlignmentStep
from optimizers.run import AlignmentRun
from program.agent import PersonaAgent
from program.errors import ConfigError, EmptyHistoryError
from program.ledger import Budget, Ledger, accounting, current_ledger
from program.models.evidence import decision_client
from program.sync import run_now
from program.tracing import about, span


class PersonaAlignment(Teleprompter):  # type: ignore[misc]
    """Rewrites a persona until the agent answers past interactions as the user really did.

    Args:
        config: Settings; the default `PAPER` is Algorithm 1.
        prompt_model: The model of feedback and update; ``None`` uses the agent's model.
        budget: Limits of one compile; a run stops before the call that would pass them.
        on_step: Called with each finished step, for progress and for saving it.
        **options: Single settings in place of those in ``config``, such as ``steps=3``.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        config: AlignmentConfig = PAPER,
        *,
        prompt_model: Any = None,
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
        self.budget = budget
        self.on_step = on_step

    def plan(self, student: PersonaAgent, trainset: Sequence[Any], valset: Sequence[Any] = ()) -> Plan:
        """Return what a compile would do, without doing it."""
        around = student.surroundings
        return plan(
            self.config,
            around.settings,
            trainset=len(trainset),
            valset=len(valset),
            has_tools=bool(around.tools.tools),
            always_concludes=around.settings.conclude_apart
            or decision_client(dspy.settings.lm, around.task.answer) is not None,
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
            valset: Interactions the gate ``best`` scores on; without them it uses the batch.

        Raises:
            ConfigError: An example has no ``before``, so its own answer could be looked up.
            EmptyHistoryError: The trainset is empty.
            AlignmentFailedError: No simulation of a batch could be read.
            BudgetExceededError: The next call would have passed a limit.
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
        """As `compile`; the interactions of a batch are simulated at the same time."""
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
        batch.check([*trainset, *valset])
        planned = self.plan(student, trainset, valset)
        ledger = Ledger(self.budget, parent=current_ledger())
        whose = about(user_id=student.surroundings.memory.user_id)
        with accounting(ledger), whose, span("align", config=self.config, plan=planned) as trace:
            run = AlignmentRun(self.config, student.deepcopy(), trainset, valset, self.prompt_model, wait)
            steps = await self._algorithm_1(run)
            record = AlignmentRecord(
                config=self.config,
                plan=planned,
                steps=steps,
                agent_runs=run.agent_runs,
                usage=ledger.by_stage(),
                seconds=ledger.seconds,
                **run.models(),
            )
            trace.output(record=record)
        run.agent.alignment = record
        return run.agent

    async def _algorithm_1(self, run: AlignmentRun) -> list[AlignmentStep]:
        """Iterate E times: simulate, criticise, rewrite (paper, section 2.2, Algorithm 1)."""
        steps: list[AlignmentStep] = []
        for number in range(1, self.config.steps + 1):
            ledger = Ledger(parent=current_ledger())
            with accounting(ledger), span("step", number=number) as trace:
                persona = run.agent.persona
                simulations = await run.simulate_batch()
                feedback = await run.textual_losses(simulations)
                candidate, note = await run.update(feedback)
                with span("gate", rule=self.config.gate) as gate:
                    evidence = await run.evidence(simulations, candidate)
                    decision = decide(self.config.gate, persona, candidate, evidence)
                    gate.output(decision=decision)
                if decision.accept:
                    with span("persona", text=candidate):
                        run.agent.persona = candidate
                step = AlignmentStep(
                    number=number,
                    persona_before=persona,
                    candidate=candidate,
                    persona_after=run.agent.persona,
                    simulations=simulations,
                    feedback=feedback,
                    decision=decision,
                    note=note,
                    usage=ledger.by_stage(),
                )
                trace.output(step=step)
            steps.append(step)
            if self.on_step is not None:
                self.on_step(step)
        return steps
