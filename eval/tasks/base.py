"""A LaMP task: what `program` needs to know, plus what only its files and its baselines need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from program.answers import Labels, Text
from program.errors import DataError
from program.memory.interaction import Interaction
from program.task import Task


def _query(interaction: Interaction) -> str:
    return interaction.query


def _same(query: str) -> str:
    return query


def appended(tail: str = ". ") -> Callable[[Sequence[str], str], str]:
    """Return LaMP's usual profile prompt: items joined by ``, and ``, ``tail``, the input."""
    return lambda lines, text: ", and ".join(lines) + tail + text


_APPENDED = appended()


def after(*cues: str) -> Callable[[str], str]:
    """Return a reader of what follows the cue that comes first in an input.

    The reader raises `DataError` where no cue occurs or nothing follows it.
    """

    def read(text: str) -> str:
        found = [(text.index(cue), cue) for cue in cues if cue in text]
        rest = text.partition(min(found)[1])[2].strip() if found else ""
        if rest:
            return rest
        raise DataError(
            f"field `input` has no text after `{'` or `'.join(cues)}`: is this file of another task?"
        )

    return read


@dataclass(frozen=True, kw_only=True)
class LampTask(Task):
    """One LaMP task.

    Attributes:
        file_names: Values of the files' ``task`` field that may mean this task; the first is
            written into prediction files. ``LaMP_2`` meant news until March 2024, movies since.
        folder: Where the files lie below the download base, before the split.
        item_fields: Keys that every profile item has, besides ``id``.
        lead: What LaMP's input begins with; for all tasks but LaMP-1 all that precedes the item.
        scorer_labels: The labels in the scorer's order, where it is not the prompt's.
        profile_line: LaMP's rendering of one profile item; slots ``{text}``, the field that is cut
            to fit, and ``{response}``.
        profile_text: What goes into ``{text}``.
        profile_prompt: Puts rendered items and an input together.
        retrieval_text: What LaMP's retrievers read of a profile item.
        retrieval_query: What they read of a query, given its text.
        licence: Why the files cannot be downloaded, where they cannot.
    """

    file_names: tuple[str, ...]
    folder: str = ""
    item_fields: tuple[str, ...] = ()
    lead: str = ""
    scorer_labels: tuple[str, ...] = ()
    profile_line: str = '"{text}" is followed by "{response}" '
    profile_text: Callable[[Interaction], str] = _query
    profile_prompt: Callable[[Sequence[str], str], str] = _APPENDED
    retrieval_text: Callable[[Interaction], str] = _query
    retrieval_query: Callable[[str], str] = _same
    licence: str = ""

    @classmethod
    def of(cls, task: Task) -> LampTask:
        """Return ``task`` with defaults for what only LaMP's own tasks declare."""
        if isinstance(task, LampTask):
            return task
        shared = {name.name: getattr(task, name.name) for name in fields(Task)}
        return cls(**shared, file_names=(task.name,))

    def check_file(self, path: Path, found: object) -> None:
        """Raise `DataError` unless a file's ``task`` field, ``found``, may mean this task."""
        if found not in self.file_names:
            names = " or ".join(map(repr, self.file_names))
            raise DataError(f"`{path}`: field `task` is {found!r}, but `{self.name}` needs {names}")

    def full_input(self, query: str) -> str:
        """Return LaMP's full input for a query text, word for word."""
        return (self.lead or f"{self.question} ") + query

    def labels(self) -> tuple[str, ...]:
        """Return the labels in the scorer's order; empty where answers are not labels."""
        return self.scorer_labels or (self.answer.values if isinstance(self.answer, Labels) else ())

    def item_keys(self, interaction: Interaction) -> set[str]:
        """Return what a query must not share with a history item, or the item gives it away."""
        return self._keys(interaction.query, interaction.response)

    def query_keys(self, query: str, gold: str | None) -> set[str]:
        """Return the same for a query text: the text, and a free-text gold."""
        return self._keys(query, gold)

    def _keys(self, query: str, response: str | None) -> set[str]:
        keys = {f"query {_normal(query)}"}
        if isinstance(self.answer, Text) and response:
            keys.add(f"response {_normal(response)}")
        return keys


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


def field(item: Mapping[str, object], name: str) -> str:
    """Return one field of a profile item as text (scores were seen as numbers, too).

    Raises:
        KeyError: It is missing.
    """
    return str(item[name]).strip()
