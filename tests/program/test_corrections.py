"""A person's own corrections of the persona: nothing undoes them but another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program import EpisodicMemory, Interaction, PersonaAgent, UserStore, get_task, open_session
from program.cli.options import guarded
from program.corrections import MAX_LINE, MAX_SAID, correct, fit, keep_corrections, list_lines
from program.errors import DataError, PinnedPersonaError, StoreError, UnknownUserError
from program.evidence import Evidence, collect
from program.home import home
from program.persona import MAX_CHARS, ROLE, SAID, Line, Persona, first_persona
from program.provenance import explain_lines, parts_by_version
from program.store.exported import version_data

DAY = "2026-11-26"
LEARNED = Persona().with_line("Likes heists.", ["i1"]).with_line("Likes tea.", ["i2"])
COUNTS = Evidence(key="counts", text="answered 8 times", interaction_ids=("i0",), n=8)


def said(number: int) -> Interaction:
    return Interaction(id=f"i{number}", user_id="ana", query=f"a film {number}", response="action")


@pytest.fixture
def store(location: str) -> Iterator[UserStore]:
    with UserStore(location) as store:
        store.append("ana", [said(number) for number in range(8)], task="LaMP-2M")
        yield store


@pytest.fixture
def learned(store: UserStore) -> UserStore:
    store.add_persona("ana", LEARNED.render([]), source="alignment", why="w", parts=LEARNED.as_dict())
    return store


def now(store: UserStore) -> Persona:
    version = store.persona("ana")
    assert version is not None
    assert version.parts is not None
    persona = Persona.from_dict(version.parts)
    assert version.text == persona.render(collect(store.interactions("ana"), get_task("LaMP-2M")))
    return persona


class TestParts:
    def test_a_line_is_replaced_and_the_wrong_one_does_not_come_back(self) -> None:
        corrected = correct(LEARNED, [], line=1, text=" Likes \n old comedies. ", day=DAY)
        assert [line.text for line in corrected.lines] == ["Likes tea.", "Likes old comedies."]
        assert corrected.lines[1] == Line(
            text="Likes old comedies.", interaction_ids=("i1",), corrected=DAY, since=0
        )
        assert [line.text for line in corrected.removed] == ["Likes heists."]
        again = keep_corrections(LEARNED, corrected)
        assert isinstance(again, Persona)
        assert [line.text for line in again.lines] == ["Likes tea.", "Likes old comedies."]

    def test_a_line_is_taken_out_and_comes_back_only_if_the_person_adds_it(self) -> None:
        corrected = correct(LEARNED, [], line="Likes heists.", day=DAY)
        assert [line.text for line in corrected.lines] == ["Likes tea."]
        back = correct(corrected, [], text="likes heists", day=DAY)
        assert back.removed == ()
        assert [line.text for line in back.lines if line.corrected] == ["likes heists"]

    def test_a_learned_line_that_the_person_adds_is_the_persons(self) -> None:
        corrected = correct(LEARNED, [], text="Likes tea.", day=DAY)
        assert [(line.text, line.corrected, line.interaction_ids) for line in corrected.lines] == [
            ("Likes heists.", "", ("i1",)),
            ("Likes tea.", DAY, ("i2",)),
        ]
        with pytest.raises(DataError, match="there already"):
            correct(corrected, [], text="Likes tea.", day=DAY)

    def test_a_fact_that_code_counts_is_hidden_for_good(self) -> None:
        persona = LEARNED.with_facts("counts")
        assert [line.kind for line in list_lines(persona, [COUNTS])] == ["fact", "line", "line"]
        corrected = correct(persona, [COUNTS], line=1, text="Answers rarely.", day=DAY)
        assert "answered 8 times" not in corrected.render([COUNTS])
        kept = keep_corrections(persona, corrected)
        assert isinstance(kept, Persona)
        assert kept.shown_facts([COUNTS]) == []

    def test_a_line_of_a_free_text_is_corrected(self) -> None:
        persona = Persona.of_text("You know this user.\n\nThe user likes heists. Be brief.")
        corrected = correct(persona, [], line=2, text="I like comedies.", day=DAY)
        assert corrected.render([]) == f"You know this user.\n\n{SAID}\n- I like comedies."
        bare = correct(Persona.of_text("Likes heists."), [], line=1, day=DAY)
        assert bare.role == ROLE

    @pytest.mark.parametrize(
        ("line", "text", "reason"),
        [
            (None, None, "nothing to correct"),
            (3, "x", "no line 3; `personaagent users correct USER` lists them"),
            (0, None, "no line 0"),
            ("Likes opera.", None, "no line with this text"),
            (1, "  ", "must not be empty"),
            (None, "x" * (MAX_LINE + 1), "at most 240 characters, this one has 241"),
        ],
    )
    def test_what_cannot_be_corrected_is_said(
        self, line: str | int | None, text: str | None, reason: str
    ) -> None:
        with pytest.raises(DataError, match=reason):
            correct(LEARNED, [], line=line, text=text, day=DAY)

    def test_the_persons_lines_have_a_limit_and_are_never_cut(self) -> None:
        persona = Persona.of_text("x" * MAX_CHARS)
        for number in range(MAX_SAID // 200):
            persona = correct(persona, [], text=f"{number}" + "y" * 199, day=DAY)
        with pytest.raises(DataError, match="at most 2,000 characters together"):
            correct(persona, [], text="z" * 100, day=DAY)
        fitted = fit(persona, [])
        assert len(fitted.render([])) <= MAX_CHARS
        assert fitted.lines == persona.lines

    def test_they_survive_json_and_parts_without_any_stay_as_they_were(self) -> None:
        corrected = correct(LEARNED.with_facts("counts"), [COUNTS], line=1, day=DAY)
        corrected = correct(corrected, [], line="Likes tea.", text="Likes mint.", day=DAY)
        assert Persona.from_dict(json.loads(json.dumps(corrected.as_dict()))) == corrected
        assert set(LEARNED.as_dict()) == {"role", "facts", "lines", "rules"}
        assert set(LEARNED.as_dict()["lines"][0]) == {"text", "interaction_ids", "since"}

    def test_a_rewrite_that_repeats_what_was_taken_out_loses_that_sentence(self) -> None:
        corrected = correct(LEARNED, [], line=1, day=DAY)
        rewrite = "Be brief. This user likes HEISTS, always. Cite films.\n- Likes heists.\n\nEnd."
        kept = keep_corrections(rewrite, corrected)
        assert isinstance(kept, Persona)
        assert kept.role == "Be brief. Cite films.\n\nEnd."

    def test_a_rewrite_that_copies_the_persons_lines_does_not_double_them(self) -> None:
        corrected = correct(LEARNED, [], text="I like mint.", day=DAY)
        kept = keep_corrections(corrected.render([]), corrected)
        assert isinstance(kept, Persona)
        assert kept.render([]).count("I like mint.") == 1
        assert kept.render([]).count(SAID) == 1

    def test_a_rewrite_of_nothing_else_leaves_role_and_rules(self) -> None:
        corrected = correct(LEARNED, [], line=1, day=DAY)
        kept = keep_corrections("Likes heists.", corrected)
        assert isinstance(kept, Persona)
        assert kept.role == ROLE


TEXTS = st.text(st.sampled_from("ab .-\n"), max_size=30)


@given(
    TEXTS, st.lists(TEXTS, max_size=3), st.lists(TEXTS.filter(str.strip), min_size=1, max_size=3, unique=True)
)
def test_any_rewrite_keeps_every_correction_and_keeping_twice_changes_nothing(
    role: str, lines: list[str], own: list[str]
) -> None:
    before = Persona()
    for text in own:
        if " ".join(text.split()) not in [line.text for line in before.lines]:
            before = correct(before, [], text=text, day=DAY)
    before = correct(before, [], line=1, day=DAY)
    new = Persona(role=role, rules="", lines=tuple(Line(text=text, interaction_ids=()) for text in lines))
    kept = keep_corrections(new, before)
    assert isinstance(kept, Persona)
    assert [line for line in kept.lines if line.corrected] == list(before.lines)
    assert (kept.removed, kept.hidden) == (before.removed, before.hidden)
    assert keep_corrections(kept, before) == kept


class TestStore:
    def test_a_correction_is_a_version_with_its_reason_and_an_entry_of_the_log(
        self, learned: UserStore
    ) -> None:
        version = learned.correct("ana", line="Likes heists.", text="Likes comedies.", why="she said so")
        assert (version.version, version.source, version.why, version.parent) == (
            2,
            "correction",
            "she said so",
            1,
        )
        assert learned.correct("ana", line="Likes tea.").why == "the person took out a line"
        assert learned.correct("ana", text="Is kind.").why == "the person added a line"
        assert [(entry.action, entry.details) for entry in learned.audit()] == [
            ("correct persona", {"persona version": number}) for number in (2, 3, 4)
        ]
        assert "comedies" not in str(learned.audit())

    def test_no_later_version_undoes_it(self, learned: UserStore) -> None:
        learned.correct("ana", line="Likes heists.", text="Likes comedies.")
        learned.add_persona("ana", "Likes heists.\nBe exact.", source="edit", why="a hand edit")
        assert now(learned).role == "Be exact."
        assert [line.text for line in now(learned).lines] == ["Likes comedies."]
        learned.add_persona("ana", LEARNED.render([]), source="edit", why="w", parts=LEARNED.as_dict())
        assert [line.text for line in now(learned).lines] == ["Likes tea.", "Likes comedies."]
        run = learned.start_alignment("ana", {})
        learned.finish_alignment("ana", run, {}, persona=("Rewritten: likes heists.", "w"))
        assert [line.text for line in now(learned).lines] == ["Likes comedies."]

    def test_a_rollback_keeps_it_and_says_so(self, learned: UserStore) -> None:
        learned.correct("ana", line="Likes heists.", text="Likes comedies.")
        version = learned.rollback("ana", 1)
        assert version.why == "back to version 1, with what the person corrected since"
        assert [line.text for line in now(learned).lines] == ["Likes tea.", "Likes comedies."]
        assert learned.rollback("ana", 2).why == "back to version 2"

    def test_an_alignment_that_was_running_changes_nothing(self, learned: UserStore) -> None:
        run = learned.start_alignment("ana", {})
        learned.correct("ana", line="Likes heists.")
        with pytest.raises(StoreError, match="changed"):
            learned.finish_alignment("ana", run, {}, persona=("Likes heists.", "w"))

    def test_a_version_that_lacks_it_cannot_be_pinned(self, learned: UserStore) -> None:
        learned.correct("ana", line="Likes heists.")
        with pytest.raises(
            StoreError, match="lacks what the person corrected since; `personaagent persona roll"
        ):
            learned.pin("ana", 1)
        learned.pin("ana", learned.rollback("ana", 1).version)
        with pytest.raises(PinnedPersonaError):
            learned.correct("ana", text="Is kind.")

    def test_a_user_without_a_persona_begins_with_it(self, store: UserStore) -> None:
        store.correct("ana", text="Is kind.")
        assert now(store).lines[0].text == "Is kind."
        agent = open_session(store, "ana", prose=False, wikipedia=False).agent
        assert "- Is kind." in agent.persona
        assert agent.parts == now(store)
        with pytest.raises(UnknownUserError):
            store.correct("bo", text="Is kind.")

    def test_why_says_that_the_person_corrected_it_and_when(self, learned: UserStore) -> None:
        day = learned.correct("ana", line="Likes heists.", text="Likes comedies.").created_at.date()
        lines = explain_lines(parts_by_version(learned.persona_history("ana")), [])
        assert [(line.text, line.origin) for line in lines] == [
            ("Likes tea.", "learned, since v1"),
            ("Likes comedies.", f"corrected by the person on {day}, since v2"),
        ]

    def test_a_full_text_makes_room_for_it(self, store: UserStore) -> None:
        store.add_persona("ana", "word " * 799, source="edit", why="w")
        store.correct("ana", text="Is kind.")
        store.add_persona("ana", "other " * 666, source="edit", why="w")
        version = store.persona("ana")
        assert version is not None
        assert version.text.startswith("other")
        assert version.text.endswith(f"{SAID}\n- Is kind.")
        assert len(version.text) <= MAX_CHARS


class TestForgetting:
    def test_what_corrects_a_line_goes_with_what_the_line_rested_on(self, learned: UserStore) -> None:
        learned.correct("ana", line="Likes heists.", text="Not CANARY.", why="CANARY was wrong")
        learned.correct("ana", line="Likes tea.", text="Likes mint.")
        learned.correct("ana", text="Is kind.")
        learned.forget_interactions("ana", ["i1"])
        assert [line.text for line in now(learned).lines] == ["Likes mint.", "Is kind."]
        assert [line.text for line in now(learned).removed] == ["Likes tea."]
        held = json.dumps([version_data(row) for row in learned.persona_history("ana")], default=str)
        assert "CANARY" not in held
        assert "heists" not in held

    def test_the_persons_own_lines_outlive_a_text_that_goes(self, store: UserStore) -> None:
        store.add_persona("ana", "Ana likes CANARY.\nBe brief.", source="alignment", why="w")
        store.correct("ana", line="Ana likes CANARY.", text="I like mint.")
        store.forget_interactions("ana", ["i1"])
        [version] = store.persona_history("ana")
        assert version.text == first_persona().with_line("I like mint.", []).render([]).replace(
            "What this user's answers show:", SAID
        )
        assert "CANARY" not in json.dumps(version_data(version), default=str)
        assert now(store).lines[0].corrected


def test_a_saved_program_keeps_them(tmp_path: Path) -> None:
    task, memory = get_task("LaMP-2M"), EpisodicMemory("ana", [said(number) for number in range(3)])
    corrected = correct(LEARNED, [], line=1, text="Likes comedies.", day=DAY)
    agent = PersonaAgent.for_user("ana", memory, task=task, persona=corrected)
    agent.save(tmp_path / "ana.json")
    loaded = PersonaAgent.for_user("ana", memory, task=task, persona="Be brief.")
    loaded.load(tmp_path / "ana.json")
    assert loaded.parts == corrected


class TestCommand:
    @pytest.fixture
    def run(self, capsys: pytest.CaptureFixture[str]) -> object:
        import personaagent

        with UserStore(home() / "users.db") as store:
            store.append("ana", [said(number) for number in range(8)], task="LaMP-2M")
            store.add_persona("ana", LEARNED.render([]), source="alignment", why="w", parts=LEARNED.as_dict())

        def call(*words: str) -> tuple[int, str, str]:
            app = personaagent.command_line()
            code = guarded(lambda: app(list(words)))
            return code, *capsys.readouterr()

        return call

    def test_it_lists_corrects_and_says_what_became_of_it(self, run) -> None:  # type: ignore[no-untyped-def]
        done = run("users", "correct", "ana", "--line", "1", "--text", "Likes comedies.", "--why", "so")
        assert done == (0, "v2 has the correction; only another correction undoes it\n", "")
        run("users", "correct", "ana", "--line", "Likes tea.", "--remove")
        listed = run("users", "correct", "ana")[1]
        assert "Likes comedies.  by the person on 20" in listed
        assert listed.count("taken out on 20") == 2
        data = json.loads(run("users", "correct", "ana", "--json")[1])
        assert [line["text"] for line in data["lines"]] == ["Likes comedies."]
        assert [line["text"] for line in data["removed"]] == ["Likes heists.", "Likes tea."]
        assert "corrected by the person on 20" in run("persona", "why", "ana")[1]
        assert run("persona", "rollback", "ana", "1")[1] == (
            "v4 has the text of v1 and what the person corrected since\n"
        )

    @pytest.mark.parametrize(
        "words",
        [
            ("--remove",),
            ("--line", "1"),
            ("--line", "1", "--text", "x", "--remove"),
            ("--line", "9", "--remove"),
        ],
    )
    def test_half_a_correction_is_one_error(self, run, words: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
        code, printed, error = run("users", "correct", "ana", *words)
        assert code in (1, 2)
        assert (printed, error.count("\n")) == ("", 1)
