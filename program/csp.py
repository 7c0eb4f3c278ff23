"""The hash by which a page's policy allows its own style and script, and nothing else."""

from __future__ import annotations

import base64
import hashlib


def csp_hash(text: str) -> str:
    """Return the source of a Content-Security-Policy that allows an inline element with this text.

    Example:
        >>> csp_hash("body {}")
        'sha256-YjaKGiklmzC6wjXA513HAMmzus8VE61XCOT+SmwNZWA='
    """
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
