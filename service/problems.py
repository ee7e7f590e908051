"""Failures as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import structlog
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hintwise.errors import (
    BY_STATUS,
    HintwiseError,
    InvalidRequest,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    Offence,
)
from hintwise.schemas import ActRequest, GuidanceRequest, RewardItem, RewardRequest, RollbackRequest, WeightsPath
from service.endpoints import endpoints_at

MEDIA_TYPE = "application/problem+json"
MAX_NAMED = 20
BODIES = ActRequest, GuidanceRequest, RewardRequest, RewardItem, RollbackRequest, WeightsPath
FIELD_NAMES = {name for schema in BODIES for name in schema.model_fields}
log = structlog.get_logger("service")


class NotAnswered(MethodNotAllowed):
    """Carries the methods that are answered, for the `Allow` header."""

    def __init__(self, detail: str, allowed: Sequence[str]) -> None:
        super().__init__(detail)
        self.allowed = allowed


def problem(error: HintwiseError) -> Response:
    """Returns the answer that tells a client about `error`."""
    body = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "errors": [{"field": field, "message": message} for field, message in error.errors],
    }
    headers = {"Retry-After": str(math.ceil(error.retry_after_s))} if error.retry_after_s else {}
    if isinstance(error, NotAnswered):
        headers["Allow"] = ", ".join(error.allowed)
    return JSONResponse(body, status_code=error.status, media_type=MEDIA_TYPE, headers=headers)


def invalid_body(error: ValidationError) -> HintwiseError:
    """Returns a body's faults as one error that names each field."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        return MalformedRequest(f"the body is not JSON: {faults[0]['msg'].removeprefix('Invalid JSON: ')}")
    named = [Offence(_path(fault), _message(fault)) for fault in faults[:MAX_NAMED]]
    count = "1 field is" if len(faults) == 1 else f"{len(faults)} fields are"
    return InvalidRequest(f"{count} not valid", errors=named)


def install(app: FastAPI) -> None:
    """Makes `app` answer every failure as a problem."""
    app.add_exception_handler(HintwiseError, _designed)
    app.add_exception_handler(HTTPException, _from_router)


def designed(path: str, error: HintwiseError) -> Response:
    """Returns the answer to a failure that somebody designed; the log keeps those of the service's own."""
    if error.status >= 500:
        log.warning("request failed", path=path, status=error.status, detail=error.detail)
    return problem(error)


async def _designed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HintwiseError)  # noqa: S101 (what the handler is registered for)
    return designed(request.url.path, error)


async def _from_router(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code in (NotFound.status, MethodNotAllowed.status):
        return problem(nothing_answers(request.method, request.scope["path"]))
    return problem(BY_STATUS.get(error.status_code, HintwiseError)(str(error.detail)))


def nothing_answers(method: str, path: str) -> HintwiseError:
    """Returns what to tell a caller whose method and path no endpoint has."""
    allowed = sorted({endpoint.method for endpoint in endpoints_at(path)})
    if allowed:
        return NotAnswered(f"{method} is not answered at {path}; /docs lists the methods", allowed)
    return NotFound(f"there is nothing at {path}; /docs lists the endpoints")


def unforeseen(path: str, error: Exception) -> Response:
    """Returns the answer to a failure that nobody designed; the log has its trace, the caller nothing of it."""
    log.error("unforeseen failure", path=path, exc_info=error)
    return problem(HintwiseError("the service failed in a way it did not foresee; its log has the trace"))


def _path(fault: ErrorDetails) -> str:
    """Returns a location as one writes it in code: `items[3].action`."""
    path = ""
    for part in fault["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part in FIELD_NAMES or fault["type"] == "extra_forbidden":  # else the tag of a union's member: `list[int]`
            path += f".{part}" if path else part
    return path or "body"


def _message(fault: ErrorDetails) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown field"
    return fault["msg"].removeprefix("Value error, ")
