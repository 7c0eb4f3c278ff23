"""Finds the golds of queries: in the query itself, or in a file beside it, whatever it is called.

dev_questions.json             dev_outputs.json (LaMP)
user_top_100_history.json      user_top_100_history_label.json (OPPU)
all_user.json                  all_user_golds.json
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from eval.data.raw import read_optional
from eval.submission import read_outputs
from program.task import Task

_WORDS = ("outputs", "label", "golds", "gold", "labels", "output")
_FIELDS = ("gold", "output")
_SUFFIXES = (".json", ".json.gz")


def find_golds(queries: Path) -> Path | None:
    """Return the file of golds beside a file of queries, or ``None``."""
    return next((path for path in _candidates(queries) if path != queries and path.is_file()), None)


def read_golds(file: Path | None, task: Task) -> dict[str, str]:
    """Return golds by query id; empty without a file.

    Raises:
        DataError: The file is damaged or belongs to another task.
    """
    return read_outputs(file, task) if file else {}


def read_gold(
    query: Mapping[str, object], query_id: str, golds: Mapping[str, str], location: str
) -> str | None:
    """Return the gold in a query, else that of its id, else ``None``.

    Raises:
        DataError: The gold is not text or a number.
    """
    for field in _FIELDS:
        gold = read_optional(query, field, location)
        if gold is not None:
            return gold
    return golds.get(query_id)


def _candidates(queries: Path) -> Iterator[Path]:
    name = queries.name.removesuffix(".gz")
    stem = name.removesuffix(".json")
    stems = [stem.replace("questions", word) for word in _WORDS if "questions" in stem]
    stems += [f"{stem}_{word}" for word in _WORDS] + list(_WORDS)
    for candidate in stems:
        for suffix in _SUFFIXES:
            yield queries.with_name(candidate + suffix)
