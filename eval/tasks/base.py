"""A LaMP task: a `Task` with the fields that LaMP's files and baselines need."""

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
    """Return LaMP's usual profile prompt: items joined by ``, and ``, then ``tail``, then the input."""
    return lambda lines, text: ", and ".join(lines) + tail + text


_APPENDED = appended()


def after(*cues: str) -> Callable[[str], str]:
    """Return a function that extracts the text after the first cue in an input.

    It raises `DataError` if no cue occurs or no text follows.
    """

    def read(text: str) -> str:
        starts = [(text.index(cue), cue) for cue in cues if cue in text]
        query = text.partition(min(starts)[1])[2].strip() if starts else ""
        if query:
            return query
        raise DataError(
            f"field `input` has no text after `{'` or `'.join(cues)}`; is this a file of another task?"
        )

    return read


@dataclass(frozen=True, kw_only=True)
class LampTask(Task):
    """One LaMP task.

    Attributes:
        file_names: Accepted values of the files' ``task`` field; the first is written to prediction
            files. ``LaMP_2`` meant news until March 2024 and means movies since.
        folder: Path of the files below the download base, without the split.
        item_fields: Keys of every profile item, besides ``id``.
        lead: Start of LaMP's input, up to the item (in LaMP-1, up to the title).
        scorer_labels: The labels in the scorer's order, if it differs from the prompt's.
        profile_line: LaMP's format of one profile item, with ``{text}``, which is shortened to fit,
            and ``{response}``.
        profile_text: Returns the value of ``{text}``.
        profile_prompt: Joins formatted profile items and an input.
        retrieval_text: Returns the text of a profile item that LaMP's retrievers index.
        retrieval_query: Returns their search query, given a query text.
        licence: Why the files cannot be downloaded; empty if they can.
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
        """Return ``task`` as a `LampTask`, with defaults for the additional fields."""
        if isinstance(task, LampTask):
            return task
        values = {field.name: getattr(task, field.name) for field in fields(Task)}
        return cls(**values, file_names=(task.name,))

    def check_file(self, path: Path, file_task: object) -> None:
        """Raise `DataError` unless ``file_task``, the ``task`` field of a file, is one of `file_names`."""
        if file_task not in self.file_names:
            names = " or ".join(map(repr, self.file_names))
            raise DataError(f"`{path}`: field `task` is {file_task!r}, but `{self.name}` needs {names}")

    def full_input(self, query: str) -> str:
        """Return LaMP's exact input for a query text."""
        return (self.lead or f"{self.question} ") + query

    def labels(self) -> tuple[str, ...]:
        """Return the labels in the scorer's order; empty if answers are not labels."""
        return self.scorer_labels or (self.answer.values if isinstance(self.answer, Labels) else ())

    def item_keys(self, interaction: Interaction) -> set[str]:
        """Return keys of a history item. An item that shares a key with a query gives its answer away."""
        return self._keys(interaction.query, interaction.response)

    def query_keys(self, query: str, gold: str | None) -> set[str]:
        """Return keys of a query: its text, and its gold if that is free text."""
        return self._keys(query, gold)

    def _keys(self, query: str, response: str | None) -> set[str]:
        keys = {f"query {_normal(query)}"}
        if isinstance(self.answer, Text) and response:
            keys.add(f"response {_normal(response)}")
        return keys


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


def field(item: Mapping[str, object], name: str) -> str:
    """Return one field of a profile item as text. Some files hold scores as numbers.

    Raises:
        KeyError: The field is missing.
    """
    return str(item[name]).strip()
