"""Requests that are not answered: every error has the shape of OpenAI's."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

FAILED = "the answer failed; the server's log says why"


class RefusedError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: The HTTP status.
        message: What is wrong, and what would be right.
        code: OpenAI's word for it.
        param: The field.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


def error_body(error: RefusedError) -> dict[str, Any]:
    """Write an error as OpenAI does."""
    kind = KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def error_response(error: RefusedError) -> JSONResponse:
    """Answer with an error."""
    return JSONResponse(error_body(error), error.status)


def add_errors(app: FastAPI) -> None:
    """Let every error of an application have OpenAI's shape."""

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        what = "this server cannot follow it; leave it out" if first["type"] == "extra_forbidden" else first["msg"]
        return error_response(RefusedError(400, f"{field or 'the body'}: {what}", param=field or None))

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(RefusedError(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return error_response(RefusedError(500, FAILED))
