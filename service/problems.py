"""Failures as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import math
import re

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
from hintwise.schemas import ActRequest, GuidanceRequest, RewardItem, RewardRequest

MEDIA_TYPE = "application/problem+json"
MAX_NAMED = 20
FIELD_NAMES = {
    name for schema in (ActRequest, GuidanceRequest, RewardRequest, RewardItem) for name in schema.model_fields
}
log = structlog.get_logger("service")


def problem(error: HintwiseError) -> Response:
    """Returns the answer that tells a client about `error`."""
    body = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "errors": [{"field": field, "message": message} for field, message in error.errors],
    }
    headers = {"Retry-After": str(math.ceil(error.retry_after_s))} if error.retry_after_s else None
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


async def _designed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HintwiseError)  # noqa: S101 (what the handler is registered for)
    if error.status >= 500:
        log.warning("request failed", path=request.url.path, status=error.status, detail=error.detail)
    return problem(error)


async def _from_router(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    path = request.url.path
    if error.status_code == NotFound.status:
        return problem(NotFound(f"there is nothing at {path}; /docs lists the endpoints"))
    if error.status_code == MethodNotAllowed.status:
        answer = problem(MethodNotAllowed(f"{request.method} is not answered at {path}; /docs lists the methods"))
        answer.headers["Allow"] = ", ".join(sorted(_methods_at(request.app, path)))
        return answer
    return problem(BY_STATUS.get(error.status_code, HintwiseError)(str(error.detail)))


def unforeseen(path: str, error: Exception) -> Response:
    """Returns the answer to a failure that nobody designed; the log has its trace, the caller nothing of it."""
    log.error("unforeseen failure", path=path, exc_info=error)
    return problem(HintwiseError("the service failed in a way it did not foresee; its log has the trace"))


def _methods_at(app: FastAPI, path: str) -> set[str]:
    """Returns every method that is answered at `path`; Starlette's own Allow knows the first route alone."""
    methods: set[str] = set()
    for template, operations in app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            methods |= {method.upper() for method in operations}
    return methods or {"GET", "HEAD"}  # /docs and its kin are not in the document


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
