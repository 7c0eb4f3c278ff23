"""What a newcomer touches first: names, imports, README."""

from __future__ import annotations

import importlib
import os
import re
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


def test_readme_s_python_runs(tmp_path: Path) -> None:
    """The first Python block, with a scripted model in place of the paid one."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    code = code.replace('resolve_lm("openai/gpt-4o-mini")', "scripted")
    script = """
from personaagent import scripted_lm
def reply(system, user):
    if "write the feedback" in user:
        return "F."
    if "write the new system prompt" in user:
        return "N."
    return {"thought": "", "action": {"tool": "finish", "answer": "comedy"}}
scripted = scripted_lm(reply)
"""
    done = subprocess.run(
        [sys.executable, "-c", script + code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("comedy\nN.\n")
    assert (tmp_path / "ana.json").is_file()


def test_readme_s_own_method_runs_from_the_folder_it_is_in(tmp_path: Path) -> None:
    """The console script, which unlike `python -m` does not look for modules there by itself."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "# mine.py" in block)
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    fixture = ROOT / "tests" / "eval" / "fixtures" / "LaMP-3"
    command = [str(Path(sys.executable).with_name("personaagent")), "eval", "run", "--task", "LaMP-3"]
    command += ["--data", str(fixture), "--method", "mine:LastAnswer,floors", "--out", "RUN"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"mine:LastAnswer"' in (tmp_path / "RUN" / "manifest.json").read_text(encoding="utf-8")
