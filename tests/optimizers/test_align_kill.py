"""Killed in the middle of an alignment: the store opens, the old persona stands, it can be repeated."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from program.store import UserStore

SCRIPT = """
import os, signal, sys
from pathlib import Path
import dspy
from optimizers.stored import align_user
from optimizers.config import PAPER
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.store import UserStore

home, kill_at = Path(sys.argv[1]), int(sys.argv[2])
calls = 0

def reply(system, user):
    global calls
    calls += 1
    if calls == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    if "write the feedback" in user:
        return "Be brief."
    if "write the new system prompt" in user:
        return f"Version of call {calls}."
    if "write the profile" in user:
        return "Likes brevity."
    return {"thought": "", "action": {"tool": "finish", "answer": "yes"}}

with UserStore(home / "users.db") as store:
    said = [Interaction(id=str(n), user_id="ana", query=f"q {n}", response="yes") for n in range(4)]
    store.append("ana", said, task="free-text")
    with dspy.context(lm=scripted_lm(reply)):
        align_user(store, "ana", PAPER, home=home, wikipedia=False)
"""
CALLS = 1 + 3 * 3 + 3 + 1


def run(home: Path, kill_at: int) -> int:
    command = [sys.executable, "-c", SCRIPT, str(home), str(kill_at)]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode


@pytest.mark.parametrize("kill_at", [1, 2, 9, 11, CALLS])
def test_killed_alignment_leaves_the_old_persona_and_can_be_repeated(tmp_path: Path, kill_at: int) -> None:
    assert run(tmp_path, kill_at) == -signal.SIGKILL
    with UserStore(tmp_path / "users.db") as store:
        assert len(store.interactions("ana")) == 4
        head = store.persona("ana")
        # The first call writes the profile that the initial persona is made of.
        assert (head is None) if kill_at == 1 else (head is not None and head.source == "initial")
        assert [row.status for row in store.alignments("ana")] == ([] if kill_at == 1 else ["interrupted"])
    assert run(tmp_path, 0) == 0
    with UserStore(tmp_path / "users.db") as store:
        assert [v.source for v in store.persona_history("ana")] == ["initial", "alignment"]
        assert [row.status for row in store.alignments("ana")][-1] == "done"
