"""`POST /act`, `/guidance` and `/reward`: body -> schema -> engine -> JSON, ahead of FastAPI's router.

request ─▶ RequestContext ─▶ Access ─▶ InferenceEndpoints ─▶ act | guidance | reward ─▶ answer
                                               └▶ every other method and path: FastAPI's router

For each request FastAPI matches routes, resolves dependencies and opens exit stacks, of which
these three use nothing. Their entries in `routes` are what `/docs` and `/openapi.json` show.
Pure ASGI, for the reason that `request_context` gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import structlog
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from hintwise.errors import DeadlineExceeded, HintwiseError, Overloaded
from hintwise.schemas import ActRequest, GuidanceRequest, RewardRequest
from service.act import act
from service.batcher import TOO_LATE
from service.bodies import deadline_of, read_json, while_connected
from service.engine import Engine
from service.guidance_stream import guide_or_stream
from service.problems import designed
from service.request_context import CLIENT_LEFT
from service.reward import reward

TEXTS = {"task", "observations", "hints", "candidates", "items"}
"""Fields of bodies that hold texts, which no log line shows unless the operator asks for them."""
log = structlog.get_logger("service")


class Kind(NamedTuple):
    name: str  # as the metrics have it
    schema: type[BaseModel]
    answer: Callable[..., Awaitable[dict[str, Any] | Response]]


KINDS = {
    "/act": Kind("act", ActRequest, act),
    "/guidance": Kind("guidance", GuidanceRequest, guide_or_stream),
    "/reward": Kind("reward", RewardRequest, reward),
}


class InferenceEndpoints:
    """Answers the requests that the models answer, and hands on every other.

    Args:
        app: What answers the others.
        engine: What answers these.
    """

    def __init__(self, app: ASGIApp, *, engine: Engine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = KINDS.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if kind is None:
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._answer(kind, Request(scope, receive))
        except HintwiseError as error:
            answer = designed(scope["path"], error)
        await answer(scope, receive, send)

    async def _answer(self, kind: Kind, request: Request) -> Response:
        """Reads the body, asks while the caller is there, and writes the answer, unless it writes itself."""
        engine, settings = self._engine, self._engine.settings
        deadline = deadline_of(request, default_ms=settings.request_timeout_ms, max_ms=settings.max_request_timeout_ms)
        try:
            async with asyncio.timeout_at(deadline):  # a body that stops half-way is not waited for either
                body = await read_json(request, kind.schema, max_bytes=settings.max_body_bytes)
                if settings.log_texts:
                    log.debug("asked", **body.model_dump(include=TEXTS, exclude_none=True))
                content = await while_connected(request, kind.answer(engine, body, deadline=deadline))
        except TimeoutError as error:
            raise DeadlineExceeded(TOO_LATE) from error
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        except Overloaded:
            engine.metrics.refused.labels(kind.name).inc()
            raise
        if isinstance(content, Response):  # a stream
            return content
        if settings.log_texts and kind.name == "guidance":
            log.debug("answered", results=content["results"])
        return _json(content)


def _json(content: dict[str, Any]) -> Response:
    headers = {"X-Policy-Version": str(content["policy_version"])} if "policy_version" in content else None
    return Response(to_json(content), media_type="application/json", headers=headers)
