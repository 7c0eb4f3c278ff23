"""Every optimizer that DSPy exports works on an agent, and what it makes can be saved and loaded."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dspy
import numpy as np
import pytest
from dspy.clients import base_lm
from dspy.teleprompt.teleprompt import Teleprompter

from optimizers import OptimizableAgent, PersonaAlignment, examples, persona_metric
from program import (
    Budget,
    EpisodicMemory,
    Interaction,
    PersonaAgent,
    UsageTracker,
    default_tools,
    get_task,
    scripted_lm,
    track_usage,
)
from program.errors import ModelSetupError

TASK = get_task("LaMP-2M")
NOT_FOR_AGENTS = {
    "AvatarOptimizer": "compiles dspy.Avatar only, with a predictor that DSPy no longer has",
    "BootstrapFinetune": "trains weights, which needs a provider that can",
    "bootstrap_trace_data": "is a function that BootstrapFinetune and GEPA use",
}
"""Exported names that cannot compile an agent, and why."""


def reply(system: str, user: str) -> Any:
    if "`action`" in user:
        done = user.count(" gave:\n")
        look: Any = {"tool": "search_memory", "query": "heist"}
        finish = {"tool": "finish", "answer": "comedy"}
        return {"thought": "", "action": [look, {"tool": "read_profile"}, finish][min(done, 2)]}
    # Ours say "Reply with a JSON object", DSPy's own adapter "Respond with a JSON object".
    last = user.strip().splitlines()[-1]
    fields = re.findall(r"`(\w+)`", last) if " with a JSON object" in last else []
    text = "You know this user's comedies."
    return dict.fromkeys(fields, text) if fields else text


HISTORY = [
    Interaction(id=str(n), user_id="u", query=f"film number {n}", response=tag)
    for n, tag in enumerate(["comedy", "action", "comedy", "comedy"])
]


def new_agent(folder: Path) -> PersonaAgent:
    tools = default_tools(folder, wikipedia=False)
    return PersonaAgent.for_user("u", EpisodicMemory("u", HISTORY), tools, task=TASK, persona="Be brief.")


@pytest.fixture
def agent(tmp_path: Path) -> PersonaAgent:
    return new_agent(tmp_path)


class Lengths(dspy.Embedder):  # type: ignore[misc]
    """Embeds a text by its length."""

    def __init__(self) -> None:
        super().__init__(lambda texts: np.array([[len(text), 1.0] for text in texts], dtype=np.float32))


def metric(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
    return persona_metric(TASK)(gold, pred, trace)


def make(name: str, lm: Any) -> Any:
    """Return an optimizer with the smallest settings it takes."""
    few: dict[str, Any] = {"metric": metric, "max_bootstrapped_demos": 1, "max_labeled_demos": 1}
    search = {**few, "num_candidate_programs": 1, "num_threads": 1}
    settings: dict[str, dict[str, Any]] = {
        "BetterTogether": {"metric": metric},
        "BootstrapFewShot": few,
        "BootstrapFewShotWithOptuna": search,
        "BootstrapFewShotWithRandomSearch": search,
        "BootstrapRS": search,
        "LabeledFewShot": {"k": 2},
        "COPRO": {"metric": metric, "breadth": 2, "depth": 1, "prompt_model": lm},
        "Ensemble": {},
        "InferRules": {**few, "num_candidates": 1, "num_rules": 1, "num_threads": 1},
        "KNNFewShot": {"k": 2, "vectorizer": Lengths(), **few},
        "SIMBA": {"metric": metric, "bsize": 2, "num_candidates": 2, "max_steps": 1, "num_threads": 1},
        "GEPA": {"metric": metric, "max_metric_calls": 4, "reflection_lm": lm, "num_threads": 1},
        "MIPROv2": {
            "metric": metric,
            "auto": None,
            "num_candidates": 2,
            "num_threads": 1,
            "prompt_model": lm,
        },
    }
    if name == "KNNFewShot":
        settings[name]["trainset"] = examples(EpisodicMemory("u", HISTORY), TASK)
    if name == "BetterTogether":
        settings[name]["p"] = make("BootstrapRS", lm)
    return (getattr(dspy, name, None) or getattr(dspy.teleprompt, name))(**settings[name])


def arguments_of(name: str, trainset: list[Any]) -> dict[str, Any]:
    """Return the arguments of an optimizer's ``compile`` besides the program."""
    arguments: dict[str, Any] = {"trainset": trainset}
    if name in ("GEPA", "MIPROv2", "InferRules", "BetterTogether"):
        arguments["valset"] = trainset
    more: dict[str, dict[str, Any]] = {
        "BetterTogether": {"strategy": "p"},
        "BootstrapFewShotWithOptuna": {"max_demos": 1},
        "COPRO": {"eval_kwargs": {"num_threads": 1, "display_progress": False}},
        "MIPROv2": {
            "num_trials": 1,
            "minibatch": False,
            "max_bootstrapped_demos": 1,
            "max_labeled_demos": 1,
        },
    }
    return {} if name == "KNNFewShot" else {**arguments, **more.get(name, {})}


EXPORTED = sorted(
    {*dspy.teleprompt.__all__}
    | {
        name
        for name, value in vars(dspy).items()
        if isinstance(value, type) and issubclass(value, Teleprompter) and value is not Teleprompter
    }
)
WORKING = [name for name in EXPORTED if name not in NOT_FOR_AGENTS]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", WORKING)
def test_an_exported_optimizer_compiles_an_agent_that_answers_and_is_saved(
    name: str, agent: PersonaAgent, tmp_path: Path
) -> None:
    lm = scripted_lm(reply)
    with dspy.context(lm=lm):
        if name == "BetterTogether":
            agent.set_lm(lm)
        optimizer = make(name, lm)
        if name == "Ensemble":
            assert optimizer.compile([agent, agent.deepcopy()])(query="a heist")[0].answer == "comedy"
            return
        compiled = optimizer.compile(agent, **arguments_of(name, examples(agent.context.memory, TASK)))
        assert compiled(query="a heist").answer == "comedy"
        assert agent.persona == "Be brief.", "the student does not change"
        if name == "BetterTogether":
            compiled.set_lm(None)  # a scripted model cannot be saved
        compiled.save(str(tmp_path / "agent.json"))
        loaded = new_agent(tmp_path)
        loaded.load(str(tmp_path / "agent.json"))
        back = pickle.loads(cloudpickle.dumps(compiled))
        for program in (loaded, back, copy.copy(compiled), compiled.deepcopy()):
            assert (program.persona, len(program.act.demos)) == (compiled.persona, len(compiled.act.demos))
            assert program(query="a heist").answer == "comedy"


@pytest.mark.parametrize("name", ["COPRO", "GEPA", "InferRules", "MIPROv2", "SIMBA"])
def test_an_optimizer_of_instructions_compiles_an_optimizable_agent(name: str, agent: PersonaAgent) -> None:
    lm = scripted_lm(reply)
    with dspy.context(lm=lm):
        student = OptimizableAgent(agent)
        persona = student.compile(make(name, lm), **arguments_of(name, examples(agent.context.memory, TASK)))
    assert persona
    assert student.rollouts.count > 0
    assert agent.persona == "Be brief."


def test_every_exported_optimizer_is_tried_or_has_a_reason() -> None:
    assert set(NOT_FOR_AGENTS) <= set(EXPORTED)
    assert len(WORKING) >= 13


def test_demos_do_not_break_the_loop(agent: PersonaAgent) -> None:
    with dspy.context(lm=scripted_lm(reply)):
        optimizer = dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=2, max_labeled_demos=2)
        compiled = optimizer.compile(agent, trainset=examples(agent.context.memory, TASK))
        assert compiled.act.demos
        assert compiled(query="a heist").answer == "comedy"


def test_copies_answer_alike_and_do_not_share_a_persona(agent: PersonaAgent) -> None:
    for copied in (copy.copy(agent), copy.deepcopy(agent), agent.deepcopy()):
        with dspy.context(lm=scripted_lm(reply)):
            assert copied(query="a heist").answer == "comedy"
    changed = agent.deepcopy()
    changed.persona = "Be long."
    assert agent.persona == "Be brief."


def test_a_whole_program_is_saved_and_answers_in_a_new_process(agent: PersonaAgent, tmp_path: Path) -> None:
    agent.save(str(tmp_path / "program"), save_program=True)
    code = f"""
import dspy
from program import scripted_lm
agent = dspy.load({str(tmp_path / "program")!r}, allow_pickle=True)
finish = {{"thought": "", "action": {{"tool": "finish", "answer": "comedy"}}}}
with dspy.context(lm=scripted_lm(lambda system, user: finish)):
    print(agent(query="a heist").answer, "|", agent.persona)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "comedy | Be brief.", done.stderr


def test_a_model_set_on_the_agent_is_counted_and_leaves_no_history(agent: PersonaAgent) -> None:
    own, other = scripted_lm(reply), scripted_lm(lambda system, user: "never asked")
    agent.set_lm(own)
    base_lm.GLOBAL_HISTORY.clear()
    dspy.configure(disable_history=False)
    with dspy.context(lm=other):
        agent(query="a heist")
    with track_usage(UsageTracker(Budget(max_calls=3)), other) as tracker:
        agent(query="a heist")
    assert tracker.total().calls == 3
    agent(query="a heist")  # no model is configured
    assert (len(own.engine.prompts), other.engine.prompts) == (9, [])
    assert [len(part.history) for part in (own, agent, agent.act)] == [0, 0, 0]
    assert list(base_lm.GLOBAL_HISTORY) == []


def test_alignment_uses_the_model_that_is_set_on_the_agent(agent: PersonaAgent) -> None:
    own = scripted_lm(reply)
    agent.set_lm(own)
    aligned = PersonaAlignment().compile(agent, trainset=examples(agent.context.memory, TASK))
    assert aligned.alignment.model == own.model
    calls = {stage: usage.calls for stage, usage in aligned.alignment.usage.items()}
    assert calls == {"simulate": 9, "textual_loss": 3, "update": 1}


def test_without_a_model_the_error_says_what_to_do(agent: PersonaAgent) -> None:
    trainset = examples(agent.context.memory, TASK)
    with pytest.raises(ModelSetupError, match=r"no language model is configured; call `dspy.configure"):
        agent(query="a heist")
    with pytest.raises(ModelSetupError, match="no language model is configured"):
        PersonaAlignment().compile(agent, trainset=trainset)


def test_writing_into_the_signature_of_a_copy_leaves_the_original(agent: PersonaAgent) -> None:
    for copied in (copy.copy(agent), copy.deepcopy(agent), agent.deepcopy()):
        copied.act.signature.instructions = "Written in place."
        assert agent.persona == "Be brief."
