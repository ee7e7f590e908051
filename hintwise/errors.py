"""Errors that cross the wire, and the HTTP status each one becomes.

HintwiseError                500
├── MalformedRequest         400  the body is not JSON
├── NotAuthorized            401  no token, or an unknown one
│   └── WrongScope           403  the token may not do this
├── NotFound                 404  no such path
│   └── NotRetained          404  no such policy version is kept
├── MethodNotAllowed         405  the path exists, the method does not
├── VersionConflict          409  the weights moved since the caller looked
├── TooLarge                 413  the body is over the byte limit
├── UnsupportedMediaType     415  the body has another content type than the endpoint takes
├── InvalidRequest           422  the caller must change the request
│   └── WeightsRejected      422  weights do not fit the model; the old ones still serve
├── PreconditionRequired     428  a swap without If-Match
├── Overloaded               429  the queue is full; back off, then retry
├── InferenceFailed          500  the forward pass raised; a retry may succeed
├── GuidanceUnavailable      502  the guidance source failed
├── Unavailable              503  starting or stopping; retry elsewhere or later
│   └── ServiceUnreachable   503  nobody answers at that address (raised by the client alone)
├── DeadlineExceeded         504  no batch took the request in time
├── ModelNotFound                 a model could not be loaded (raised at start, never sent)
├── ScorerChanged                 another model scores than before (raised by a trainer, never sent)
└── PluginUnusable                what another package brings cannot be used (raised at start, never sent)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Offence(NamedTuple):
    """One thing that is wrong with a request: where, and what."""

    field: str
    """Path inside the request, such as `observations[3]` or `If-Match`."""
    message: str


class HintwiseError(Exception):
    """Base of every error the service reports to a caller.

    Args:
        detail: What failed and what to do, for a person.
        errors: One entry per offending field or item.
        retry_after_s: Seconds after which a retry may succeed; None where a retry is no use.
        request_id: The `X-Request-Id` of the answer that carried the error.
    """

    status = 500
    title = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        errors: Iterable[Offence] = (),
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors: Sequence[Offence] = tuple(errors)
        self.retry_after_s = retry_after_s
        self.request_id = request_id

    def __str__(self) -> str:
        named = "; ".join(f"{field}: {message}" for field, message in self.errors)
        return f"{self.detail} ({named})" if named else self.detail


class MalformedRequest(HintwiseError):
    status = 400
    title = "Malformed request"


class NotAuthorized(HintwiseError):
    status = 401
    title = "Not authorized"


class WrongScope(NotAuthorized):
    status = 403
    title = "Wrong scope"


class NotFound(HintwiseError):
    status = 404
    title = "Not found"


class NotRetained(NotFound):
    title = "Version not retained"


class MethodNotAllowed(HintwiseError):
    status = 405
    title = "Method not allowed"


class VersionConflict(HintwiseError):
    status = 409
    title = "Version conflict"


class TooLarge(HintwiseError):
    status = 413
    title = "Body too large"


class UnsupportedMediaType(HintwiseError):
    status = 415
    title = "Unsupported media type"


class InvalidRequest(HintwiseError):
    status = 422
    title = "Invalid request"


class WeightsRejected(InvalidRequest):
    title = "Weights rejected"


class PreconditionRequired(HintwiseError):
    status = 428
    title = "Precondition required"


class Overloaded(HintwiseError):
    status = 429
    title = "Queue full"


class InferenceFailed(HintwiseError):
    title = "Inference failed"


class GuidanceUnavailable(HintwiseError):
    status = 502
    title = "Guidance unavailable"


class Unavailable(HintwiseError):
    status = 503
    title = "Unavailable"


class ServiceUnreachable(Unavailable):
    title = "Service unreachable"


class DeadlineExceeded(HintwiseError):
    status = 504
    title = "Deadline exceeded"


class ModelNotFound(HintwiseError):
    title = "Model not found"


class ScorerChanged(HintwiseError):
    title = "Scorer changed"


class PluginUnusable(HintwiseError):
    title = "Plug-in unusable"


_BROADEST: tuple[type[HintwiseError], ...] = (
    HintwiseError,
    MalformedRequest,
    NotAuthorized,
    WrongScope,
    NotFound,
    MethodNotAllowed,
    VersionConflict,
    TooLarge,
    UnsupportedMediaType,
    InvalidRequest,
    PreconditionRequired,
    Overloaded,
    GuidanceUnavailable,
    Unavailable,
    DeadlineExceeded,
)
_NARROWER: tuple[type[HintwiseError], ...] = (NotRetained, WeightsRejected, InferenceFailed)

BY_TITLE = {error.title: error for error in (*_BROADEST, *_NARROWER)}
"""The class a client raises for a problem's `title`."""

BY_STATUS = {error.status: error for error in _BROADEST}
"""The class for a status whose title says nothing: an answer from a proxy, or a newer service."""
