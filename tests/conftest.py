"""Every test starts with DSPy's own defaults, a private data directory and no cache on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dspy
import pytest
from dspy.dsp.utils.settings import DEFAULT_CONFIG

from program.models.abilities import forget_abilities


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PERSONAAGENT_HOME", str(tmp_path / "home"))
    dspy.configure(**{**DEFAULT_CONFIG, "disable_history": True, "trace": None})
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    forget_abilities()
    yield
    dspy.configure(**DEFAULT_CONFIG)


@pytest.fixture(scope="session")
def lamp_like() -> Path:
    """The folder of LaMP-like histories, for tests marked `real_histories`; skips if there is none.

    ``PERSONAAGENT_HISTORIES`` names the folder; beside a checkout it is ``../shared/data/lamp_like``.
    """
    beside = Path(__file__).parents[2] / "shared" / "data" / "lamp_like"
    folder = Path(os.environ.get("PERSONAAGENT_HISTORIES") or beside)
    if not folder.is_dir():
        pytest.skip("needs LaMP-like histories; set PERSONAAGENT_HISTORIES to their folder")
    return folder
