"""The parts of one alignment that call the agent: rollouts, textual loss, scores.

`alignment` puts them in order; `updates` has the update, and `checking` the tests of candidates.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import dspy

from optimizers.config import AlignmentConfig, checking_gate
from optimizers.contracts import Candidate, Journal
from optimizers.edits import GroundedLoss
from optimizers.interrupts import all_of
from optimizers.journal import Pieces
from optimizers.loss import TextualLoss
from optimizers.prompting import ask_text
from optimizers.record import Feedback, Rollout
from optimizers.trials import Past
from program.agent import PersonaAgent
from program.errors import AlignmentFailedError, ConfigError, UnparsableAnswerError
from program.loop import Step
from program.spans import span
from program.text import counted, cut
from program.usage import stage

if TYPE_CHECKING:
    from program.evidence import Evidence

T = TypeVar("T")


_version = cache(version)  # which reads a file


def writes(prompt_model: Any) -> bool:
    """Return whether the model of feedback and update can write; one that cannot says so."""
    lm = dspy.settings.lm if prompt_model is None else prompt_model
    return bool(getattr(lm, "summarises", True))


class AlignmentRun:
    """One alignment of one user's agent, in progress.

    Attributes:
        agent: The copy that is aligned; only `PersonaAlignment` and `optimizers.checking` change its persona.
        past: What earlier alignments of the user left.
        pending: A kept persona that later interactions test further.
        batch: The interactions that are learned from; empty before the first rollouts.
        rejected: Edits that were refused or did not help, newest last.
        n_tests: Steps in which candidates were tested, earlier alignments included.
        n_cut: Texts that were cut for the feedback of this step.
        tool_steps: Tool calls by interaction, to answer again from them.
        n_rollouts: How often the agent has answered a past interaction so far.
    """

    def __init__(
        self,
        config: AlignmentConfig,
        agent: PersonaAgent,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example],
        prompt_model: Any,
        past: Past,
        journal: Journal,
        wait: bool,
    ) -> None:
        self.config = config
        self.agent = agent
        self.past = past
        self.pending = past.pending
        self.n_rollouts = 0
        self.trainset = list(trainset)
        self.valset = list(valset)
        self.prompt_model = prompt_model
        self.wait = wait
        # Each rollout and each question to the model of feedback and update is one piece.
        self.pieces = Pieces(journal, agent.context.memory.user_id)
        self.batch: list[dspy.Example] = []
        # Texts that were cut for the feedback of this step.
        self.n_cut = 0
        # Rollouts by persona and interaction: a gate or a batch rule may need one again.
        self._rollouts: dict[tuple[str, str], Rollout] = {}
        # Tool calls by interaction, to answer again from them.
        self.tool_steps: dict[str, Sequence[Step]] = {}
        self.rejected = list(past.rejected)
        self.n_tests = past.n_tests

    def models(self) -> dict[str, Any]:
        """Return the names of the models and the versions of the packages that decide the outcome."""
        agent_model = str(dspy.settings.lm.model)
        prompt_model = agent_model if self.prompt_model is None else str(self.prompt_model.model)
        return {
            "model": agent_model,
            "prompt_model": prompt_model,
            "versions": {name: _version(name) for name in ("personaagent", "dspy")},
        }

    async def roll_out_batch(self) -> list[Rollout]:
        """Let the agent answer the batch as if it were new, under its current persona.

        Raises:
            AlignmentFailedError: None of the answers can be read.
            ConfigError: The batch rule returned something other than a part of the trainset.
        """
        self.batch = self.batch or await self._select_batch()
        rollouts = await self._roll_out_all(self.agent, self.batch)
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
        self.n_cut = 0
        return await self.each(self._textual_loss(rollout) for rollout in answered)

    async def score_both(
        self, rollouts: Sequence[Rollout], candidate: Candidate
    ) -> tuple[list[float], list[float]]:
        """Return the scores of the current persona and of ``candidate`` on the same interactions.

        Interactions that either persona leaves without an answer are left out. If the gate needs no
        scores, both lists are empty and no call is made.

        Args:
            rollouts: Of the batch, under the current persona.
            candidate: The rewrite, or the edited persona.
        """
        if not self.config.gate_rule.needs_scores:
            return [], []
        changed = self.changed(candidate)
        parent = await self._roll_out_all(self.agent, self.valset) if self.valset else rollouts
        rewritten = await self._roll_out_all(changed, self.valset or self.batch)
        pairs = [
            (before.score, after.score)
            for before, after in zip(parent, rewritten, strict=True)
            if before.score is not None and after.score is not None
        ]
        return [before for before, _ in pairs], [after for _, after in pairs]

    def changed(self, candidate: Candidate) -> PersonaAgent:
        """Return a copy of the agent under a candidate."""
        changed: PersonaAgent = self.agent.deepcopy()
        changed.persona = candidate.persona
        return changed

    def check_items(self) -> list[dspy.Example]:
        """Return the interactions that test candidates, newest first: older than the batch, never in it."""
        gate = checking_gate(self.config.gate_rule)
        if gate is None:
            return []
        if self.valset:
            return self.valset[::-1]
        learned_from = {example.before for example in self.batch}
        first = next(n for n, example in enumerate(self.trainset) if example.before in learned_from)
        return self.trainset[max(0, first - gate.check_items) : first][::-1]

    def evidence(self) -> list[Evidence]:
        """Return the facts that learning may see.

        None of them rests on a check item, and the person took none of them out.
        """
        if not self.config.evidence:
            return []
        checked = {str(example.before) for example in self.check_items()}
        hidden = self.agent.parts.hidden if self.agent.parts else ()
        return [item for item in self.agent.context.evidence_at(None, checked) if item.key not in hidden]

    def facts(self) -> str:
        """Return the facts as the model of feedback reads them."""
        return "\n".join(f"- {item.text}" for item in [*self.evidence(), *self._bias()]) or "none yet"

    def named_facts(self, shown: Sequence[str]) -> str:
        """Return the facts as the model of edits reads them: by name, with those that are shown marked."""
        named = [
            f"- {item.kind} ({'shown' if item.kind in shown else 'not shown'}): {item.text}"
            for item in self.evidence()
        ]
        return "\n".join([*named, *(f"- {item.text}" for item in self._bias())]) or "none yet"

    def _bias(self) -> list[Evidence]:
        from optimizers.evidence import agent_bias  # its patterns take 10 ms to compile

        learned_from = {str(example.before) for example in self.batch}
        rollouts = [
            rollout
            for (persona, interaction_id), rollout in self._rollouts.items()
            if persona == self.agent.persona and interaction_id in learned_from
        ]
        return agent_bias(rollouts)

    async def _select_batch(self) -> list[dspy.Example]:
        rule, size = self.config.batch_rule, self.config.batch_size
        pool_size = rule.pool_size(size)
        pool = await self._roll_out_all(self.agent, self.trainset[-pool_size:] if pool_size else [])
        batch = rule.select(self.trainset, [rollout.score for rollout in pool], size)
        ids = [example.before for example in batch]
        known = {example.before for example in self.trainset}
        if not ids or len(ids) > size or len(set(ids)) < len(ids) or not known.issuperset(ids):
            raise ConfigError(
                f"batch rule {type(rule).__name__!r} must return 1 to {size} different examples of the "
                f"trainset, got {len(ids)}"
            )
        return batch

    async def _roll_out_all(self, agent: PersonaAgent, examples: Sequence[dspy.Example]) -> list[Rollout]:
        return await self.each(self.roll_out(agent, example) for example in examples)

    async def roll_out(
        self, agent: PersonaAgent, example: dspy.Example, steps: Sequence[Step] | None = None
    ) -> Rollout:
        """Let an agent answer one past interaction as if it were new.

        Args:
            agent: The agent, under its persona.
            example: The interaction.
            steps: Tool calls of an earlier rollout, to answer from them; ``None`` for new ones.
        """
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
            data = await self.pieces.run(
                agent.persona,
                rollout.interaction_id,
                "rollout" if steps is None else "check answer",
                lambda: self._answer(agent, example, steps),
            )
            if "error" in data:
                rollout = replace(rollout, error=data["error"])
            else:
                made = [
                    Step(**{**step, "interaction_ids": tuple(step["interaction_ids"])})
                    for step in data["steps"]
                ]
                rollout = replace(
                    rollout,
                    answer=data["answer"],
                    score=agent.context.task.answer.agreement(data["answer"], truth),
                    tools=[step.call for step in made],
                    likelihood=data["likelihood"],
                )
                self.tool_steps.setdefault(rollout.interaction_id, tuple(made))
            trace.output(simulation=rollout)
        self._rollouts[key] = rollout
        return rollout

    async def _answer(
        self, agent: PersonaAgent, example: dspy.Example, steps: Sequence[Step] | None
    ) -> dict[str, Any]:
        """Return the agent's answer as JSON data, or why there is none."""
        inputs = {**example.inputs(), **({"truth": str(example.response)} if self.config.graded else {})}
        if steps is not None:
            inputs["steps"] = steps
        try:
            prediction = await agent.acall(**inputs) if self.wait else agent(**inputs)
        except UnparsableAnswerError as error:
            return {"error": str(error)}
        return {
            "answer": prediction.answer,
            "likelihood": prediction.likelihood,
            "steps": [asdict(step) for step in prediction.steps],
        }

    async def _textual_loss(self, rollout: Rollout) -> Feedback:
        if self.config.skip_right and rollout.score == 1.0:
            return Feedback(interaction_id=rollout.interaction_id, skipped="the answer was right")
        if self.config.edits and not writes(self.prompt_model):
            return Feedback(interaction_id=rollout.interaction_id, skipped="the model cannot write")
        with span("textual_loss", interaction_id=rollout.interaction_id) as trace:
            text = await self.ask(
                "textual_loss",
                rollout.interaction_id,
                GroundedLoss if self.config.evidence else TextualLoss,
                question=f"{self.agent.context.task.question}\n{self._cut(rollout.query)}",
                expected_answer=self._cut(rollout.truth),
                agent_response=self._cut(rollout.answer),
                **({"facts": self.facts()} if self.config.evidence else {}),
            )
            trace.output(feedback=text)
        if text is None:
            return Feedback(interaction_id=rollout.interaction_id, skipped="unreadable twice")
        return Feedback(interaction_id=rollout.interaction_id, text=text)

    def _cut(self, text: str) -> str:
        shorter = cut(text, self.agent.context.settings.max_input_chars)
        self.n_cut += shorter != text
        return shorter

    async def ask(self, stage_name: str, interaction_id: str, signature: Any, **inputs: str) -> str | None:
        """Return a text of the model of feedback and update; ``None`` if it cannot be used twice."""

        async def work() -> str | None:
            return await ask_text(
                stage_name,
                signature,
                lm=self.prompt_model,
                max_chars=self.config.max_chars,
                wait=self.wait,
                **inputs,
            )

        text: str | None = await self.pieces.run(self.agent.persona, interaction_id, stage_name, work)
        return text

    async def each(self, jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Run all jobs: concurrently if waiting is possible, else one after the other.

        The first failure stops the others before their next call.
        """
        if not self.wait:
            return [await job for job in jobs]
        return await all_of(jobs)
