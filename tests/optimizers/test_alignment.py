"""Algorithm 1: what it calls, how often, with what, and what it never does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from optimizers import PAPER, PersonaAlignment, examples
from program.agent import PersonaAgent
from program.answers import Labels
from program.errors import (
    AlignmentFailedError,
    BudgetExceededError,
    ConfigError,
    EmptyHistoryError,
)
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.task import Item, Task
from program.tools import default_tools
from program.usage import Budget

MUSIC = Task(
    name="music",
    question="Which music does this time of day call for: jazz or rock?",
    answer=Labels(("jazz", "rock")),
    read_item=lambda item: Item(item["query"], item["response"]),
    read_query=str.strip,
)
RULE = "This user hears jazz at night and rock by day."
TIMES = ["night", "day", "night", "day"]


def memory(times: list[str] = TIMES) -> EpisodicMemory:
    return EpisodicMemory(
        "ana",
        [
            Interaction(
                id=f"i{n}",
                user_id="ana",
                query=f"number {n}, {time}",
                response="jazz" if time == "night" else "rock",
            )
            for n, time in enumerate(times)
        ],
    )


def student(tmp_path: Path, times: list[str] = TIMES, persona: str = "You play music.") -> PersonaAgent:
    tools = default_tools(tmp_path, wikipedia=False)
    return PersonaAgent.for_user("ana", memory(times), tools, task=MUSIC, persona=persona)


def is_loss(system: str) -> bool:
    return "meticulous and critical evaluator" in system


def is_update(system: str) -> bool:
    return "You refine the system prompt" in system


def listener(
    loss: Callable[[str], Any] = lambda user: f"Learn this. {RULE}",
    update: Callable[[str], Any] = lambda user: f"You play music. {RULE}",
) -> Callable[[str, str], Any]:
    """A model whose answers obey the persona: rock always, unless the persona holds the rule."""

    def reply(system: str, user: str) -> Any:
        if is_loss(system):
            return loss(user)
        if is_update(system):
            return update(user)
        done = user.count(" gave:\n")
        query = user.split("[[ ## query ## ]]")[1].split("[[ ##")[0]
        answer = "jazz" if RULE in system and "night" in query else "rock"
        step = [
            {"tool": "search_memory", "query": "time"},
            {"tool": "read_profile"},
            {"tool": "finish", "answer": answer},
        ]
        return {"thought": "", "action": step[min(done, 2)]}

    return reply


def align(program: PersonaAgent, reply: Any, **options: Any) -> tuple[PersonaAgent, list[tuple[str, str]]]:
    lm = scripted_lm(reply)
    with dspy.context(lm=lm):
        aligned = PersonaAlignment(**options).compile(
            program, trainset=examples(program.context.memory, program.context.task)
        )
    return aligned, lm.engine.prompts


def score(program: PersonaAgent, reply: Any) -> float:
    with dspy.context(lm=scripted_lm(reply)):
        right = [
            program(query=f"new {time}").answer == ("jazz" if time == "night" else "rock") for time in TIMES
        ]
    return sum(right) / len(right)


def test_score_rises_from_half_to_one(tmp_path: Path) -> None:
    program = student(tmp_path)
    assert score(program, listener()) == 0.5
    aligned, _ = align(program, listener())
    assert score(aligned, listener()) == 1.0
    assert RULE in aligned.persona
    assert program.persona == "You play music."


def test_paper_preset_makes_exactly_the_predicted_calls(tmp_path: Path) -> None:
    program = student(tmp_path)
    with dspy.context(lm=scripted_lm(listener())):
        plan = PersonaAlignment().plan(program, examples(memory(), MUSIC))
    assert (plan.n_rollouts, plan.loss_calls, plan.update_calls) == (3, 3, 1)
    assert plan.calls == (3 * 3 + 3 + 1, 3 * 6 + 3 + 1)
    aligned, prompts = align(program, listener())
    assert len(prompts) == 13 == plan.calls[0]
    record = aligned.alignment
    assert record.n_rollouts == 3
    assert {stage: usage.calls for stage, usage in record.usage.items()} == {
        "simulate": 9,
        "textual_loss": 3,
        "update": 1,
    }
    assert [s.interaction_id for s in record.steps[0].rollouts] == ["i1", "i2", "i3"]
    assert record.config == PAPER


@pytest.mark.parametrize(("steps", "n"), [(0, 3), (1, 1), (2, 3), (3, 4)])
def test_calls_follow_the_plan_for_other_sizes(tmp_path: Path, steps: int, n: int) -> None:
    program = student(tmp_path)
    optimizer = PersonaAlignment(steps=steps, batch_size=n)
    trainset = examples(memory(), MUSIC)
    lm = scripted_lm(listener())
    with dspy.context(lm=lm):
        plan = optimizer.plan(program, trainset)
        aligned = optimizer.compile(program, trainset=trainset)
    assert plan.n_rollouts == aligned.alignment.n_rollouts == steps * n
    assert len(lm.engine.prompts) == plan.calls[0] == steps * (3 * n + n + 1)


async def test_async_compile_does_the_same(tmp_path: Path) -> None:
    program = student(tmp_path)
    lm = scripted_lm(listener())
    with dspy.context(lm=lm):
        aligned = await PersonaAlignment().acompile(program, trainset=examples(memory(), MUSIC))
    assert RULE in aligned.persona
    assert len(lm.engine.prompts) == 13


def test_a_rollout_never_sees_its_own_interaction_or_later_ones(tmp_path: Path) -> None:
    _, prompts = align(student(tmp_path), listener())
    rollouts = [user for system, user in prompts if not is_loss(system) and not is_update(system)]
    for number in (1, 2, 3):
        for user in rollouts:
            query = user.split("[[ ## query ## ]]")[1].split("[[ ##")[0]
            if f"number {number}," in query:
                steps = user.split("[[ ## steps ## ]]")[1]
                later = [f"number {n}," for n in range(number, 4)]
                assert not any(text in steps for text in later)


def test_loss_sees_question_truth_and_answer_but_not_the_persona(tmp_path: Path) -> None:
    _, prompts = align(student(tmp_path, persona="SECRET persona."), listener())
    losses = [pair for pair in prompts if is_loss(pair[0])]
    assert len(losses) == 3
    for system, user in losses:
        assert "SECRET" not in system + user
        assert MUSIC.question in user


def test_one_update_sees_the_persona_and_all_feedback(tmp_path: Path) -> None:
    numbers = iter(range(1, 4))
    reply = listener(loss=lambda user: f"Feedback number {next(numbers)}.")
    _, prompts = align(student(tmp_path, persona="OLD persona."), reply)
    ((_, user),) = [pair for pair in prompts if is_update(pair[0])]
    assert "OLD persona." in user
    for number in (1, 2, 3):
        assert f"{number}. Feedback number {number}." in user


def test_every_iteration_rolls_out_the_current_persona(tmp_path: Path) -> None:
    aligned, _ = align(student(tmp_path), listener(), steps=2)
    first, second = aligned.alignment.steps
    assert (first.score, second.score) == (2 / 3, 1.0)
    assert second.persona_before == first.persona_after


def test_skip_right_saves_the_loss_and_the_update(tmp_path: Path) -> None:
    aligned, prompts = align(student(tmp_path, persona=f"You play. {RULE}"), listener(), skip_right=True)
    assert len(prompts) == 9
    assert aligned.persona == f"You play. {RULE}"
    assert aligned.alignment.steps[0].note == "no feedback, so nothing to change"


def test_gate_best_refuses_a_worse_persona(tmp_path: Path) -> None:
    spoiled = listener(update=lambda user: "You forgot everything.")
    aligned, _ = align(student(tmp_path, persona=f"You play. {RULE}"), spoiled, gate="best")
    decision = aligned.alignment.steps[0].decision
    assert aligned.persona == f"You play. {RULE}"
    assert not decision.accept
    assert decision.numbers == {"before": 1.0, "after": 2 / 3, "n": 3.0}


def test_gate_best_keeps_a_better_one_and_runs_as_often_as_planned(tmp_path: Path) -> None:
    program = student(tmp_path)
    optimizer = PersonaAlignment(gate="best", steps=2)
    trainset = examples(memory(), MUSIC)
    with dspy.context(lm=scripted_lm(listener())):
        plan = optimizer.plan(program, trainset)
        aligned = optimizer.compile(program, trainset=trainset)
    assert RULE in aligned.persona
    # The second rewrite is the same text, so its evaluation is saved.
    assert plan.n_rollouts == 9
    assert aligned.alignment.n_rollouts == 6


def test_hardest_batch_holds_the_wrong_answers(tmp_path: Path) -> None:
    program = student(tmp_path, times=["night", "day", "day", "day", "day"])
    aligned, _ = align(program, listener(), batch="hardest", batch_size=2)
    assert [s.interaction_id for s in aligned.alignment.steps[0].rollouts] == ["i0", "i4"]
    assert aligned.alignment.n_rollouts == 5


def test_balanced_batch_takes_each_response_in_turn(tmp_path: Path) -> None:
    times = ["night", "night", "day", "day", "day"]
    aligned, _ = align(student(tmp_path, times=times), listener(), batch="balanced")
    assert [s.interaction_id for s in aligned.alignment.steps[0].rollouts] == ["i1", "i3", "i4"]


def test_separate_prompt_model_gets_feedback_and_update_only(tmp_path: Path) -> None:
    prompt_model = scripted_lm(listener())
    aligned, prompts = align(student(tmp_path), listener(), prompt_model=prompt_model)
    assert len(prompts) == 9
    assert len(prompt_model.engine.prompts) == 4
    assert aligned.alignment.usage["update"].calls == 1
    assert aligned.alignment.prompt_model == prompt_model.model


def test_one_unreadable_feedback_and_update_are_asked_for_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def once(kind: str, good: str) -> Callable[[str], Any]:
        def reply(user: str) -> Any:
            calls.append(kind)
            return "" if calls.count(kind) == 1 else good

        return reply

    reply = listener(once("loss", "F."), once("update", f"New. {RULE}"))
    aligned, prompts = align(student(tmp_path), reply)
    assert aligned.persona == f"New. {RULE}"
    assert (calls.count("loss"), calls.count("update")) == (4, 2)
    assert len(prompts) == 15


def test_update_unreadable_twice_keeps_the_persona_and_says_so(tmp_path: Path) -> None:
    aligned, _ = align(student(tmp_path), listener(update=lambda user: " "))
    step = aligned.alignment.steps[0]
    assert aligned.persona == "You play music."
    assert step.note == "the rewrite could not be used twice, the old persona stays"
    assert not step.decision.accept


def test_overlong_rewrite_is_not_a_persona(tmp_path: Path) -> None:
    aligned, _ = align(student(tmp_path), listener(update=lambda user: "x" * 300),
                       max_chars=200)  # fmt: skip
    assert aligned.persona == "You play music."


def test_outage_is_raised_and_never_becomes_feedback(tmp_path: Path) -> None:
    def down(user: str) -> Any:
        raise dspy.LMServerError("down")

    with pytest.raises(dspy.LMError):
        align(student(tmp_path), listener(loss=down))


def test_no_readable_rollout_ends_the_alignment(tmp_path: Path) -> None:
    def garbage(system: str, user: str) -> Any:
        return listener()(system, user) if is_loss(system) or is_update(system) else "garbage"

    with pytest.raises(AlignmentFailedError, match="none of 3 rollouts gave an answer"):
        align(student(tmp_path), garbage)


def test_one_unreadable_rollout_has_no_feedback_and_no_score(tmp_path: Path) -> None:
    def reply(system: str, user: str) -> Any:
        return (
            "garbage"
            if "number 2," in user.split("steps ## ]]")[0] and not is_loss(system)
            else listener()(system, user)
        )

    aligned, _ = align(student(tmp_path), reply)
    step = aligned.alignment.steps[0]
    assert [s.score for s in step.rollouts] == [1.0, None, 1.0]
    assert [f.interaction_id for f in step.feedback] == ["i1", "i3"]


def test_budget_stops_before_the_call(tmp_path: Path) -> None:
    lm = scripted_lm(listener())
    program = student(tmp_path)
    with dspy.context(lm=lm), pytest.raises(BudgetExceededError, match="limit is 5 calls"):
        PersonaAlignment(budget=Budget(max_calls=5)).compile(program, trainset=examples(memory(), MUSIC))
    assert len(lm.engine.prompts) == 5


def test_trainset_without_masks_is_refused_before_a_call(tmp_path: Path) -> None:
    lm = scripted_lm(listener())
    unmasked = dspy.Example(query="q", response="jazz").with_inputs("query")
    with dspy.context(lm=lm):
        with pytest.raises(ConfigError, match=r"`trainset\[0\]` has no `before`"):
            PersonaAlignment().compile(student(tmp_path), trainset=[unmasked])
        with pytest.raises(EmptyHistoryError):
            PersonaAlignment().compile(student(tmp_path), trainset=[])
    assert lm.engine.prompts == []


def test_settings_out_of_range_are_refused() -> None:
    for options in ({"steps": -1}, {"batch_size": 0}, {"batch": "newest"}, {"gate": "maybe"}, {"stepz": 1}):
        with pytest.raises(ConfigError):
            PersonaAlignment(**options)


def test_compile_events_reach_callbacks(tmp_path: Path) -> None:
    from dspy.utils.callback import BaseCallback

    class Heard(BaseCallback):  # type: ignore[misc]
        events: list[str] = []  # noqa: RUF012

        def on_compile_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            self.events.append("start")

        def on_compile_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            self.events.append("end")

    heard = Heard()
    with dspy.context(callbacks=[heard]):
        align(student(tmp_path), listener())
    assert heard.events == ["start", "end"]


def test_citations_become_questions_and_papers_without_one_are_left_out(tmp_path: Path) -> None:
    from program.task import get_task

    task = get_task("LaMP-1")
    papers = EpisodicMemory(
        "ana",
        [
            Interaction(id="p1", user_id="ana", query="On Tides", response="A Theory of Tides"),
            Interaction(id="p2", user_id="ana", query="On Wells", response=""),
            Interaction(id="p3", user_id="ana", query="On Rain", response="A Theory of Rain"),
        ],
    )
    trainset = examples(papers, task, seed=7, negatives=["Foreign Work"])
    assert [example.before for example in trainset] == ["p1", "p3"]
    for example in trainset:
        options = [f'[{n}]: "{title}"' for n, title in ((1, "Foreign Work"), (2, "Foreign Work"))]
        wrong = 0 if options[0] in example.query else 1
        assert options[wrong] in example.query
        assert example.response == ("[2]", "[1]")[wrong]
    assert [dict(e) for e in trainset] == [
        dict(e) for e in examples(papers, task, seed=7, negatives=["Foreign Work"])
    ]
