"""Errors that the API answers with a status: 400 and 404."""

from __future__ import annotations


class BadRequestError(ValueError):
    """The request is invalid; becomes status 400."""


class NotFoundError(LookupError):
    """The named object, table or file is not stored; becomes status 404."""

    def __init__(self, message: str, deleted_at: str | None = None) -> None:
        super().__init__(message)
        self.deleted_at = deleted_at
