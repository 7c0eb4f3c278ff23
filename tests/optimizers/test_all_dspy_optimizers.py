"""Every optimizer that DSPy exports works on an agent, and what it makes can be saved and loaded."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from dspy.teleprompt.teleprompt import Teleprompter

from optimizers import OptimizableAgent, examples, persona_metric
from program import EpisodicMemory, Interaction, PersonaAgent, default_tools, get_task, scripted_lm

TASK = get_task("LaMP-2M")
NOT_FOR_AGENTS = {
    "BetterTogether": "fine-tunes weights",
    "BootstrapFinetune": "fine-tunes weights",
    "BootstrapFewShotWithOptuna": "needs a program without a persona to tune demos of",
    "AvatarOptimizer": "compiles dspy.Avatar only",
    "Teleprompter": "is the base class",
    "FinetuneTeleprompter": "is the base class of fine-tuning",
    "GRPO": "trains weights",
    "SignatureOptimizer": "is the old name of COPRO",
}
"""Exported optimizers that cannot work on an agent, and why."""


def reply(system: str, user: str) -> Any:
    if "`action`" in user:
        done = user.count(" gave:\n")
        look: Any = {"tool": "search_memory", "query": "heist"}
        finish = {"tool": "finish", "answer": "comedy"}
        return {"thought": "", "action": [look, {"tool": "read_profile"}, finish][min(done, 2)]}
    if "write the new system prompt" in user:
        return "You know this user's comedies."
    if "Reply with a JSON object" not in user:
        return "You know this user's comedies."
    fields = re.findall(r"`(\w+)`", user.rsplit("Reply with a JSON object", 1)[-1])
    return dict.fromkeys(fields, "You know this user's comedies.")


@pytest.fixture
def agent(tmp_path: Path) -> PersonaAgent:
    tags = ["comedy", "action", "comedy", "comedy"]
    history = [
        Interaction(id=str(n), user_id="u", query=f"film number {n}", response=tag)
        for n, tag in enumerate(tags)
    ]
    tools = default_tools(tmp_path, wikipedia=False)
    return PersonaAgent.for_user("u", EpisodicMemory("u", history), tools, task=TASK, persona="Be brief.")


class Lengths(dspy.Embedder):  # type: ignore[misc]
    """Embeds a text by its length."""

    def __init__(self) -> None:
        super().__init__(lambda texts: np.array([[len(text), 1.0] for text in texts], dtype=np.float32))


def metric(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
    return persona_metric(TASK)(gold, pred, trace)


def make(name: str, lm: Any) -> Any:
    """Return an optimizer with the smallest settings it takes."""
    few: dict[str, Any] = {"metric": metric, "max_bootstrapped_demos": 1, "max_labeled_demos": 1}
    settings: dict[str, dict[str, Any]] = {
        "BootstrapFewShot": few,
        "BootstrapFewShotWithRandomSearch": {**few, "num_candidate_programs": 1, "num_threads": 1},
        "BootstrapRS": {**few, "num_candidate_programs": 1, "num_threads": 1},
        "LabeledFewShot": {"k": 2},
        "COPRO": {"metric": metric, "breadth": 2, "depth": 1, "prompt_model": lm},
        "Ensemble": {},
        "InferRules": {**few, "num_candidates": 1, "num_rules": 1, "num_threads": 1},
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
    return getattr(dspy, name)(**settings[name])


EXPORTED = sorted(
    name
    for name in dir(dspy)
    if isinstance(getattr(dspy, name), type) and issubclass(getattr(dspy, name), Teleprompter)
)
WORKING = [name for name in EXPORTED if name not in NOT_FOR_AGENTS]


@pytest.mark.parametrize("name", WORKING)
def test_an_exported_optimizer_compiles_an_agent_that_answers_and_is_saved(
    name: str, agent: PersonaAgent, tmp_path: Path
) -> None:
    lm = scripted_lm(reply)
    trainset = examples(agent.context.memory, TASK)
    with dspy.context(lm=lm):
        if name == "KNNFewShot":
            few_shot = dspy.KNNFewShot(1, trainset, Lengths(), metric=metric, max_bootstrapped_demos=1)
            assert few_shot.compile(agent.deepcopy())(query="a heist").answer == "comedy"
            return
        optimizer = make(name, lm)
        if name == "Ensemble":
            assert optimizer.compile([agent, agent.deepcopy()])(query="a heist")[0].answer == "comedy"
            return
        # MIPROv2 pickles what it sees of a program, and actions are of types made at run time.
        student: Any = OptimizableAgent(agent, traced=name != "MIPROv2")
        arguments: dict[str, Any] = {"trainset": trainset}
        if name in ("GEPA", "MIPROv2", "InferRules"):
            arguments["valset"] = trainset
        if name == "MIPROv2":
            arguments |= {"num_trials": 1, "minibatch": False, "max_bootstrapped_demos": 0,
                          "max_labeled_demos": 0}  # fmt: skip
        if name == "COPRO":
            arguments["eval_kwargs"] = {"num_threads": 1, "display_progress": False}
        assert student.compile(optimizer, **arguments)
        compiled = agent if name != "BootstrapFewShot" else optimizer.compile(agent, trainset=trainset)
        assert compiled(query="a heist").answer == "comedy"
    assert agent.persona == "Be brief."
    compiled.save(str(tmp_path / "agent.json"))
    agent.deepcopy().load(str(tmp_path / "agent.json"))


def test_every_exported_optimizer_is_tried_or_has_a_reason() -> None:
    assert set(EXPORTED) == set(WORKING) | (set(NOT_FOR_AGENTS) & set(EXPORTED))
    assert len(WORKING) >= 10


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
