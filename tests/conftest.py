"""Every test starts with DSPy's own defaults, a private data directory and no cache on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dspy
import pytest
from dspy.dsp.utils.settings import DEFAULT_CONFIG


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PERSONAAGENT_HOME", str(tmp_path / "home"))
    dspy.configure(**{**DEFAULT_CONFIG, "disable_history": True, "trace": None})
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    yield
    dspy.configure(**DEFAULT_CONFIG)


@pytest.fixture(scope="session")
def lamp_like() -> Path:
    """The folder of real histories in LaMP's layouts; absent on a user's machine."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "lamp_like"
    if not folder.is_dir():
        pytest.skip("the real histories of ../shared/data are not on this machine")
    return folder
