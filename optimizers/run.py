"""The parts of one alignment: rollouts, textual loss, update, scores. `alignment` puts them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, TypeVar

import dspy

from optimizers.config import AlignmentConfig
from optimizers.loss import TextualLoss, UpdatePersona
from optimizers.prompting import ask_text, number_feedback
from optimizers.record import Feedback, Rollout
from program.agent import PersonaAgent
from program.errors import AlignmentFailedError, ConfigError, UnparsableAnswerError
from program.spans import span
from program.text import counted, cut
from program.usage import stage

T = TypeVar("T")


class AlignmentRun:
    """One alignment of one user's agent, in progress.

    Attributes:
        agent: The copy that is aligned; only `PersonaAlignment` changes its persona.
        n_rollouts: How often the agent has answered a past interaction so far.
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
        self.n_rollouts = 0
        self._trainset = list(trainset)
        self._valset = list(valset)
        self._prompt_model = prompt_model
        self._wait = wait
        self._batch: list[dspy.Example] = []
        # Texts that were cut for the feedback of this step.
        self._n_cut = 0
        # Rollouts by persona and interaction: a gate or a batch rule may need one again.
        self._rollouts: dict[tuple[str, str], Rollout] = {}

    def models(self) -> dict[str, Any]:
        """Return the names of the models and the versions of the packages that decide the outcome."""
        agent_model = str(dspy.settings.lm.model)
        prompt_model = agent_model if self._prompt_model is None else str(self._prompt_model.model)
        return {
            "model": agent_model,
            "prompt_model": prompt_model,
            "versions": {name: version(name) for name in ("personaagent", "dspy")},
        }

    async def roll_out_batch(self) -> list[Rollout]:
        """Let the agent answer the batch as if it were new, under its current persona.

        Raises:
            AlignmentFailedError: None of the answers can be read.
            ConfigError: The batch rule returned something other than a part of the trainset.
        """
        self._batch = self._batch or await self._select_batch()
        rollouts = await self._roll_out_all(self.agent, self._batch)
        if all(rollout.score is None for rollout in rollouts):
            raise AlignmentFailedError(
                f"none of {counted(len(rollouts), 'rollout')} gave an answer that could be read "
                f"({rollouts[0].error}); the persona is unchanged. Try another model with `--model`",
                n_rollouts=self.n_rollouts,
            )
        return rollouts

    async def textual_losses(self, rollouts: Sequence[Rollout]) -> list[Feedback]:
        """Return one feedback for each rollout that has an answer."""
        answered = [rollout for rollout in rollouts if rollout.score is not None]
        self._n_cut = 0
        return await self._each(self._textual_loss(rollout) for rollout in answered)

    async def update(self, feedback: Sequence[Feedback]) -> tuple[str, str]:
        """Return the rewritten persona and a note; the old persona if there is no usable rewrite."""
        candidate, note = await self._update(feedback)
        limit = self.agent.context.settings.max_input_chars
        cuts = f"feedback saw {counted(self._n_cut, 'text')} cut to {limit} characters" if self._n_cut else ""
        return candidate, "; ".join(filter(None, (note, cuts)))

    async def _update(self, feedback: Sequence[Feedback]) -> tuple[str, str]:
        persona = self.agent.persona
        texts = [item.text for item in feedback if item.text]
        if not texts:
            return persona, "no feedback, so nothing to change"
        numbered = number_feedback(texts)
        with span("update", persona=persona, feedback=numbered) as trace:
            rewrite = await self._ask(
                "update", UpdatePersona, current_system_prompt=persona, feedback=numbered
            )
            trace.output(persona=rewrite)
        if rewrite is None:
            return persona, "the rewrite could not be used twice, the old persona stays"
        return rewrite, ""

    async def score_both(
        self, rollouts: Sequence[Rollout], candidate: str
    ) -> tuple[list[float], list[float]]:
        """Return the scores of the current persona and of ``candidate`` on the same interactions.

        Interactions that either persona leaves without an answer are left out. If the gate needs no
        scores, both lists are empty and no call is made.

        Args:
            rollouts: Of the batch, under the current persona.
            candidate: The rewrite.
        """
        if not self.config.gate_rule.needs_scores:
            return [], []
        changed = self.agent.deepcopy()
        changed.persona = candidate
        parent = await self._roll_out_all(self.agent, self._valset) if self._valset else rollouts
        rewritten = await self._roll_out_all(changed, self._valset or self._batch)
        pairs = [
            (before.score, after.score)
            for before, after in zip(parent, rewritten, strict=True)
            if before.score is not None and after.score is not None
        ]
        return [before for before, _ in pairs], [after for _, after in pairs]

    async def _select_batch(self) -> list[dspy.Example]:
        rule, size = self.config.batch_rule, self.config.batch_size
        pool_size = rule.pool_size(size)
        pool = await self._roll_out_all(self.agent, self._trainset[-pool_size:] if pool_size else [])
        batch = rule.select(self._trainset, [rollout.score for rollout in pool], size)
        ids = [example.before for example in batch]
        known = {example.before for example in self._trainset}
        if not ids or len(ids) > size or len(set(ids)) < len(ids) or not known.issuperset(ids):
            raise ConfigError(
                f"batch rule {type(rule).__name__!r} must return 1 to {size} different examples of the "
                f"trainset, got {len(ids)}"
            )
        return batch

    async def _roll_out_all(self, agent: PersonaAgent, examples: Sequence[dspy.Example]) -> list[Rollout]:
        return await self._each(self._roll_out(agent, example) for example in examples)

    async def _roll_out(self, agent: PersonaAgent, example: dspy.Example) -> Rollout:
        key = (agent.persona, str(example.before))
        reusable = self.config.gate_rule.needs_scores or self.config.batch_rule.pool_size(
            self.config.batch_size
        )
        if reusable and key in self._rollouts:
            return self._rollouts[key]
        self.n_rollouts += 1
        truth = str(example.response)
        rollout = Rollout(interaction_id=str(example.before), query=str(example.query), truth=truth)
        with stage("simulate"), span("simulate", interaction_id=rollout.interaction_id) as trace:
            try:
                inputs = example.inputs()
                prediction = await agent.acall(**inputs) if self._wait else agent(**inputs)
            except UnparsableAnswerError as error:
                rollout = replace(rollout, error=str(error))
            else:
                rollout = replace(
                    rollout,
                    answer=prediction.answer,
                    score=agent.context.task.answer.agreement(prediction.answer, truth),
                    tools=[step.call for step in prediction.steps],
                )
            trace.output(simulation=rollout)
        self._rollouts[key] = rollout
        return rollout

    async def _textual_loss(self, rollout: Rollout) -> Feedback:
        if self.config.skip_right and rollout.score == 1.0:
            return Feedback(interaction_id=rollout.interaction_id, skipped="the answer was right")
        with span("textual_loss", interaction_id=rollout.interaction_id) as trace:
            text = await self._ask(
                "textual_loss",
                TextualLoss,
                question=f"{self.agent.context.task.question}\n{self._cut(rollout.query)}",
                expected_answer=self._cut(rollout.truth),
                agent_response=self._cut(rollout.answer),
            )
            trace.output(feedback=text)
        if text is None:
            return Feedback(interaction_id=rollout.interaction_id, skipped="unreadable twice")
        return Feedback(interaction_id=rollout.interaction_id, text=text)

    def _cut(self, text: str) -> str:
        shorter = cut(text, self.agent.context.settings.max_input_chars)
        self._n_cut += shorter != text
        return shorter

    async def _ask(self, stage_name: str, signature: Any, **inputs: str) -> str | None:
        return await ask_text(
            stage_name,
            signature,
            lm=self._prompt_model,
            max_chars=self.config.max_chars,
            wait=self._wait,
            **inputs,
        )

    async def _each(self, jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Run all jobs: concurrently if waiting is possible, else one after the other.

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
