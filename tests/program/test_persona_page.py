"""The page of a persona: what it shows, and that no text of a user becomes markup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from program.errors import DataError, UnknownVersionError
from program.memory.interaction import Interaction
from program.persona import Persona
from program.persona_page import persona_page, write_page
from program.store import UserStore

HOSTILE = '<script>alert("x")</script> & \x1b[31mred\u202e'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UserStore]:
    with UserStore(tmp_path / "users.db") as store:
        store.add_user("ana", task="LaMP-2M")
        films = [
            Interaction(id=str(n), user_id="ana", query=f"A heist {n}.", response="action") for n in range(15)
        ]
        store.append("ana", films)
        yield store


def test_each_line_stands_with_its_origin_and_the_interactions_behind_it(store: UserStore) -> None:
    persona = Persona(facts=("counts",)).with_line("Calls heists action.", ["3", "gone"])
    store.add_persona("ana", "outdated", source="edit", why="by hand", parts=persona.as_dict())
    page = persona_page(store, "ana")
    assert "This user has answered 15 times" in page
    assert "counted by code, since v1, from 15 interactions" in page
    assert "and 3 other interactions" in page
    assert "learned, since v1, from 2 interactions" in page
    assert "A heist 3. → action" in page
    assert "gone: forgotten" in page
    assert "outdated" not in page, "the text is rendered as the next prompt has it"


def test_what_was_tested_stands_with_scores_and_decision(store: UserStore) -> None:
    store.add_persona("ana", "Be brief.", source="initial", why="w", parts=Persona().as_dict())
    run = store.start_alignment("ana", {})
    check = {
        "changes": ["+ facts: counts"],
        "parent": [0.25, 0.75],
        "candidate": [0.75, 0.75],
        "bound": 0.25,
        "decision": {"outcome": "provisional", "reason": "expected gain +0.30"},
    }
    refusal = {"edit": "add 'Likes tea.'", "reason": "it cites nothing"}
    step = {"number": 1, "checks": [check], "refusals": [refusal], "note": "", "decision": {}}
    review = {"outcome": "rolled back", "reason": "later interactions speak against it"}
    store.finish_alignment("ana", run, {"steps": [step], "review": review})
    page = persona_page(store, "ana")
    row = page.partition("+ facts: counts")[2].partition("</tr>")[0]
    assert [cell.partition("<")[0] for cell in row.split('">')[1:]] == ["2", "0.50", "0.75"]
    assert "provisional" in row
    assert "Probability of the true answer before" in page
    assert "add &#39;Likes tea.&#39;: it cites nothing" in page
    assert "rolled back: later interactions speak against it" in page
    assert "says nothing about the user" in page


def test_texts_of_users_and_models_never_become_markup(store: UserStore) -> None:
    store.append("ana", [Interaction(id="x", user_id="ana", query=HOSTILE, response="action")])
    persona = Persona(role=HOSTILE).with_line(HOSTILE, ["x"])
    store.add_persona("ana", HOSTILE, source="edit", why=HOSTILE, parts=persona.as_dict())
    page = persona_page(store, "ana")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not {"\x1b", "\u202e"} & set(page)


def test_a_text_without_parts_says_that_nothing_is_known(store: UserStore) -> None:
    store.add_persona("ana", "Free.", source="alignment", why="every rewrite is kept")
    page = persona_page(store, "ana")
    assert "Free.</pre>" in page
    assert "written freely: nothing is known" in page


def test_a_user_without_a_persona_and_a_file_that_cannot_be_written_are_refused(
    store: UserStore, tmp_path: Path
) -> None:
    with pytest.raises(UnknownVersionError, match="no persona yet"):
        persona_page(store, "ana")
    with pytest.raises(DataError, match="cannot write"):
        write_page(tmp_path / "nowhere" / "page.html", "x")


def test_only_the_owner_can_read_the_page(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "<p>ü")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "<p>ü"
    assert (tmp_path / "page.html").stat().st_mode & 0o077 == 0
