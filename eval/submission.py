"""LaMP's prediction files: writing one, and scoring one against a gold file.

    {"task": "LaMP_3", "golds": [{"id": "300", "output": "5"}]}

Predictions and golds share this format, key ``golds`` included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.files import explain_write_errors
from eval.metrics import Score, is_valid, scores
from eval.tasks.base import LampTask
from program.answers import Labels
from program.errors import DataError
from program.task import Task


def write_predictions(path: Path, predictions: Mapping[str, str], task: Task) -> None:
    """Write answers by query id in LaMP's submission format, in the order given.

    Raises:
        DataError: The file cannot be written.
    """
    golds = [{"id": query_id, "output": output} for query_id, output in predictions.items()]
    content = {"task": LampTask.of(task).file_names[0], "golds": golds}
    with explain_write_errors(path):
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_outputs(path: Path, task: Task) -> dict[str, str]:
    """Return outputs by query id; with duplicate ids the last one wins, as in LaMP's scorer.

    Raises:
        DataError: Not such a file, or one of another task; names the file and the field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"`{path}` is not JSON ({error}); download it again or check the path") from error
    if not isinstance(content, dict) or not isinstance(content.get("golds"), list):
        raise DataError(f'`{path}` is no prediction or gold file: it needs {{"task": ..., "golds": [...]}}')
    LampTask.of(task).check_file(path, content.get("task"))
    return dict(_output(path, number, entry) for number, entry in enumerate(content["golds"]))


def score_files(predictions: Path, golds: Path, task: Task) -> tuple[Score, ...]:
    """Score a prediction file as LaMP's scorer does, and count what is invalid.

    Raises:
        DataError: A file is unreadable or of another task, or the sets of ids differ.
    """
    answered, truth = read_outputs(predictions, task), read_outputs(golds, task)
    _check_ids(predictions, "missing", truth.keys() - answered.keys())
    _check_ids(predictions, "unknown", answered.keys() - truth.keys())
    if not truth:
        raise DataError(f"`{golds}` holds no golds")
    unknown = sum(not is_valid(gold, task) for gold in truth.values())
    if isinstance(task.answer, Labels) and 2 * unknown > len(truth):
        # LaMP's scorer takes all unknown labels as equal: files of the other LaMP-2 would score 1.
        raise DataError(
            f"`{golds}`: {unknown} of {len(truth)} golds are no labels of `{task.name}`; wrong task?"
        )
    return scores([answered[query_id] for query_id in truth], list(truth.values()), task)


def _output(path: Path, number: int, entry: Any) -> tuple[str, str]:
    try:
        query_id, output = entry["id"], entry["output"]
    except (TypeError, KeyError) as error:
        raise DataError(f"`{path}`: `golds[{number}]` needs the fields `id` and `output`") from error
    if not isinstance(output, (str, int, float)):
        raise DataError(f"`{path}`: `golds[{number}].output` must be text, got {type(output).__name__}")
    return str(query_id), str(output)


def _check_ids(path: Path, what: str, ids: set[str]) -> None:
    if ids:
        shown = ", ".join(repr(query_id) for query_id in sorted(ids)[:3])
        raise DataError(
            f"`{path}`: {len(ids)} {what} query ids ({shown}{', ...' if len(ids) > 3 else ''}); "
            "LaMP scores a file only with exactly one prediction for every gold"
        )
