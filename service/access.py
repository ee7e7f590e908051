"""Who may call what: a bearer token, the scopes it has, the scope an endpoint needs.

    open endpoint ─────────────────────────────────────────▶ routes
    no token, or an unknown one ──▶ 401
    known, but no such endpoint ──▶ 404 or 405
    known, without the scope ─────▶ 403
    known, with the scope ─────────────────────────────────▶ routes

Decided from method, path and one header, before a byte of the body is read. Pure ASGI, for
the reason that `request_context` gives.
"""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from hintwise.errors import HintwiseError, NotAuthorized, WrongScope
from service.access_tokens import AccessToken, AccessTokens
from service.endpoints import ANY, OPEN, find_endpoint
from service.metrics import Metrics
from service.problems import nothing_answers, problem

HOW = "hintwise's client and worker send what HINTWISE_TOKEN, or the file HINTWISE_TOKEN_FILE, holds"


class Access:
    """Lets a request through, or answers it with 401, 403, 404 or 405.

    Args:
        app: What answers those who may call.
        tokens: Who may call.
        metrics: Where refusals are counted, by reason.
    """

    def __init__(self, app: ASGIApp, *, tokens: AccessTokens, metrics: Metrics) -> None:
        self._app = app
        self._tokens = tokens
        reasons = ("missing", "unknown", "scope")
        self._refused = {reason: metrics.access_refused.labels(reason) for reason in reasons}  # at 0 from the start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # starting and stopping: the service has no websockets
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        answer = problem(refusal)
        if refusal.status == NotAuthorized.status:
            answer.headers["WWW-Authenticate"] = "Bearer"
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> HintwiseError | None:
        """Returns why this request may not go on, None where it may."""
        endpoint = find_endpoint(scope["method"], scope["path"])
        if endpoint is not None and endpoint.scope == OPEN:
            return None
        sent = _bearer_token(scope)
        if sent is None:
            self._refused["missing"].inc()
            return NotAuthorized(f"send an access token as `Authorization: Bearer TOKEN`; {HOW}")
        token = self._tokens.find(sent)
        if token is None:
            self._refused["unknown"].inc()
            return NotAuthorized(f"the access token is not known here; ask the operator for a new one; {HOW}")
        structlog.contextvars.bind_contextvars(token_name=token.name)
        if endpoint is None:
            return nothing_answers(scope["method"], scope["path"])
        return self._wrong_scope(token, f"{endpoint.method} {endpoint.template}", endpoint.scope)

    def _wrong_scope(self, token: AccessToken, endpoint: str, needed: str) -> HintwiseError | None:
        if needed == ANY or needed in token.scopes:
            return None
        self._refused["scope"].inc()
        return WrongScope(
            f"{endpoint} needs the scope {needed}; this token has {', '.join(sorted(token.scopes))}; "
            "ask the operator for one that has it"
        )


def _bearer_token(scope: Scope) -> bytes | None:
    """Returns the token of the request; two headers are none, since two readers could each take another."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, token = values[0].partition(b" ")
    return token.strip(b" ") or None if scheme.lower() == b"bearer" else None
