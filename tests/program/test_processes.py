"""Tests that dead and living processes are told apart."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.processes import _start, is_dead, process_name

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


@pytest.mark.skipif(sys.platform != "linux", reason="start times are read from /proc")
def test_names_of_version_0_1_are_read() -> None:
    host, pid, start = process_name().rsplit(" ", 2)
    assert not is_dead(f"{host}/{pid}/{start}")
    assert is_dead(f"{host}/{pid}/{int(start) + 1}")


@pytest.mark.skipif(os.name != "posix", reason="process status is read on POSIX only")
@pytest.mark.parametrize("start", ["", "?"])
def test_without_a_start_time_only_a_missing_pid_is_dead(start: str) -> None:
    host = process_name().rsplit(" ", 2)[0]
    assert not is_dead(f"{host} {os.getpid()} {start}")
    # Another user may own process 1, so that it cannot be signalled; it is alive all the same.
    assert not is_dead(f"{host} 1 {start}")
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        pass
    assert is_dead(f"{host} {other.pid} {start}")


@given(st.text())
def test_unreadable_name_counts_as_alive(name: str) -> None:
    assert not is_dead(name)


@pytest.mark.skipif(sys.platform != "linux", reason="start times are read from /proc")
def test_start_time_is_positive_and_a_missing_process_has_none() -> None:
    assert int(_start(os.getpid())) > 0
    assert _start(2**22 + 1) == "-"
