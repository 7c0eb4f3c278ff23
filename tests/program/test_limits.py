"""Upper limits of settings, in Python and on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import personaagent
from eval.data.selection import Selection
from optimizers.batches import Hardest
from optimizers.config import AlignmentConfig
from program.errors import ConfigError
from program.loop import AgentSettings
from program.models.scripted import scripted_lm
from program.store import UserStore

HUGE = 10**23


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (AlignmentConfig, "steps"),
        (AlignmentConfig, "batch_size"),
        (AlignmentConfig, "max_chars"),
        (Hardest, "pool_factor"),
        (AgentSettings, "max_steps"),
        (AgentSettings, "k"),
        (AgentSettings, "item_chars"),
        (AgentSettings, "max_input_chars"),
        (Selection, "users"),
        (Selection, "history"),
        (Selection, "queries"),
    ],
)
def test_setting_that_would_never_end_is_refused(make: Callable[..., Any], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"`{name}` must be at most [\d,]+, got {HUGE}"):
        make(**{name: HUGE})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["align", "ana", "--steps", str(HUGE)], "`steps` must be at most 1,000"),
        (["align", "ana", "--batch", str(HUGE)], "`batch_size` must be at most"),
        (["align", "ana", "--choice", f"hardest:pool_factor={HUGE}"], "`pool_factor` must be at most"),
        (["align", "ana", "--max-usd", "nan"], "Invalid value for"),
        (["align", "ana", "--steps", "9" * 5000], "Invalid value for '--steps'"),
    ],
)
def test_align_refuses_a_number_out_of_range_before_any_call(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert run([*words, "--store", str(tmp_path / "s.db")], monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s.db").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", f"rag:k={HUGE}"], "`k` must be at most"),
        (["--users", str(HUGE)], "`users` must be at most"),
        (["--over", f"queries={'9' * 5000}"], "needs whole numbers, got '99999999999999999…'"),
        (["--threads", str(HUGE)], "Invalid value for '--threads'"),
        (["--temperature", "nan"], "Invalid value for"),
        (["--max-usd", "nan"], "Invalid value for"),
    ],
)
def test_eval_run_refuses_a_number_out_of_range_before_any_call(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    data = tmp_path / "data.json"
    data.write_text("[]")
    options = ["--task", "LaMP-3", "--data", str(data), "--out", str(tmp_path / "run")]
    method = [] if "--method" in words else ["--method", "rag"]
    assert run(["eval", "run", *options, *method, *words], monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "argv", ["personaagent", *words])
    with pytest.raises(SystemExit) as end:
        personaagent.main()
    return end.value.code


@pytest.mark.parametrize("words", [["align", "ana"], ["ask", "ana", "which tea?"]])
def test_option_decides_how_much_of_a_long_response_a_prompt_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    prompts: list[str] = []

    def reply(system: str, user: str) -> Any:
        prompts.append(user)
        if "write the profile" in user:
            return "Likes tea."
        return {"thought": "", "action": {"tool": "finish", "answer": "Mint."}}

    models = ModuleType("recorded_models")
    models.lm = scripted_lm(reply)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "recorded_models", models)
    location = tmp_path / "s.db"
    with UserStore(location) as store:
        store.add_user("ana", task="free-text")
        store.observe("ana", query="Tell me.", response="long " * 200)
    rest = ["--model", "python:recorded_models:lm", "--trace", "off", "--store", str(location)]
    run([*words, *rest, "--max-input-chars", "300"], monkeypatch)
    assert prompts
    assert "long long" in "".join(prompts)
    assert all("long " * 60 not in prompt for prompt in prompts)
    capsys.readouterr()
    assert run([*words, *rest, "--max-input-chars", "3"], monkeypatch) == 2
    assert "`max_input_chars` must be at least 200, got 3" in capsys.readouterr().err


def test_observed_response_of_any_length_is_stored_whole(tmp_path: Path) -> None:
    with UserStore(tmp_path / "s.db") as store:
        store.add_user("ana", task="free-text")
        store.observe("ana", query="Tell me.", response="x" * 50_000)
        assert store.interactions("ana")[0].response == "x" * 50_000
