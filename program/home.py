"""The data directory."""

from __future__ import annotations

import os
from pathlib import Path

from program.errors import ConfigError
from program.text_safety import find_problem


def home() -> Path:
    """Return the data directory: ``PERSONAAGENT_HOME``, or the platform's user data directory.

    A missing directory is created, readable by its owner only.

    Raises:
        ConfigError: The directory cannot be created, or its path is not valid UTF-8.
    """
    configured = os.environ.get("PERSONAAGENT_HOME")
    if configured:
        path = Path(configured)
    else:
        import platformdirs

        path = platformdirs.user_data_path("personaagent", appauthor=False)
    hint = "set PERSONAAGENT_HOME to a folder that you can write"
    if find_problem(str(path)):
        raise ConfigError(f"the data directory {str(path)!r} is not valid UTF-8; {hint}")
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"cannot create the data directory `{path}`: {error.strerror}; {hint}") from error
    return path
