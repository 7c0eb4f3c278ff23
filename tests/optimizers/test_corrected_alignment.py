"""Alignment of a corrected persona: no preset and no optimizer undoes what the person said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dspy
import pytest

from optimizers.alignment import PersonaAlignment
from optimizers.config import GROUNDED, PAPER, AlignmentConfig
from optimizers.dspy_optimizers import OptimizableAgent
from optimizers.editing import Source, apply_edits
from optimizers.edits import Edit
from optimizers.stored import align_user
from optimizers.trainset import examples
from program.agent import PersonaAgent
from program.corrections import correct
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.persona import MAX_CHARS, Persona
from program.store import UserStore
from program.task import get_task

TASK = get_task("LaMP-2M")
LEARNED = Persona().with_line("Likes heists.", ["1"]).with_line("Likes tea.", ["2"])
CORRECTED = correct(LEARNED, [], line=1, text="Likes comedies.", day="2026-11-26")
PRESETS = [PAPER, replace(GROUNDED, graded=False)]


def history(n: int) -> list[Interaction]:
    return [
        Interaction(id=str(i), user_id="ana", query=f"film number{i}", response="action") for i in range(n)
    ]


def rebel(prompts: list[str], rewrite: str = "Likes heists.\nNew text.") -> dspy.LM:
    """A model that tries to undo what the person said, and whose answers improve only without it."""

    def reply(system: str, user: str) -> Any:
        if "critical evaluator" in system:
            return "This user likes heists."
        if "refine the system prompt" in system:
            prompts.append(user)
            return rewrite
        if "You maintain the list" in system:
            prompts.append(user)
            return {
                "edits": [
                    {"op": "remove", "line": 2, "text": "", "cites": [1]},
                    {"op": "add", "line": 0, "text": "Really likes heists.", "cites": [1]},
                    {"op": "add", "line": 0, "text": "Likes action.", "cites": [1]},
                ]
            }
        if "`action`" in user:
            return {"thought": "", "action": {"tool": "finish", "answer": "comedy"}}
        return {"answer": "action" if "Likes action." in system else "comedy"}

    lm = scripted_lm(reply)
    lm.uses_tools = False
    return lm


def holds(persona: Persona) -> bool:
    own = [line.text for line in persona.lines if line.corrected]
    return own == ["Likes comedies."] and "heists" not in persona.render([])


@pytest.mark.parametrize("config", PRESETS, ids=["paper", "grounded"])
def test_no_preset_undoes_a_correction_in_the_store(config: AlignmentConfig, location: str) -> None:
    prompts: list[str] = []
    with UserStore(location) as store, dspy.context(lm=rebel(prompts)):
        store.append("ana", history(16), task="LaMP-2M")
        store.add_persona("ana", LEARNED.render([]), source="edit", why="w", parts=LEARNED.as_dict())
        store.correct("ana", line="Likes heists.", text="Likes comedies.")
        aligned = align_user(store, "ana", config, wikipedia=False)
        version = store.persona("ana")
        assert version is not None
        assert (version.version, version.source) == (3, "alignment")
        # What the gate decided on is what is stored.
        assert (version.text, version.parts is not None) == (aligned.persona, True)
        assert holds(Persona.from_dict(version.parts or {}))
        align_user(store, "ana", config, wikipedia=False)
        assert holds(Persona.from_dict((store.persona("ana") or version).parts or {}))
    assert "Likes comedies." in prompts[0]


@pytest.mark.parametrize("config", PRESETS, ids=["paper", "grounded"])
def test_no_preset_undoes_a_correction_in_memory(config: AlignmentConfig) -> None:
    prompts: list[str] = []
    memory = EpisodicMemory("ana", history(16))
    agent = PersonaAgent.for_user("ana", memory, task=TASK, persona=CORRECTED)
    with dspy.context(lm=rebel(prompts)):
        aligned = PersonaAlignment(config, steps=2).compile(agent, trainset=examples(memory, TASK))
    assert aligned.parts is not None
    assert holds(aligned.parts)
    assert aligned.persona != agent.persona


def test_the_paper_says_that_it_put_them_back_and_a_rewrite_that_is_too_long_is_cut() -> None:
    memory = EpisodicMemory("ana", history(4))
    agent = PersonaAgent.for_user("ana", memory, task=TASK, persona=CORRECTED)
    long = " ".join(f"Advice number {number} matters." for number in range(1000))[: MAX_CHARS - 5].strip()
    with dspy.context(lm=rebel([], long)):
        aligned = PersonaAlignment(PAPER).compile(agent, trainset=examples(memory, TASK))
    assert aligned.alignment.steps[0].note == "what the user corrected was put back"
    assert len(aligned.persona) <= MAX_CHARS
    assert aligned.persona.endswith("- Likes comedies.")


def test_the_model_of_edits_is_told_and_its_edits_are_refused_with_a_reason() -> None:
    prompts: list[str] = []
    memory = EpisodicMemory("ana", history(16))
    agent = PersonaAgent.for_user("ana", memory, task=TASK, persona=CORRECTED)
    with dspy.context(lm=rebel(prompts)):
        aligned = PersonaAlignment(PRESETS[1]).compile(agent, trainset=examples(memory, TASK))
    assert "2. Likes comedies. (written by the user: it stays)" in prompts[0]
    assert "add 'Likes heists.': the user took this out" in prompts[0]
    assert [str(refusal) for refusal in aligned.alignment.steps[0].refusals] == [
        "remove line 2: the user wrote this line",
        "add 'Really likes heists.': the user took this out: 'Likes heists.'",
    ]


def test_a_fact_that_the_person_took_out_is_told_to_no_model() -> None:
    asked: list[str] = []
    memory = EpisodicMemory("ana", history(16))
    shown = LEARNED.with_facts("counts")
    facts = PersonaAgent.for_user("ana", memory, task=TASK, persona=shown).context.evidence_at(None, ())
    for persona in (shown, correct(shown, facts, line=1, day="2026-11-26")):
        agent = PersonaAgent.for_user("ana", memory, task=TASK, persona=persona)
        with dspy.context(lm=rebel(asked)):
            PersonaAlignment(PRESETS[1]).compile(agent, trainset=examples(memory, TASK))
    assert ["counts" in prompt for prompt in asked] == [True, False]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (Edit(op="replace", line=2, text="Likes jazz.", cites=[1]), "the user wrote this line"),
        (Edit(op="remove", line=2, cites=[1]), "the user wrote this line"),
        (Edit(op="replace", line=1, text="likes HEISTS", cites=[1]), "took this out"),
        (Edit(op="add", text="Likes comedies.", cites=[1]), "there already"),
        (Edit(op="remove", line=3, cites=[1]), "there is no line 3"),
    ],
)
def test_an_edit_that_would_undo_a_correction_is_refused(edit: Edit, reason: str) -> None:
    source = Source(ids={1: "7"}, texts=[], max_chars=4000, max_edits=3)
    candidate, [refusal] = apply_edits(CORRECTED, [edit], source, [])
    assert candidate is None
    assert reason in refusal.reason


def test_a_stock_optimizer_gives_a_text_that_has_them() -> None:
    class Rewriting:
        def compile(self, student: Any, **_: Any) -> Any:
            student.agent.persona = "Likes heists. Be exact."
            return student

    memory = EpisodicMemory("ana", history(3))
    agent = PersonaAgent.for_user("ana", memory, task=TASK, persona=CORRECTED)
    with dspy.context(lm=rebel([])):
        text = OptimizableAgent(agent).compile(Rewriting(), trainset=examples(memory, TASK))
    assert text.startswith("Be exact.")
    assert text.endswith("- Likes comedies.")
