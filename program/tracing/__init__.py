"""Where spans go: to Weave's wire API, to a local database, to the terminal and to one HTML page."""

from typing import Any

from program.renamed import find_renamed


def __getattr__(name: str) -> Any:
    return find_renamed(__name__, name)
