"""The examples in docstrings run, and every exported name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

PACKAGES = ("program", "optimizers", "eval")
CONSTANTS = {"PAPER"}
"""Exported values; only functions and classes have docstrings."""


def modules() -> Iterator[str]:
    for package in PACKAGES:
        folder = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(folder, f"{package}."):
            if ".migrations." not in module.name:
                yield module.name


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSONAAGENT_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("name", list(modules()))
def test_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    for number, example in enumerate(examples(importlib.import_module(name))):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        report: list[str] = []
        assert runner.run(example, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_has_an_example(package: str) -> None:
    module = importlib.import_module(package)
    names = [name for name in module.__all__ if name not in CONSTANTS]
    missing = [name for name in names if ">>>" not in (inspect.getdoc(getattr(module, name)) or "")]
    assert not missing
