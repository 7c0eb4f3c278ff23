"""Invented users, and a scripted model that answers every method."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from eval.contracts import EvalUser, Query
from program.memory.interaction import Interaction
from program.task import Task, get_task

START = datetime(2024, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def movies() -> Task:
    return get_task("LaMP-2M")


@pytest.fixture
def make_user() -> Callable[..., EvalUser]:
    """Make a user; each text contains the user's name: ``anna watched 3``, ``anna asks 1``."""

    def make(
        name: str, *, history: int = 6, queries: int = 3, labels: str = "comedy,action,classic"
    ) -> EvalUser:
        tags = labels.split(",")
        return EvalUser(
            user_id=name,
            history=tuple(
                Interaction(
                    id=f"{name}-h{i}",
                    user_id=name,
                    query=f"{name} watched {i} on a rainy day",
                    response=tags[i % len(tags)],
                    timestamp=START + timedelta(days=i),
                )
                for i in range(history)
            ),
            queries=tuple(
                Query(
                    id=f"{name}-q{i}",
                    user_id=name,
                    text=f"{name} asks {i} about a rainy day",
                    gold=tags[i % len(tags)],
                    timestamp=START + timedelta(days=history + i),
                )
                for i in range(queries)
            ),
        )

    return make


@pytest.fixture
def obliging() -> Callable[[str, str], str | dict[str, Any]]:
    """Answers with the fields that a prompt asks for; the tag is always ``comedy``."""

    def reply(system: str, user: str) -> str | dict[str, Any]:
        single = re.search(r"Now write the ([\w ]+), and nothing else", user)
        if single:
            return f"a text for {single[1]}"
        fields = re.findall(r"`(\w+)`", user.rsplit("Reply with a JSON object", 1)[-1])
        special: dict[str, Any] = {
            "action": {"tool": "search_memory", "query": "rainy"},
            "next_tool_name": "search_memory" if "[[ ## observation_0" not in user else "finish",
            "next_tool_args": {"query": "rainy"} if "[[ ## observation_0" not in user else {},
            "answer": "comedy",
        }
        return {name: special.get(name, f"a text for {name}") for name in fields}

    return reply


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write an importable module, given its name and text. Writing it again discards the old import."""

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


@pytest.fixture
def oppu_folder(tmp_path: Path) -> Path:
    """A folder of four invented users in OPPU's layout, with two queries each."""
    tags = ("comedy", "action", "classic")
    users, golds = [], []
    for number in range(4):
        name = f"viewer{number}"
        users.append(
            {
                "user_id": name,
                "profile": [
                    {"id": f"{name}h{i}", "tag": tags[i % 2], "description": f"a film {i} about rain"}
                    for i in range(5)
                ],
                "query": [
                    {
                        "id": f"{name}q{i}",
                        "input": f"{get_task('LaMP-2M').question} description: a new film {i}",
                        "gold": tags[i],
                    }
                    for i in range(2)
                ],
            }
        )
        golds += [{"id": f"{name}q{i}", "output": tags[i]} for i in range(2)]
    folder = tmp_path / "movies_like"
    folder.mkdir()
    (folder / "user_top_100_history.json").write_text(json.dumps(users))
    (folder / "user_top_100_history_label.json").write_text(json.dumps({"task": "LaMP_2M", "golds": golds}))
    return folder
