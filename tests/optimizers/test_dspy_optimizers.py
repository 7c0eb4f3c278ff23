from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy
import pytest
from tqdm import tqdm

from optimizers.dspy_optimizers import OptimizableAgent, PersonaProposer, persona_metric
from optimizers.silence import silence
from program.agent import PersonaAgent
from program.loop import Step
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.task import get_task
from program.tools import default_tools
from program.usage import Budget, UsageTracker, track_usage

TASK = get_task("LaMP-2M")
GOLD = dspy.Example(query="a film about rain", response="comedy", before="h1").with_inputs("query", "before")
STEP = Step(thought="", tool="search_memory", arguments={"query": "rain"}, observation="nothing")


@pytest.fixture
def agent(tmp_path: Any) -> PersonaAgent:
    history = [Interaction(id=f"h{i}", user_id="u", query=f"film {i}", response="comedy") for i in range(3)]
    memory = EpisodicMemory("u", history)
    return PersonaAgent.for_user(
        "u", memory, default_tools(tmp_path, wikipedia=False), task=TASK, persona="Be brief."
    )


def answering(answer: str) -> Callable[[str, str], Any]:
    def reply(system: str, user: str) -> dict[str, Any]:
        if "`action`" in user:
            return {"thought": "look", "action": {"tool": "search_memory", "query": "rain"}}
        return {"answer": answer}

    return reply


def test_the_metric_is_agreement_and_gives_feedback_only_when_asked() -> None:
    metric = persona_metric(TASK)
    wrong = dspy.Prediction(answer="action", steps=(STEP,))
    assert metric(GOLD, dspy.Prediction(answer="comedy", steps=())) == 1.0
    assert metric(GOLD, wrong) == 0.0
    asked = metric(GOLD, wrong, None, "agent.act", [])
    assert asked.score == 0.0
    assert asked.feedback == (
        "Asked about: a film about rain\n"
        "The agent used search_memory(rain) and answered 'action'. The user really said 'comedy'."
    )


def test_the_metric_scores_no_answer_zero() -> None:
    metric = persona_metric(TASK)
    assert metric(GOLD, None) == 0.0
    assert "could not be read" in metric(GOLD, dspy.Prediction(), None, "agent.act", []).feedback


def test_the_proposer_keeps_the_persona_if_no_rewrite_is_usable() -> None:
    proposer = PersonaProposer(max_chars=20)
    rows = {"act": [{"Feedback": "more rain"}]}
    for said, expected in (("Loves rain.", "Loves rain."), ("x" * 21, "old"), ("  ", "old")):
        with track_usage(UsageTracker(), scripted_lm(lambda system, user, said=said: said)):
            assert proposer({"act": "old"}, rows, ["act"]) == {"act": expected}


def test_copies_share_the_rollout_count_and_the_agent_is_unchanged(agent: PersonaAgent) -> None:
    optimizable = OptimizableAgent(agent)
    copied = optimizable.deepcopy()
    copied.agent.persona = "Be long."
    with track_usage(UsageTracker(), scripted_lm(answering("comedy"))):
        copied(query="a film", before="h2")
        optimizable(query="a film", before="h2")
    assert (optimizable.rollouts.count, agent.persona, optimizable.agent.persona) == (
        2,
        "Be brief.",
        "Be brief.",
    )


def test_an_unreadable_answer_is_an_empty_one(agent: PersonaAgent) -> None:
    with track_usage(UsageTracker(), scripted_lm(answering("no tag"))):
        assert OptimizableAgent(agent)(query="a film", before="h2").answer == ""


def test_a_budget_ends_a_compile_even_if_the_optimizer_swallows_the_error(agent: PersonaAgent) -> None:
    class Swallowing:
        def compile(self, student: Any, *, trainset: list[Any]) -> Any:
            for example in trainset * 3:
                try:
                    student(**example.inputs())
                except Exception:  # noqa: BLE001 - as DSPy's optimizers do
                    continue
            return student

    optimizable = OptimizableAgent(agent)
    with track_usage(UsageTracker(Budget(max_calls=5)), scripted_lm(answering("comedy"))):
        with pytest.raises(Exception, match="the limit is 5 calls"):
            optimizable.compile(Swallowing(), trainset=[GOLD])


def test_clearing_the_list_of_bars_does_not_break_another_compile() -> None:
    """DSPy empties tqdm's list of bars before each evaluation, also of bars that other threads make."""
    before = tqdm._instances
    with silence():
        bar = tqdm(total=3)
        tqdm._instances.clear()
        tqdm._instances.remove(bar)
        bar.close()
    assert tqdm._instances is before
