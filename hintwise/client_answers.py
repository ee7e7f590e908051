"""What an answer means: the body that was asked for, or the exception that a failure stands for."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from hintwise.errors import BY_STATUS, BY_TITLE, HintwiseError, Offence
from hintwise.schemas import Problem

Answer = TypeVar("Answer", bound=BaseModel)


def error_of(response: httpx.Response) -> HintwiseError:
    """Returns a failed answer as the exception of its title, or else of its status."""
    by_status = BY_STATUS.get(response.status_code, HintwiseError)
    retry_after = response.headers.get("retry-after", "")
    about: dict[str, Any] = {
        "retry_after_s": float(retry_after) if re.fullmatch(r"[0-9]{1,6}", retry_after) else None,
        "request_id": response.headers.get("x-request-id"),
    }
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/problem+json":
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            pass
        else:
            named = [Offence(entry.field, entry.message) for entry in problem.errors]
            return BY_TITLE.get(problem.title, by_status)(problem.detail, errors=named, **about)
    return by_status(
        f"{response.url} answered {response.status_code} {response.reason_phrase} with a body that is no problem "
        f"report ({media_type or 'no content type'}): a proxy in between, or not a Hintwise service",
        **about,
    )


def parsed(response: httpx.Response, answer: type[Answer]) -> Answer:
    """Returns the body of a good answer.

    Raises:
        HintwiseError: It is something else.
    """
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        raise HintwiseError(
            f"{response.url} answered {response.status_code}, but not with a {answer.__name__}: "
            "a proxy in between, or not a Hintwise service",
            request_id=response.headers.get("x-request-id"),
        ) from error
