"""Detects the layout of a file or folder."""

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

    ``split`` selects LaMP's files in a folder: ``dev`` means ``dev_questions.json``.

    Raises:
        DataError: The path has no data in ``layout``.
        ConfigError: The layout is unknown, or ``auto`` and the folder has several.
    """
    if layout not in ("auto", "lamp", "oppu", "parquet", "arrow"):
        raise ConfigError(f"unknown layout {layout!r}; use auto, lamp, oppu, parquet or arrow")
    if not path.exists():
        raise DataError(f"`{path}` does not exist; check the path")
    if path.is_file():
        return (_layout_of(path) if layout == "auto" else layout), path
    files = {
        candidate: file
        for candidate, file in reversed(_candidates(path, split))
        if layout in ("auto", candidate) and file.exists()
    }
    if len(files) > 1:
        names = " and ".join(f"{candidate} ({file.name})" for candidate, file in files.items())
        raise ConfigError(f"`{path}` holds data in {len(files)} layouts: {names}; choose one with `--layout`")
    for candidate, file in files.items():
        return candidate, file
    data = "data" if layout == "auto" else f"`{layout}` data"
    raise DataError(
        f"`{path}` holds no {data}; expected {split}_questions.json, {_OPPU_FILE} or "
        f"{ARROW_FILE}; or give a file"
    )


def raw_source(layout: Layout, file: Path, task: Task) -> RawSource:
    """Return the reader of ``file``. ``layout`` is one that `detect` returns, except Arrow."""
    if layout == "lamp":
        return OfficialFiles(file, task)
    return OppuFiles(file, task) if layout == "oppu" else ParquetFile(file, task)


def _candidates(folder: Path, split: str) -> list[tuple[Layout, Path]]:
    """Return the files that a folder may hold; of two of one layout the first is read."""
    questions = f"{split}_questions.json"
    files: list[tuple[Layout, Path]] = [
        ("oppu", folder / _OPPU_FILE),
        ("lamp", folder / questions),
        ("lamp", folder / split / questions),
    ]
    packed: list[tuple[Layout, Path]] = [
        (layout, file.with_name(f"{file.name}.gz")) for layout, file in files
    ]
    return [("arrow", folder / ARROW_FILE), *files, *packed]


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
