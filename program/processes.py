"""Process names that a later process can check: is the process of that name still alive?"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path


def process_name() -> str:
    """Return ``"host pid start"``; the start time tells apart two processes with the same pid."""
    return f"{socket.gethostname()} {os.getpid()} {_start(os.getpid())}"


def is_dead(name: str) -> bool:
    """Return whether the process with this `process_name` has certainly ended.

    False if that is uncertain: the process ran on another host, or the system gives no process
    information. Zombies are dead. Also reads the names of version 0.1 (``host/pid/start``).

    Example:
        >>> is_dead(process_name())
        False
    """
    parts = re.fullmatch(r"(.*)([ /])(\d+)\2(.*)", name)
    if parts is None or parts[1] != socket.gethostname() or os.name != "posix":
        return False
    pid, start = int(parts[3]), parts[4]
    if start not in ("", "?"):
        return _start(pid) != start
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _start(pid: int) -> str:
    """Return the start time in clock ticks since boot; ``"?"`` if unknown, ``"-"`` if no such process."""
    if not Path("/proc/self/stat").exists():
        return "?"
    try:
        # The program's name, in parentheses, may hold spaces (proc(5): state is field 3, start time 22).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "-"
    return "-" if fields[0] in "ZX" else fields[19]
