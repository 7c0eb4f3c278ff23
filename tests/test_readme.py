"""Every command and code block of the README runs, in one folder and in order."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.S | re.M)
MODEL = """
from personaagent import scripted_lm


def reply(system, user):
    if "write the feedback" in user:
        return "Ana asks for one dish."
    if "write the new system prompt" in user:
        return "Ana wants one dish, named in one word."
    if "write the profile" in user:
        return "Ana cooks with lentils."
    answer = "comedy" if "movie" in system + user else "Something with lentils."
    if "`action`" in user:
        return {"thought": "", "action": {"tool": "finish", "answer": answer}}
    return {"answer": answer}


LM = scripted_lm(reply)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user who follows the README, with the files it names."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "scripted_model.py").write_text(MODEL, encoding="utf-8")
    line = '{"user_id": "ana", "query": "What should I cook today?", "response": "Lentil soup."}\n'
    (folder / "history.jsonl").write_text(line, encoding="utf-8")
    shutil.copy(ROOT / "eval" / "data" / "sample" / "movies.json", folder)
    for _, block in BLOCKS:
        if block.startswith("# mine.py"):
            (folder / "mine.py").write_text(block, encoding="utf-8")
    return folder


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PERSONAAGENT_HOME": str(folder / "home"),
        "PERSONAAGENT_MODEL": "python:scripted_model:LM",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400
    )


def test_python_blocks_run(folder: Path) -> None:
    code = next(block for language, block in BLOCKS if language == "python" and "open_session" in block)
    done = run([sys.executable, "-c", code], folder)
    assert done.returncode == 0, done.stderr
    answer, record = done.stdout.splitlines()
    assert answer == "Something with lentils."
    assert record.startswith("1 step (agreement ")


def test_commands_run_in_order(folder: Path) -> None:
    script = Path(sys.executable).with_name("personaagent")
    commands = [
        shlex.split(line, comments=True)
        for language, block in BLOCKS
        if language == "bash"
        for line in block.splitlines()
    ]
    assert len(commands) >= 14
    # `align` of the section on own rules needs ana, whom the command line's section has forgotten.
    commands = sorted(commands, key=lambda words: words[1:3] == ["users", "forget"])
    for words in commands:
        assert words[0] == "personaagent"
        done = run([str(script), *words[1:]], folder)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
    assert (folder / "RUN" / "report" / "report.html").is_file()


def test_the_two_make_targets_do_the_set_up() -> None:
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target, command in (
        ("demo", "$(BIN)/personaagent demo"),
        ("test", "$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile"),
    ):
        assert re.search(rf"^{target}: \$\(VENV\)/\.{target}\n\t{re.escape(command)}$", make, re.M)


def test_the_demo_measures_and_explains_with_the_embedded_model(folder: Path) -> None:
    script = str(Path(sys.executable).with_name("personaagent"))
    done = run([script, "demo", "--users", "1", "--queries", "2", "--model", "embedded"], folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ *memory and persona, aligned +[01]\.\d\d \[", done.stdout, re.M)
    assert re.search(
        r"^Alignment beside memory: probability .*(better|worse|undecided)\.$", done.stdout, re.M
    )
    assert re.search(
        r"^ana said '.*', the agent '.*' \((right|wrong), probability \d\.\d\d\)$", done.stdout, re.M
    )
    assert re.search(r"^    (confirmed|provisional|refused): ", done.stdout, re.M)
    page = Path(done.stdout.strip().splitlines()[-1].rpartition(": ")[2])
    assert "What each line rests on" in page.read_text(encoding="utf-8")


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert README.count("\n") <= 145
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
    for path in re.findall(r"`((?:program|optimizers|eval|dev)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path
