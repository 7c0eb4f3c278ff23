"""Names for processes, so that a later process can tell that an earlier one has died."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path


def process_name() -> str:
    """Return ``"host pid start"``; ``start`` tells apart two processes that had the same pid."""
    return f"{socket.gethostname()} {os.getpid()} {_start(os.getpid())}"


def is_dead(name: str) -> bool:
    """Return whether the process that `process_name` named has certainly ended.

    False if the answer is not certain: another host, or a system that does not tell. Zombies are
    dead. Names that version 0.1 wrote into traces (``host/pid/start``) are read as well.

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
