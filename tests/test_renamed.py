"""Names of version 0.1 still work, and say what they are called now."""

from __future__ import annotations

import importlib
import sys

import pytest

import personaagent
from optimizers import AlignmentRecord, Rollout
from optimizers.config import PAPER, make_plan
from program.renamed import MODULES, NAMES, find_renamed
from program.spans import span
from program.usage import UsageTracker


@pytest.mark.parametrize("old", MODULES)
def test_an_old_module_imports_and_names_the_new_one(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"`{old}` is now `{MODULES[old]}`"):
        module = importlib.import_module(old)
    assert module.__name__ == old
    importlib.import_module(MODULES[old])


@pytest.mark.parametrize("old", NAMES)
def test_an_old_name_is_found_with_a_warning(old: str) -> None:
    with pytest.warns(DeprecationWarning, match="the old name goes in 0.3"):
        assert find_renamed("personaagent", old) is not None


def test_names_move_with_their_module() -> None:
    sys.modules.pop("program.ledger", None)
    with pytest.warns(DeprecationWarning, match="the old name goes"):
        from program.ledger import Budget, Ledger  # type: ignore[import-not-found]
    assert Ledger is UsageTracker
    assert Budget().max_calls is None
    with pytest.warns(DeprecationWarning, match="the old name goes"):
        from program.tracing import span as old_span
    assert old_span is span


def test_the_front_door_finds_old_names() -> None:
    with pytest.warns(DeprecationWarning, match=r"`personaagent.Ledger` is now `program.usage.UsageTracker`"):
        assert personaagent.Ledger is UsageTracker
    with pytest.raises(AttributeError, match="module 'personaagent' has no attribute 'Ledgers'"):
        personaagent.Ledgers  # noqa: B018 - the access is the test


def test_old_attributes_of_records_read() -> None:
    record = AlignmentRecord(
        config=PAPER, plan=make_plan(PAPER, trainset=3, calls_per_rollout=(3, 6)), n_rollouts=7
    )
    with pytest.warns(DeprecationWarning, match=r"AlignmentRecord.n_rollouts"):
        assert record.agent_runs == 7
    with pytest.raises(AttributeError):
        record.agent_run  # noqa: B018 - the access is the test
    with pytest.warns(DeprecationWarning, match="the old name goes"):
        from optimizers.interop import Rehearsal  # type: ignore[import-not-found]
    assert Rehearsal.__name__ == "OptimizableAgent"
    assert Rollout.__name__ == "Rollout"
