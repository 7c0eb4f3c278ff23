"""The parts of one alignment: simulate, criticise, rewrite, measure. `alignment` puts them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, TypeVar

import dspy
from dspy.utils.exceptions import AdapterParseError

from optimizers import batch
from optimizers.config import AlignmentConfig
from optimizers.gate import Evidence
from optimizers.loss import TextualLoss, UpdatePersona
from optimizers.record import Feedback, Simulation
from program.agent import PersonaAgent
from program.errors import AlignmentFailedError, PersonaError, UnparsableAnswerError
from program.ledger import current_ledger, metered, reserve_call, stage
from program.models.adapter import program_adapter
from program.persona import checked
from program.tracing import span

T = TypeVar("T")


class AlignmentRun:
    """One alignment of one user's agent, in progress.

    Attributes:
        agent: The copy that is being aligned; only the loop changes its persona.
        agent_runs: How often an interaction was simulated so far.
    """

    def __init__(
        self,
        config: AlignmentConfig,
        agent: PersonaAgent,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example],
        prompt_model: Any,
        wait: bool,
    ) -> None:
        self.config = config
        self.agent = agent
        self.agent_runs = 0
        self._batch = batch.candidates(trainset, config)
        self._valset = list(valset)
        self._prompt_model = prompt_model
        self._wait = wait
        # What an earlier step has measured under a persona that is still in play.
        self._known: dict[tuple[str, str], Simulation] = {}

    def models(self) -> dict[str, Any]:
        """Return the names of the models and the versions of the packages that decide the outcome."""
        agent_model = str(dspy.settings.lm.model)
        prompt_model = agent_model if self._prompt_model is None else str(self._prompt_model.model)
        packages = ("personaagent", "dspy")
        return {
            "model": agent_model,
            "prompt_model": prompt_model,
            "versions": {name: version(name) for name in packages},
        }

    async def simulate_batch(self) -> list[Simulation]:
        """Let the agent answer the batch as if it were new, under its current persona.

        Raises:
            AlignmentFailedError: None of the answers could be read.
        """
        if self.config.batch == "hardest" and not self._known:
            await self._narrow_to_hardest()
        simulations = await self._simulate(self.agent, self._batch)
        if all(simulation.score is None for simulation in simulations):
            raise AlignmentFailedError(
                f"none of {len(simulations)} simulated answers could be read ({simulations[0].error}); "
                "the persona was not changed. Try another model with `--model`",
                agent_runs=self.agent_runs,
            )
        return simulations

    async def textual_losses(self, simulations: Sequence[Simulation]) -> list[Feedback]:
        """Return one feedback for each simulation that has an answer."""
        answered = [simulation for simulation in simulations if simulation.score is not None]
        return await self._each(self._textual_loss(simulation) for simulation in answered)

    async def update(self, feedback: Sequence[Feedback]) -> tuple[str, str]:
        """Return the rewritten persona and a note; the old persona where no rewrite could be made."""
        persona = self.agent.persona
        texts = [item.text for item in feedback if item.text]
        if not texts:
            return persona, "no feedback, so nothing to change"
        numbered = "\n\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
        with span("update", persona=persona, feedback=numbered) as trace:
            rewritten = await self._ask(
                "update", UpdatePersona, current_system_prompt=persona, feedback=numbered
            )
            trace.output(persona=rewritten)
        if rewritten is None:
            return persona, "the rewrite could not be used twice, the old persona stays"
        return rewritten, ""

    async def evidence(self, simulations: Sequence[Simulation], candidate: str) -> Evidence:
        """Measure parent and candidate on the same interactions, where the gate asks for it."""
        if self.config.gate == "always" or candidate == self.agent.persona:
            return Evidence()
        changed = self.agent.deepcopy()
        changed.persona = candidate
        parent = await self._simulate(self.agent, self._valset) if self._valset else simulations
        after = await self._simulate(changed, self._valset or self._batch)
        both = [
            (p.score, a.score)
            for p, a in zip(parent, after, strict=True)
            if p.score is not None and a.score is not None
        ]
        return Evidence(parent=[p for p, _ in both], candidate=[a for _, a in both])

    async def _narrow_to_hardest(self) -> None:
        pool = await self._simulate(self.agent, self._batch)
        scored = [index for index, simulation in enumerate(pool) if simulation.score is not None]
        worst_first = sorted(scored, key=lambda index: (pool[index].score, -index))
        chosen = sorted(worst_first[: self.config.batch_size])
        self._batch = [self._batch[index] for index in chosen] or self._batch[-self.config.batch_size :]

    async def _simulate(self, agent: PersonaAgent, examples: Sequence[dspy.Example]) -> list[Simulation]:
        return await self._each(self._simulate_one(agent, example) for example in examples)

    async def _simulate_one(self, agent: PersonaAgent, example: dspy.Example) -> Simulation:
        key = (agent.persona, str(example.before))
        reusable = self.config.gate == "best" or self.config.batch == "hardest"
        if reusable and key in self._known:
            return self._known[key]
        self.agent_runs += 1
        truth = str(example.response)
        made = Simulation(interaction_id=str(example.before), query=str(example.query), truth=truth)
        with stage("simulate"), span("simulate", interaction_id=made.interaction_id) as trace:
            try:
                inputs = example.inputs()
                said = await agent.acall(**inputs) if self._wait else agent(**inputs)
            except UnparsableAnswerError as error:
                made = replace(made, error=str(error))
            else:
                score = agent.surroundings.task.answer.agreement(said.answer, truth)
                tools = [
                    f"{step.tool}({', '.join(map(str, step.arguments.values()))})" for step in said.steps
                ]
                made = replace(made, answer=said.answer, score=score, tools=tools)
            trace.output(simulation=made)
        self._known[key] = made
        return made

    async def _textual_loss(self, simulation: Simulation) -> Feedback:
        if self.config.skip_right and simulation.score == 1.0:
            return Feedback(interaction_id=simulation.interaction_id, skipped="the answer was right")
        question = f"{self.agent.surroundings.task.question}\n{simulation.query}"
        with span("textual_loss", interaction_id=simulation.interaction_id) as trace:
            text = await self._ask(
                "textual_loss",
                TextualLoss,
                question=question,
                expected_answer=simulation.truth,
                agent_response=simulation.answer,
            )
            trace.output(feedback=text)
        if text is None:
            return Feedback(interaction_id=simulation.interaction_id, skipped="unreadable twice")
        return Feedback(interaction_id=simulation.interaction_id, text=text)

    async def _ask(self, name: str, signature: Any, **inputs: str) -> str | None:
        """Ask the prompt model for one text; once more where it cannot be used, then give up."""
        predict = dspy.Predict(signature)
        field = next(iter(signature.output_fields))
        ledger = current_ledger()
        lm = self._prompt_model or dspy.settings.lm
        if self._prompt_model is not None and ledger is not None:
            lm = metered(self._prompt_model, ledger)
        for attempt in range(2):
            # The same request would get the same answer from a cache or a deterministic model.
            config = {"rollout_id": attempt, "temperature": 0.7} if attempt else {}
            reserve_call()
            with stage(name), dspy.context(lm=lm, trace=None), program_adapter():
                try:
                    said = (
                        await predict.acall(config=config, **inputs)
                        if self._wait
                        else predict(config=config, **inputs)
                    )
                    return checked(str(said[field]), max_chars=self.config.max_chars)
                except (AdapterParseError, PersonaError):
                    continue
        return None

    async def _each(self, jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Wait for all jobs: at the same time where waiting is possible, else one after the other.

        The first failure stops the others before their next call.
        """
        if not self._wait:
            return [await job for job in jobs]
        tasks = [asyncio.ensure_future(job) for job in jobs]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
