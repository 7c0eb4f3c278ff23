from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dspy
import pytest

from eval.manifest import check_resumable, describe_model, make_manifest
from eval.methods.rag import Rag
from eval.records import Manifest, read_manifest, write_json
from program.errors import ConfigError
from program.task import Task


@pytest.fixture
def manifest(movies: Task) -> Manifest:
    data = {"selection": {"users": 5}, "users": 5}
    return make_manifest(task=movies, data=data, methods={"rag": Rag()}, seed=3)


def test_manifest_round_trips(manifest: Manifest, tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", manifest)
    assert read_manifest(tmp_path) == manifest


def test_model_description_omits_key_and_address() -> None:
    lm = dspy.LM("openai/gpt-x", temperature=0.1, api_key="sk-secret", api_base="http://10.0.0.1", top_p=0.5)
    assert describe_model(lm) == {"name": "openai/gpt-x", "temperature": 0.1, "top_p": 0.5}


def test_error_names_selection_before_its_consequences(
    manifest: Manifest,
) -> None:
    now = replace(manifest, data={"selection": {"users": 6}, "users": 6})
    with pytest.raises(ConfigError, match=r"`data.selection.users` 5, not 6"):
        check_resumable(manifest, now, Path("run"))


def test_method_with_same_label_needs_same_settings(manifest: Manifest, movies: Task) -> None:
    now = make_manifest(task=movies, data=manifest.data, methods={"rag": Rag(k=8)}, seed=3)
    with pytest.raises(ConfigError, match=r"`methods.rag.settings.k` 4, not 8"):
        check_resumable(manifest, now, Path("run"))


def test_start_time_command_and_added_methods_are_ignored(manifest: Manifest, movies: Task) -> None:
    methods = {"rag:k=8": Rag(k=8), "rag": Rag()}
    now = make_manifest(task=movies, data=manifest.data, methods=methods, seed=3, command="again")
    check_resumable(manifest, replace(now, started_at="later"), Path("run"))
    check_resumable(now, manifest, Path("run"))
