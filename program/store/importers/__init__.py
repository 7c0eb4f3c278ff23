"""Imports interaction histories from files, with one reader for each layout."""

from program.store.importers.report import BadRecord, ImportReport
from program.store.importers.run import import_users
from program.store.importers.sniff import Format

__all__ = ["BadRecord", "Format", "ImportReport", "import_users"]
