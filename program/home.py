"""The data directory."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the data directory: ``PERSONAAGENT_HOME``, or the platform's user data directory.

    A missing directory is created, readable by its owner only.
    """
    configured = os.environ.get("PERSONAAGENT_HOME")
    if configured:
        path = Path(configured)
    else:
        import platformdirs

        path = platformdirs.user_data_path("personaagent", appauthor=False)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path
