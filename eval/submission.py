"""Writes LaMP's prediction files and scores them against gold files.

    {"task": "LaMP_3", "golds": [{"id": "300", "output": "5"}]}

Prediction files have this format too, including the key ``golds``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eval.files import explain_write_errors
from eval.metrics import Score, is_valid, scores
from eval.tasks.base import LampTask
from program import json_text
from program.answers import Labels
from program.errors import DataError
from program.task import Task
from program.text import counted
from program.text_safety import find_problem
from program.values import to_id, to_text


def write_predictions(path: Path, predictions: Mapping[str, str], task: Task) -> None:
    """Write predictions by query id in LaMP's submission format, in the mapping's order.

    Raises:
        DataError: The file cannot be written.
    """
    golds = [{"id": query_id, "output": output} for query_id, output in predictions.items()]
    content = {"task": LampTask.of(task).file_names[0], "golds": golds}
    with explain_write_errors(path):
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_outputs(path: Path, task: Task) -> dict[str, str]:
    """Return outputs by query id. Of duplicate ids the last one wins, as in LaMP's scorer.

    Raises:
        DataError: The file is unreadable, has another format or belongs to another task; the message
            names file and field.
    """
    content = json_text.read(path)
    if not isinstance(content, dict) or not isinstance(content.get("golds"), list):
        raise DataError(
            f'`{path}` is not a prediction or gold file: it needs {{"task": ..., "golds": [...]}}'
        )
    LampTask.of(task).check_file(path, content.get("task"))
    return dict(_output(path, number, entry) for number, entry in enumerate(content["golds"]))


def score_files(predictions: Path, golds: Path, task: Task) -> tuple[Score, ...]:
    """Score a prediction file with LaMP's rules, and count invalid answers.

    Raises:
        DataError: A file is unreadable or of another task, or the sets of ids differ.
    """
    outputs, gold_outputs = read_outputs(predictions, task), read_outputs(golds, task)
    _check_ids(predictions, "missing", gold_outputs.keys() - outputs.keys())
    _check_ids(predictions, "unknown", outputs.keys() - gold_outputs.keys())
    if not gold_outputs:
        raise DataError(f"`{golds}` holds no golds")
    unknown = sum(not is_valid(gold, task) for gold in gold_outputs.values())
    if isinstance(task.answer, Labels) and 2 * unknown > len(gold_outputs):
        # LaMP's scorer treats all unknown labels as equal: files of the other LaMP-2 would score 1.
        raise DataError(
            f"`{golds}`: {unknown} of {len(gold_outputs)} golds are not labels of `{task.name}`; "
            "check the task"
        )
    return scores([outputs[query_id] for query_id in gold_outputs], list(gold_outputs.values()), task)


def _output(path: Path, number: int, entry: Any) -> tuple[str, str]:
    try:
        query_id, output = entry["id"], entry["output"]
    except (TypeError, KeyError) as error:
        raise DataError(f"`{path}`: `golds[{number}]` needs the fields `id` and `output`") from error
    return (
        _text(to_id, query_id, f"`{path}`: `golds[{number}].id`"),
        _text(to_text, output, f"`{path}`: `golds[{number}].output`"),
    )


def _text(convert: Callable[[object], str], value: object, location: str) -> str:
    try:
        text = convert(value)
    except ValueError as error:
        raise DataError(f"{location} {error}") from error
    if problem := find_problem(text):
        raise DataError(f"{location} {problem}; correct it in the file")
    return text


def _check_ids(path: Path, problem: str, ids: set[str]) -> None:
    if ids:
        examples = ", ".join(repr(query_id) for query_id in sorted(ids)[:3])
        found = counted(len(ids), f"{problem} query id")
        raise DataError(
            f"`{path}`: {found} ({examples}{', ...' if len(ids) > 3 else ''}); "
            "LaMP needs exactly one prediction for each gold"
        )
