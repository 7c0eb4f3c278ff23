"""The gate's prior from an earlier run: other users' tests of the same method, never one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.contracts import UserView
from eval.manifest import make_manifest
from eval.methods.grounded import Grounded
from eval.methods.registry import make_methods
from eval.records import PrepareRecord
from eval.run_folder import RunFolder
from optimizers.betting import COLD_PRIOR, fit_prior
from program.errors import ConfigError, DataError
from program.task import get_task

TASK = get_task("LaMP-2M")


def learned(*gains: tuple[float, float]) -> dict[str, Any]:
    checks = [{"decision": {"numbers": {"n_plus": plus, "n_minus": minus}}} for plus, minus in gains]
    return {"alignment": {"steps": [{"checks": checks}]}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    methods = make_methods(["grounded:k=2", "rag"], TASK)
    folder = tmp_path / "run"
    manifest = make_manifest(task=TASK, data={}, methods=methods, lm=None)
    with RunFolder(folder, manifest, []) as written:
        for user, state in (
            ("ana", learned((9.0, 0.0))),
            ("bo", learned((0.0, 4.0), (1.0, 1.0))),
            ("chi", {}),
        ):
            written.append(PrepareRecord(method="grounded:k=2", user_id=user, learned=state))
        written.append(PrepareRecord(method="rag", user_id="ana", learned={}))
    return folder


def view(user: str) -> UserView:
    return UserView(user_id=user, task=TASK, history=[], seed=0)


def test_the_prior_is_fitted_on_the_tests_of_others_alone(run: Path) -> None:
    method = Grounded(k=2, prior=str(run))
    method.check(TASK)
    assert tuple(method._past(view("ana")).prior) == fit_prior([(0.0, 4.0), (1.0, 1.0)])
    assert tuple(method._past(view("bo")).prior) == fit_prior([(9.0, 0.0)])
    assert tuple(method._past(view("new")).prior) == fit_prior([(9.0, 0.0), (0.0, 4.0), (1.0, 1.0)])
    assert fit_prior([(9.0, 0.0)]) != COLD_PRIOR


def test_without_a_run_nothing_is_known_of_others() -> None:
    assert tuple(Grounded()._past(view("ana")).prior) == ()


def test_a_run_of_other_settings_or_another_task_is_refused_before_any_call(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has no tests of `grounded` with these settings"):
        Grounded(k=3, prior=str(run)).check(TASK)
    with pytest.raises(ConfigError, match="has no tests"):
        Grounded(k=2, prior=str(run)).check(get_task("LaMP-2N"))
    with pytest.raises((ConfigError, DataError), match="nowhere"):
        Grounded(k=2, prior=str(tmp_path / "nowhere")).check(TASK)
