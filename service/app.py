"""The application: wiring only.

request ─▶ RequestContext ─▶ routes ─▶ act | guidance | reward ─▶ engine's queues
                                    └▶ weight_swap ─▶ weight_store, engine
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from hintwise import __version__
from service import openapi, problems
from service.engine import Engine
from service.request_context import RequestContext
from service.routes import router
from service.weight_swap import WeightSwap


def create_app(engine: Engine) -> FastAPI:
    """Returns the application that answers for `engine`; the engine runs while the app's lifespan does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.running():
            yield

    app = FastAPI(
        title="Hintwise",
        version=__version__,
        description="Serves a language-model policy, hints and language reward; swaps weights while it answers.",
        lifespan=lifespan,
    )
    app.state.engine = engine
    app.state.weight_swap = WeightSwap(engine)
    app.include_router(router)
    problems.install(app)
    openapi.install(app)
    app.add_middleware(RequestContext, metrics=engine.metrics, policy_version=lambda: engine.policy.policy_version)
    return app
