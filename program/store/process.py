"""Which process is at work on something, so that a later one can tell that it died."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def this_process() -> str:
    """Return ``"host pid start"``; ``start`` tells apart two processes that had the same pid."""
    return f"{socket.gethostname()} {os.getpid()} {_start(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Return whether the process that called itself ``owner`` has surely ended.

    Where nothing sure can be said (another host, no way to ask the system) it counts as alive.
    """
    host, pid, start = owner.rsplit(" ", 2)
    if host != socket.gethostname() or os.name != "posix":
        return False
    if start != "?":
        return _start(int(pid)) != start
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _start(pid: int) -> str:
    """Return the start time in clock ticks since boot; ``"?"`` unknown, ``"-"`` no such process."""
    if not Path("/proc/self/stat").exists():
        return "?"
    try:
        # The name of the program, in parentheses, may hold spaces (proc(5): state is field 3,
        # start time field 22).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "-"
    return "-" if fields[0] in "ZX" else fields[19]
