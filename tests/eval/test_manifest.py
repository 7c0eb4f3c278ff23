from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

from eval.manifest import check_resumable, describe_model, make_manifest, source_hash
from eval.methods.rag import Rag
from eval.methods.registry import make_methods
from eval.records import Manifest, read_manifest, write_json
from program.errors import ConfigError
from program.models.embedded import EmbeddedLM
from program.models.scripted import scripted_lm
from program.task import Task, get_task


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


def test_adapter_is_in_the_model_description_only_if_it_is_chosen(movies: Task) -> None:
    lm = scripted_lm(lambda system, user: "x")
    free = make_manifest(task=movies, data={}, methods={"rag": Rag()}, lm=lm)
    text = make_manifest(task=movies, data={}, methods={"rag": Rag()}, lm=lm, adapter="text")
    assert "adapter" not in free.model
    assert text.model == {**free.model, "adapter": "text"}
    with pytest.raises(ConfigError, match=r"`model.adapter` None, not 'text'"):
        check_resumable(free, text, Path("run"))


def test_calibration_is_in_the_model_description_only_if_it_is_on(movies: Task) -> None:
    off, on = EmbeddedLM(), EmbeddedLM(calibrate=True)
    assert "calibrate" not in describe_model(off)
    assert describe_model(on) == {**describe_model(off), "calibrate": True}
    plain, calibrated = (
        make_manifest(task=movies, data={}, methods={"rag": Rag()}, lm=lm) for lm in (off, on)
    )
    check_resumable(calibrated, calibrated, Path("run"))
    with pytest.raises(ConfigError, match=r"`model.calibrate` None, not True"):
        check_resumable(plain, calibrated, Path("run"))


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


def test_packages_that_no_longer_matter_are_ignored(manifest: Manifest) -> None:
    old = replace(manifest, versions={**manifest.versions, "bm25s": "0.2.1"})
    check_resumable(old, manifest, Path("run"))


def test_change_of_code_is_named_even_if_an_old_package_differs(manifest: Manifest) -> None:
    old = replace(manifest, versions={**manifest.versions, "bm25s": "0.2.1", "source": "0123456789ab"})
    with pytest.raises(ConfigError) as caught:
        check_resumable(old, manifest, Path("run"))
    assert str(caught.value) == (
        f"`run` was run with `versions.source` '0123456789ab', not {source_hash()!r}; "
        "give the same settings to continue it, or another `--out`"
    )


@pytest.mark.parametrize("package", ["personaagent", "dspy", "numpy", "rank-bm25"])
def test_change_of_a_package_that_matters_is_refused(package: str, manifest: Manifest) -> None:
    assert re.fullmatch(r"[0-9a-f]{12}", manifest.versions["source"])
    old = replace(manifest, versions={**manifest.versions, package: "0.0.1"})
    with pytest.raises(ConfigError, match=re.escape(f"`versions.{package}` '0.0.1', not")):
        check_resumable(old, manifest, Path("run"))
    missing = {name: number for name, number in manifest.versions.items() if name != package}
    with pytest.raises(ConfigError, match=re.escape(f"`versions.{package}` None, not")):
        check_resumable(replace(manifest, versions=missing), manifest, Path("run"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({"files": [{"sha256": "a"}]}, {"files": [{"sha256": "b"}]}, "`data.files[0].sha256` 'a', not 'b'"),
        ({"files": ["a"]}, {"files": ["a", "b"]}, "`data.files (length)` 1, not 2"),
        ({"files": ["a", "b"]}, {"files": ["a"]}, "`data.files (length)` 2, not 1"),
        ({}, {"layout": "oppu"}, "`data.layout` None, not 'oppu'"),
        ({"layout": "oppu"}, {}, "`data.layout` 'oppu', not None"),
    ],
)
def test_nested_differences_are_named_by_path(
    old: dict[str, Any], new: dict[str, Any], message: str, manifest: Manifest
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_resumable(replace(manifest, data=old), replace(manifest, data=new), Path("run"))


def test_manifest_read_from_json_is_resumable(manifest: Manifest, tmp_path: Path) -> None:
    # JSON has lists for tuples.
    now = replace(manifest, data={"files": ("a", "b"), "selection": {"users": None}})
    write_json(tmp_path / "manifest.json", now)
    check_resumable(read_manifest(tmp_path), now, tmp_path)


def test_model_is_compared_by_name_and_sampling(manifest: Manifest, movies: Task) -> None:
    lm = scripted_lm(lambda system, user: "x")
    with_model = make_manifest(task=movies, data=manifest.data, methods={"rag": Rag()}, seed=3, lm=lm)
    lm.kwargs["temperature"] = 0.7
    hot = make_manifest(task=movies, data=manifest.data, methods={"rag": Rag()}, seed=3, lm=lm)
    with pytest.raises(ConfigError, match=r"`model.temperature` .*, not 0.7"):
        check_resumable(with_model, hot, Path("run"))
    with pytest.raises(ConfigError, match=r"`model.name` None, not 'scripted/"):
        check_resumable(manifest, with_model, Path("run"))


def test_a_changed_rule_or_task_of_ones_own_changes_the_hash_of_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "rules_of_a_manifest.py"

    def hashes(text: str) -> tuple[str, str, str]:
        file.write_text("from optimizers.gates import Best as Mine\n" + text, encoding="utf-8")
        task = get_task("LaMP-2M")
        methods = make_methods(["personaagent:gate=rules_of_a_manifest:Mine,personaagent:gate=best"], task)
        made = make_manifest(task=task, data={}, methods=methods, lm=None)
        own = make_manifest(
            task=task, data={}, methods=methods, lm=None, task_spec="rules_of_a_manifest:TASK"
        )
        first, second = made.methods.values()
        return first.source, second.source, list(own.methods.values())[1].source

    old, new = hashes("# old"), hashes("# new")
    assert old[0] != new[0]
    assert old[1] == new[1] == ""
    assert "" != old[2] != new[2]
