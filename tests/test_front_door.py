"""What a newcomer touches first: names, imports, README."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import personaagent

ROOT = Path(__file__).parents[1]


def test_every_public_name_can_be_imported() -> None:
    for name in personaagent.__all__:
        assert getattr(personaagent, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(personaagent, "PersonAgent")


def test_packages_are_this_checkout() -> None:
    for name in ("program", "optimizers", "eval", "personaagent"):
        module = importlib.import_module(name)
        assert Path(str(module.__file__)).is_relative_to(ROOT)


def test_import_is_light_writes_nothing_and_asks_no_network(tmp_path: Path) -> None:
    code = """
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("the import asked for the network")

socket.socket.connect = socket.getaddrinfo = refuse
import personaagent
for name in personaagent.__all__:
    if name not in ("UserStore", "EpisodicMemory"):
        getattr(personaagent, name)
heavy = {"torch", "transformers", "weave", "datasets", "xllamacpp", "matplotlib", "scipy", "pandas"}
heavy |= {"fastapi", "mcp", "uvicorn", "prometheus_client"}
print(sorted(heavy & set(sys.modules)))
"""
    tmp_path.chmod(0o500)
    environment = {**os.environ, "DSPY_CACHEDIR": str(tmp_path / "no")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.strip() == "[]"
