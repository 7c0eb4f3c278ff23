"""Which process a trace comes from, and whether it still runs."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path


def identity() -> str:
    """Return a name of this process that no other process gets: host, number, start."""
    return f"{platform.node()}/{os.getpid()}/{_started(os.getpid())}"


def is_dead(name: str) -> bool:
    """Return whether the process named by `identity` has certainly ended.

    False for processes of other hosts and where the system does not tell.
    """
    host, number, started = name.rsplit("/", 2)
    if host != platform.node() or sys.platform == "win32":
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _started(int(number)) != started


def _started(pid: int) -> str:
    with suppress(OSError, IndexError):
        # The command in parentheses may hold spaces; the start time is the 20th field after it.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return ""
