"""Which layout a path has, and the files that belong to it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from eval.data.jsonlist import first_element
from eval.data.official import OfficialFiles
from eval.data.oppu import OppuFiles
from eval.data.parquet import ParquetFile
from eval.data.raw import RawSource
from program.errors import ConfigError, DataError
from program.task import Task

Layout = Literal["auto", "lamp", "oppu", "parquet", "arrow"]

ARROW_FILE = "users.arrow"
_OPPU_FILE = "user_top_100_history.json"


def detect(path: Path, layout: Layout, split: str) -> tuple[Layout, Path]:
    """Return the layout of a file or folder and the file to read.

    A folder that holds several layouts is read in the order Arrow, OPPU, LaMP: OPPU's files hold
    all queries of a user. ``split`` is about LaMP's files in a folder: ``dev`` means
    ``dev_questions.json``.

    Raises:
        DataError: Nothing there that could be read as ``layout``.
        ConfigError: No such layout.
    """
    if layout not in ("auto", "lamp", "oppu", "parquet", "arrow"):
        raise ConfigError(f"unknown layout {layout!r}; there are: auto, lamp, oppu, parquet, arrow")
    if not path.exists():
        raise DataError(f"`{path}` does not exist; check the path")
    if path.is_file():
        return (_layout_of(path) if layout == "auto" else layout), path
    for found, file in _in_folder(path, split):
        if layout in ("auto", found) and file.exists():
            return found, file
    wanted = "data" if layout == "auto" else f"`{layout}` data"
    raise DataError(
        f"`{path}` holds no {wanted}; expected {split}_questions.json, {_OPPU_FILE} or "
        f"{ARROW_FILE}; or give a file"
    )


def raw_source(layout: Layout, file: Path, task: Task) -> RawSource:
    """Return the reader of a detected layout other than Arrow."""
    if layout == "lamp":
        return OfficialFiles(file, task)
    return OppuFiles(file, task) if layout == "oppu" else ParquetFile(file, task)


def _in_folder(folder: Path, split: str) -> list[tuple[Layout, Path]]:
    questions = f"{split}_questions.json"
    return [
        ("arrow", folder / ARROW_FILE),
        ("oppu", folder / _OPPU_FILE),
        ("lamp", folder / questions),
        ("lamp", folder / split / questions),
    ]


def _layout_of(file: Path) -> Layout:
    if file.suffix == ".parquet":
        return "parquet"
    if file.suffix == ".arrow":
        return "arrow"
    first = first_element(file)
    if isinstance(first, dict) and "query" in first:
        return "oppu"
    if isinstance(first, dict) and "input" in first:
        return "lamp"
    raise DataError(
        f"`{file}`: the first record has neither `query` (OPPU) nor `input` (LaMP); check the path"
    )
