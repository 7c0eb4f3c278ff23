from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

from optimizers.alignment import PersonaAlignment
from optimizers.config import GROUNDED, PAPER, AlignmentConfig
from optimizers.stored import align_user
from optimizers.trainset import examples
from optimizers.trials import Past
from program.agent import PersonaAgent
from program.errors import DataError
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.persona import Line, Persona, first_persona
from program.store import UserStore
from program.task import get_task

TASK = get_task("LaMP-2M")
AGREEMENT = replace(GROUNDED, graded=False)


def history(n: int, tag: str = "action", start: int = 0) -> list[Interaction]:
    return [
        Interaction(id=str(i), user_id="ana", query=f"film number{i}", response=tag)
        for i in range(start, start + n)
    ]


def scripted(
    edits: Callable[[str], list[dict[str, Any]]],
    answer: Callable[[str], str] = lambda system: "action" if "Likes action." in system else "comedy",
) -> dspy.LM:
    """A model that answers by what the persona says, criticises, and proposes ``edits``."""

    def reply(system: str, user: str) -> Any:
        if "critical evaluator" in system:
            return "This user likes action."
        if "refine the system prompt" in system:
            return "Rewritten: " + edits(user)[0]["text"]
        if "You maintain the list" in system:
            return {"edits": edits(user)}
        if "`action`" in user:
            return {"thought": "", "action": {"tool": "finish", "answer": "comedy"}}
        return {"answer": answer(system)}

    lm = scripted_lm(reply)
    lm.uses_tools = False
    return lm


def add(text: str, *cites: int) -> dict[str, Any]:
    return {"op": "add", "line": 0, "text": text, "cites": list(cites)}


def align(
    lm: dspy.LM,
    interactions: list[Interaction],
    config: AlignmentConfig = AGREEMENT,
    *,
    facts: Sequence[str] = (),
    **options: Any,
) -> PersonaAgent:
    memory = EpisodicMemory("ana", interactions)
    persona = first_persona().with_facts(*facts)
    agent = PersonaAgent.for_user("ana", memory, task=TASK, persona=persona)
    with dspy.context(lm=lm):
        aligned: PersonaAgent = PersonaAlignment(config, **options).compile(
            agent, trainset=examples(memory, TASK)
        )
    return aligned


def test_a_line_that_helps_on_older_interactions_is_confirmed_and_says_what_it_rests_on() -> None:
    aligned = align(scripted(lambda user: [add("Likes action.", 1, 3)]), history(16))
    (step,) = aligned.alignment.steps
    assert (step.decision.outcome, step.decision.accept) == ("confirmed", True)
    assert aligned.parts is not None
    assert [(line.text, line.interaction_ids) for line in aligned.parts.lines] == [
        ("Likes action.", ("13", "15"))
    ]
    assert "- Likes action." in aligned.persona
    (check,) = step.checks
    assert list(check.interaction_ids) == [str(i) for i in range(12, 4, -1)]
    assert (check.parent, check.candidate) == ([0.0] * 8, [1.0] * 8)


def test_a_line_that_hurts_is_refused_and_the_persona_stays() -> None:
    lm = scripted(
        lambda user: [add("Likes comedy.", 1)],
        lambda system: "comedy" if "Likes comedy." in system else "action",
    )
    aligned = align(lm, history(16), replace(AGREEMENT, skip_right=False))
    (step,) = aligned.alignment.steps
    assert step.decision.outcome == "refused"
    assert aligned.parts == first_persona()
    assert step.rejected == ["+ Likes comedy."]


def test_a_critic_that_is_wrong_half_of_the_time_costs_the_paper_and_not_the_gate() -> None:
    """The wrong half comes last: the paper keeps it."""
    proposals = iter(["Likes action.", "Likes comedy."] * 3)

    def answer(system: str) -> str:
        believed = re.findall(r"Likes (\w+)\.", system)
        return believed[-1] if believed else "classic"

    def critic() -> dspy.LM:
        return scripted(lambda user: [add(next(proposals), 1)], answer)

    config = {"skip_right": False, "steps": 2}
    grounded = align(critic(), history(16), replace(AGREEMENT, **config))
    paper = align(critic(), history(16), replace(PAPER, **config))
    assert answer(grounded.persona) == "action"
    assert answer(paper.persona) == "comedy"


def test_a_repeated_alignment_reads_what_was_rejected() -> None:
    prompts: list[str] = []

    def edits(user: str) -> list[dict[str, Any]]:
        prompts.append(user)
        return [add("Likes tea.")]

    lm = scripted(edits)
    aligned = align(lm, history(16), replace(AGREEMENT, steps=2), past=Past(rejected=["+ Likes rain."]))
    assert "- + Likes rain." in prompts[0]
    assert "it cites nothing" not in prompts[0]
    assert "- add 'Likes tea.': it cites nothing" in prompts[1]
    assert [step.note for step in aligned.alignment.steps] == ["every edit was refused"] * 2
    assert [step.decision.outcome for step in aligned.alignment.steps] == ["no-op"] * 2


def test_check_items_inform_neither_feedback_nor_update() -> None:
    """Their words and answers are in no prompt that learns, though the persona counts them later."""
    past = [
        *history(4, "classic"),
        *(
            Interaction(id=f"c{i}", user_id="ana", query=f"secret planted word {i}", response="violence")
            for i in range(8)
        ),
        *history(3, start=20),
    ]
    config = replace(AGREEMENT, gate="evidence:check_items=8")
    lm = scripted(lambda user: [add("Likes action.", 1)])
    align(lm, past, config)
    learning = [text for text in lm.engine.conversations if "evaluator" in text or "You maintain" in text]
    assert len(learning) == 4
    for text in learning:
        assert "planted" not in text
        assert "violence (" not in text
        assert "answered 7 times" in text


def test_facts_are_counted_for_each_item_as_they_stood_before_it() -> None:
    lm = scripted(lambda user: [add("Likes action.", 1)])
    align(lm, history(10), facts=["counts"])
    asked = [
        (int(re.findall(r"\[\[ ## query ## \]\]\nfilm number(\d+)", text)[-1]), text)
        for text in lm.engine.conversations
        if "[[ ## query ## ]]" in text
    ]
    assert len(asked) >= 10
    for number, text in asked:
        counted = re.search(r"has answered (\d+) times?", text)
        assert (int(counted[1]) if counted else 0) == number
        assert all(int(other) <= number for other in re.findall(r"film number(\d+)", text))


def test_an_answer_that_only_the_check_item_holds_gains_nothing() -> None:
    """Each item has a label of its own. A model that believes the facts cannot know it."""
    *labels, unused = TASK.answer.values
    past = [
        Interaction(id=str(i), user_id="ana", query=f"film number{i}", response=label)
        for i, label in enumerate(labels)
    ]

    def believe(system: str) -> str:
        told = [label for label in labels if label in system.partition("Most frequent answers")[2]]
        return told[0] if told else unused

    lm = scripted(lambda user: [], believe)
    lm.summarises = False
    aligned = align(lm, past)
    for check in aligned.alignment.steps[0].checks:
        assert sum(check.candidate) <= sum(check.parent)
        assert check.decision.outcome == "refused"


def test_a_model_that_cannot_write_is_asked_for_nothing_but_answers() -> None:
    lm = scripted(lambda user: [], lambda system: "comedy" if "answered" in system else "action")
    lm.summarises = False
    aligned = align(lm, history(16), facts=["counts"])
    assert not any("evaluator" in text or "You maintain" in text for text in lm.engine.conversations)
    assert aligned.parts is not None
    assert aligned.parts.facts == ()
    (step,) = aligned.alignment.steps
    assert step.decision.outcome == "confirmed"
    assert {feedback.skipped for feedback in step.feedback} == {"the model cannot write"}


def test_a_model_that_writes_can_show_facts_and_they_stay_exact() -> None:
    lm = scripted(
        lambda user: [{"op": "show", "line": 0, "text": "counts", "cites": []}],
        lambda system: "action" if "has answered" in system else "comedy",
    )
    aligned = align(lm, history(16))
    assert aligned.parts is not None
    assert (aligned.parts.facts, aligned.parts.lines) == (("counts",), ())
    assert aligned.alignment.steps[0].checks[0].changes == ["+ facts: counts"]
    (update,) = [text for text in lm.engine.conversations if "You maintain" in text]
    assert "- counts (not shown): " in update
    # Rendered for now: the batch counts too.
    assert "has answered 16 times" in aligned.persona


@pytest.mark.parametrize("summarises", [True, False])
def test_an_alignment_costs_at_most_what_the_plan_says(summarises: bool) -> None:
    lm = scripted(lambda user: [add("Likes action.", 1)])
    lm.summarises = summarises
    aligned = align(lm, history(12))
    fewest, most = aligned.alignment.plan.calls
    assert fewest <= len(lm.engine.prompts) <= most


def test_a_short_history_is_too_little_to_know_and_an_empty_check_changes_nothing() -> None:
    lm = scripted(lambda user: [add("Likes action.", 1)])
    (step,) = align(lm, history(6)).alignment.steps
    assert (len(step.checks[0].parent), step.decision.outcome) == (3, "provisional")
    assert "too few to know" in step.decision.reason
    (step,) = align(lm, history(3)).alignment.steps
    assert (step.decision.outcome, step.decision.accept) == ("refused", False)


def test_likelihoods_decide_if_the_model_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer stays wrong, but the true one becomes likelier."""
    lm = scripted(lambda user: [add("Likes action.", 1)], lambda system: "comedy")
    forward = PersonaAgent.aforward
    truths: list[str | None] = []

    def graded(self: PersonaAgent, *args: Any, **inputs: Any) -> dspy.Prediction:
        truths.append(inputs.get("truth"))
        prediction = PersonaAgent._original(self, *args, **inputs)  # type: ignore[attr-defined]
        prediction.likelihood = 0.4 if "Likes action." in self.persona else 0.1
        return prediction

    monkeypatch.setattr(PersonaAgent, "_original", PersonaAgent.forward, raising=False)
    monkeypatch.setattr(PersonaAgent, "forward", graded)
    (step,) = align(lm, history(16), GROUNDED).alignment.steps
    assert forward is PersonaAgent.aforward
    assert set(truths) == {"action"}
    assert step.checks[0].bound == 0.25
    assert step.decision.outcome == "confirmed"
    assert step.score == 0.0


def store_with(path: Path, past: list[Interaction]) -> UserStore:
    store = UserStore(path)
    store.add_user("ana", task="LaMP-2M")
    store.append("ana", past)
    return store


def test_a_stored_user_keeps_the_parts_and_the_trials(tmp_path: Path) -> None:
    with store_with(tmp_path / "users.db", history(16)) as store:
        with dspy.context(lm=scripted(lambda user: [add("Likes action.", 2)])):
            align_user(store, "ana", AGREEMENT, home=tmp_path, wikipedia=False)
        version = store.persona("ana")
        assert version is not None
        assert version.parts is not None
        assert version.parts["lines"] == [
            {"text": "Likes action.", "interaction_ids": ["14"], "since": version.version}
        ]
        assert version.text.count("- Likes action.") == 1
        model = store.alignments("ana")[0].record["model"]
        cohort = f"LaMP-2M|{model}|evidence"
        assert store.trials(cohort, excluding="bob") == [(8.0, 0.0)]
        assert store.trials(cohort, excluding="ana") == []
        store.rollback("ana", 1)
        store.rollback("ana", version.version)
        assert store.persona("ana").parts == version.parts  # type: ignore[union-attr]
        store.forget("ana")
        assert store.trials(cohort, excluding="bob") == []


def test_later_interactions_test_a_provisional_persona_further(tmp_path: Path) -> None:
    """Three check items let a gain be expected; eight later answers speak against it."""
    lm = scripted(
        lambda user: [add("Likes action.", 1)] if "action" in user.partition("feedback")[2] else [],
        lambda system: "action" if "Likes action." in system else "comedy",
    )
    with store_with(tmp_path / "users.db", history(6)) as store, dspy.context(lm=lm):
        align_user(store, "ana", AGREEMENT, home=tmp_path, wikipedia=False)
        assert "Likes action." in store.persona("ana").text  # type: ignore[union-attr]
        first = store.alignments("ana")[-1].record
        assert first["pending"]["seen"] == "5"
        # The paper's rule in between, without a step, tests nothing and drops nothing.
        align_user(store, "ana", AlignmentConfig(steps=0), home=tmp_path, wikipedia=False)
        store.append("ana", history(9, "comedy", start=6))
        align_user(store, "ana", AGREEMENT, home=tmp_path, wikipedia=False)
        second = store.alignments("ana")[-1].record
        assert second["review"]["outcome"] == "rolled back"
        assert second["pending"] is None
        assert "Likes action." not in store.persona("ana").text  # type: ignore[union-attr]


def test_what_a_person_approved_is_not_tested_further(tmp_path: Path) -> None:
    lm = scripted(
        lambda user: [add("Likes action.", 1)] if "action" in user.partition("feedback")[2] else [],
        lambda system: "action" if "Likes action." in system else "comedy",
    )
    with store_with(tmp_path / "users.db", history(6)) as store, dspy.context(lm=lm):
        align_user(store, "ana", AGREEMENT, home=tmp_path, wikipedia=False)
        approved = store.approve("ana", store.user("ana").persona_version or 0)
        store.append("ana", history(9, "comedy", start=6))
        align_user(store, "ana", AGREEMENT, home=tmp_path, wikipedia=False)
        assert store.alignments("ana")[-1].record["review"] is None
        assert "Likes action." in store.persona("ana").text  # type: ignore[union-attr]
        assert approved.parts == store.persona("ana", approved.parent).parts  # type: ignore[union-attr]


def test_a_saved_program_has_the_parts_and_a_free_rewrite_has_none(tmp_path: Path) -> None:
    aligned = align(scripted(lambda user: [add("Likes action.", 1)]), history(16))
    aligned.save(tmp_path / "ana.json")
    memory = EpisodicMemory("ana", history(16))
    loaded = PersonaAgent.for_user("ana", memory, task=TASK)
    loaded.load(tmp_path / "ana.json")
    assert (loaded.persona, loaded.parts) == (aligned.persona, aligned.parts)
    loaded.act.signature = loaded.act.signature.with_instructions("Be brief.")
    assert loaded.parts is None
    assert loaded.prompt() == "Be brief."
    assert loaded.deepcopy().parts is None
    state = json.loads((tmp_path / "ana.json").read_text())
    state["parts"]["lines"] = "none"
    (tmp_path / "ana.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="parts"):
        loaded.load(tmp_path / "ana.json")


def test_parts_survive_json_and_say_what_is_damaged() -> None:
    persona = replace(first_persona(), lines=(Line(text="Likes tea.", interaction_ids=("7",), since=3),))
    assert Persona.from_dict(json.loads(json.dumps(persona.as_dict()))) == persona
    for damaged in ({}, {**persona.as_dict(), "facts": [7]}, {**persona.as_dict(), "lines": [{}]}):
        with pytest.raises(DataError, match="damaged"):
            Persona.from_dict(damaged)
