"""Tests that dead and living processes are told apart."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from program.processes import is_dead, process_name

NAME = "import program.processes as p; print(p.process_name(), flush=True); input()"


def test_this_process_is_alive() -> None:
    assert not is_dead(process_name())


@pytest.mark.skipif(os.name != "posix", reason="process status is read on POSIX only")
def test_ended_process_is_dead_even_before_it_is_reaped() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        owner = other.stdout.readline().strip()
        assert not is_dead(owner)
        other.kill()
        if sys.platform == "linux":
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
            assert is_dead(owner)
    assert is_dead(owner)


@pytest.mark.skipif(sys.platform != "linux", reason="start times are read from /proc")
def test_reused_pid_counts_as_dead() -> None:
    host, pid, start = process_name().rsplit(" ", 2)
    assert is_dead(f"{host} {pid} {int(start) + 1}")


def test_process_on_another_host_counts_as_alive() -> None:
    assert not is_dead("elsewhere 1 1")
