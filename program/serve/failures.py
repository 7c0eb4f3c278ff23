"""The errors of the server, in the form of OpenAI's: clients of any route read the same one."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from program.errors import (
    ConfigError,
    DataError,
    PersonaAgentError,
    StoreUnavailableError,
    UnknownInteractionError,
    UnknownUserError,
    UnknownVersionError,
)


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: The HTTP status.
        code: One word for programs.
        message: What is wrong and what to do; never another user's data.
        headers: More headers of the response.
    """

    def __init__(
        self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Return the body of an error.

    Example:
        >>> error_body(404, "unknown_user", "no such user")["error"]["type"]
        'invalid_request_error'
    """
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: ApiError) -> JSONResponse:
    """Return the response of an error."""
    return JSONResponse(
        error_body(error.status, error.code, error.message), error.status, headers=error.headers
    )


def as_api_error(error: PersonaAgentError) -> ApiError:
    """Return what a client is told of an error of this package."""
    if isinstance(error, UnknownUserError):
        return ApiError(404, "unknown_user", "there is no such user")
    if isinstance(error, UnknownVersionError):
        return ApiError(404, "unknown_version", "the user has no such persona version")
    if isinstance(error, UnknownInteractionError):
        return ApiError(404, "unknown_interaction", "the user has no such interaction")
    if isinstance(error, StoreUnavailableError):
        return ApiError(503, "store_unavailable", "the store cannot be used now; try again later")
    if isinstance(error, ConfigError | DataError):
        return ApiError(400, "invalid_request", str(error))
    return ApiError(409, "refused", str(error))


def handle_errors(app: FastAPI) -> None:
    """Answer every error of an app in one form."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(PersonaAgentError)
    async def failed(request: Request, error: PersonaAgentError) -> JSONResponse:
        return error_response(as_api_error(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # The values that are wrong may be a user's text, so only their places are named.
        [first, *_] = error.errors()
        place = ".".join(str(part) for part in first["loc"])
        return JSONResponse(error_body(422, "invalid_request", f"`{place}`: {first['msg']}", place), 422)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        code = codes.get(error.status_code, "refused")
        body = error_body(error.status_code, code, str(error.detail))
        return JSONResponse(body, error.status_code, headers=error.headers)
