"""The application: wiring only.

request ─▶ RequestContext ─▶ Access ─▶ InferenceEndpoints ─▶ act | guidance | reward ─▶ engine's queues
                                               └▶ routes ─▶ weight_swap ─▶ weight_store, engine
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from hintwise import __version__
from service import openapi, problems
from service.access import Access
from service.access_tokens import AccessTokens
from service.engine import Engine
from service.inference_endpoints import InferenceEndpoints
from service.request_context import RequestContext
from service.routes import router
from service.weight_swap import WeightSwap


def create_app(engine: Engine) -> FastAPI:
    """Returns the application that answers for `engine`; the engine runs while the app's lifespan does.

    Raises:
        TokensUnusable: The settings name a tokens file that cannot be used.
    """
    tokens_file = engine.settings.tokens_file
    tokens = AccessTokens(tokens_file) if tokens_file else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.running():
            yield

    app = FastAPI(
        title="Hintwise",
        version=__version__,
        description="Serves a language-model policy, hints and language reward; swaps weights while it answers.",
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # FastAPI would ask for it at every request
        redirect_slashes=False,  # an endpoint has one path, and its scope is looked up by it
    )
    app.state.engine = engine
    app.state.weight_swap = WeightSwap(engine)
    app.include_router(router)
    problems.install(app)
    openapi.install(app)
    app.add_middleware(InferenceEndpoints, engine=engine)  # what is added later is asked earlier
    if tokens is not None:
        app.add_middleware(Access, tokens=tokens, metrics=engine.metrics)
    app.add_middleware(
        RequestContext,
        metrics=engine.metrics,
        policy_version=lambda: engine.policy.policy_version,
        stopping=lambda: engine.stopping,
    )
    return app
