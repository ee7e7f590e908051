"""What FastAPI knows of the endpoints: all are documented here, and all but three are answered here.

`POST /act`, `/guidance` and `/reward` never come this far: `inference_endpoints` answers them.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.requests import ClientDisconnect

from hintwise.describers import described_env_ids
from hintwise.errors import Unavailable
from hintwise.fields import MAX_ACTIONS, MAX_GUIDANCE_OBSERVATIONS, MAX_OBSERVATIONS, MAX_REWARD_ITEMS
from hintwise.prompts import PROMPT_TEMPLATE_VERSION
from hintwise.schemas import (
    API_VERSION,
    ActResponse,
    GuidanceResponse,
    Limits,
    Problem,
    RewardResponse,
    ServiceInfo,
    WeightsInfo,
)
from service.engine import Engine, model_info
from service.problems import nothing_answers
from service.request_context import CLIENT_LEFT
from service.weight_download import FORM, FORMS, kept_version
from service.weight_swap import WeightSwap, weights_info

READY_TIMEOUT_S = 5.0
ELSEWHERE = "service.inference_endpoints answers this request; the application was made without it"
PROBLEMS: dict[int | str, dict[str, Any]] = {"default": {"model": Problem, "description": "A failure, RFC 9457"}}

router = APIRouter(responses=PROBLEMS)


async def the_engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def the_weight_swap(request: Request) -> WeightSwap:
    swap: WeightSwap = request.app.state.weight_swap
    return swap


CurrentEngine = Annotated[Engine, Depends(the_engine)]
EVENTS = {
    "text/event-stream": {
        "itemSchema": {  # OpenAPI's word for one event of a stream, as FastAPI's own streams have it
            "type": "object",
            "required": ["event", "data"],
            "properties": {
                "event": {"enum": ["token", "done", "error"]},
                "data": {"type": "string", "description": "JSON: `GuidanceToken`, `GuidanceResponse` or `Problem`."},
            },
        },
        "example": 'event: token\ndata: {"observation": 0, "hint": 0, "text": "push"}\n\n',
    }
}


@router.post("/act", responses={200: {"model": ActResponse}}, tags=["inference"])
async def post_act() -> Response:
    """Chooses one legal action for each observation, under the policy that serves now."""
    raise NotImplementedError(ELSEWHERE)


@router.post("/guidance", responses={200: {"model": GuidanceResponse, "content": EVENTS}}, tags=["inference"])
async def post_guidance() -> Response:
    """Writes hints for each observation or ranks candidates, under the frozen guidance model; streams if asked."""
    raise NotImplementedError(ELSEWHERE)


@router.post("/reward", responses={200: {"model": RewardResponse}}, tags=["inference"])
async def post_reward() -> Response:
    """Turns hints and transitions into rewards, under the frozen scorer model."""
    raise NotImplementedError(ELSEWHERE)


@router.get("/weights", tags=["weights"])
async def get_weights(engine: CurrentEngine) -> WeightsInfo:
    """Tells which weights serve now."""
    return weights_info(engine)


@router.get("/weights/{policy_version}", response_class=Response, tags=["weights"])
async def download_weights(
    request: Request,
    engine: CurrentEngine,
    policy_version: Annotated[str, Path(description="A retained version.")],
    form: Annotated[str, Query(alias="format", description=FORM, json_schema_extra={"enum": [*FORMS]})] = "full",
) -> Response:
    """Streams a retained version as a safetensors file."""
    if policy_version == "rollback":  # the router tries other paths before it refuses a method
        raise nothing_answers("GET", "/weights/rollback")
    return await kept_version(request, engine, _version_number(policy_version), form)


@router.put("/weights", response_model=WeightsInfo, tags=["weights"])
async def put_weights(request: Request, swap: Annotated[WeightSwap, Depends(the_weight_swap)]) -> Any:
    """Serves new weights once they are verified and kept; needs If-Match.

    The body is a safetensors file, with its Content-Digest, or JSON that names one on the service's disk.
    """
    try:
        return await swap.put(request)
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)


@router.post("/weights/rollback", response_model=WeightsInfo, tags=["weights"])
async def rollback_weights(request: Request, swap: Annotated[WeightSwap, Depends(the_weight_swap)]) -> Any:
    """Serves a retained version again, once it is verified; a push after that gets the highest number ever + 1."""
    try:
        return await swap.rollback(request)
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)


@router.get("/info", tags=["operations"])
async def get_info(engine: CurrentEngine) -> ServiceInfo:
    """Tells the models, the limits and what requests may name."""
    settings, policy = engine.settings, engine.policy.policy
    return ServiceInfo(
        api_version=API_VERSION,
        policy_version=engine.policy.policy_version,
        readout=policy.readout,
        head_actions=None if policy.head_actions is None else list(policy.head_actions.actions),
        prompt_template_version=PROMPT_TEMPLATE_VERSION,
        device=str(engine.policy.language_model.device),
        policy=model_info(engine.policy.language_model, architecture=policy.architecture),
        guidance=model_info(engine.hints.language_model),
        scorer=model_info(engine.scorer.language_model),
        scorers=list(engine.scorers),
        env_ids=list(described_env_ids()),
        limits=Limits(
            max_observations=MAX_OBSERVATIONS,
            max_guidance_observations=MAX_GUIDANCE_OBSERVATIONS,
            max_reward_items=MAX_REWARD_ITEMS,
            max_actions=MAX_ACTIONS,
            max_body_bytes=settings.max_body_bytes,
            max_weights_bytes=engine.max_weights_bytes,
            max_batch_tokens=settings.max_batch_tokens,
            max_queue_observations=settings.max_queue_observations,
            max_request_timeout_ms=settings.max_request_timeout_ms,
            default_request_timeout_ms=settings.request_timeout_ms,
        ),
    )


@router.get("/livez", response_class=PlainTextResponse, tags=["operations"])
async def get_livez() -> str:
    """Answers while the process runs."""
    return "alive\n"


@router.get("/readyz", response_class=PlainTextResponse, tags=["operations"])
async def get_readyz(engine: CurrentEngine) -> str:
    """Answers once a job has passed through the model thread, so a stuck thread is not ready."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await engine.thread.run(lambda: None)
    except TimeoutError as error:
        raise Unavailable(
            f"the model thread did not answer within {READY_TIMEOUT_S:g} s", retry_after_s=READY_TIMEOUT_S
        ) from error
    return "ready\n"


@router.get("/metrics", response_class=PlainTextResponse, tags=["operations"])
async def get_metrics(engine: CurrentEngine) -> Response:
    """Tells what the service counts, in Prometheus' text format."""
    return Response(engine.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _version_number(text: str) -> int:
    """Returns the version a path names; what is no number is no version either."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
