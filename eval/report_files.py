"""The files of a report in a run folder: which they are, and how to delete them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

FOLDER = "report"
PAGE, MARKDOWN = "report.html", "report.md"
LISTING = "files.txt"
"""Lists the tables and figures of a report, so that the next one can delete them."""


def listed(out: Path) -> list[str]:
    """Return the tables and figures that a report in this folder lists."""
    listing = out / LISTING
    names = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    return [name for name in names if str(PurePosixPath(name).parent) in ("tables", "figures")]


def delete_report(run: Path) -> None:
    """Delete the report in a folder of runs, if there is one; files of others stay.

    Example:
        >>> delete_report(Path("run"))
    """
    out = run / FOLDER
    for name in (*listed(out), PAGE, MARKDOWN, LISTING):
        (out / name).unlink(missing_ok=True)
