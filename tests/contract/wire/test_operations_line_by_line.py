"""`Operations`, each line of the paragraph."""

import pytest

from hintwise.describers import DESCRIBED_ENV_IDS
from hintwise.errors import InvalidRequest
from hintwise.prompts import PROMPT_TEMPLATE_VERSION

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_livez_answers_whatever_the_models_do(service):
    """`GET /livez`"""
    async with service.blocked_thread():
        assert (await service.http.get("/livez")).status_code == 200


async def test_readyz_runs_the_model_thread(service, client, monkeypatch):
    """`/readyz` (runs the model thread)"""
    assert await client.is_ready()
    monkeypatch.setattr("service.routes.READY_TIMEOUT_S", 0.05)
    async with service.blocked_thread():
        assert not await client.is_ready()
    assert client.wire.response.status_code == 503
    await client.wait_until_ready(30)


async def test_metrics_are_prometheus_with_these_among_them(fresh, calling):
    """`/metrics` (Prometheus; `hintwise_act_observations_total`, `hintwise_queue_tokens`, `hintwise_swaps_total`)"""
    async with calling(fresh) as client:
        await client.act(["x"] * 3, ["go", "wait"])
        await client.put_weights(await client.download_weights(1), if_match=1)
    response = await fresh.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert await fresh.metric("hintwise_act_observations_total") == 3
    assert await fresh.metric("hintwise_swaps_total") == 1
    assert await fresh.metric('hintwise_queue_tokens{kind="act"}') == 0


async def test_openapi_and_docs(service):
    """`/openapi.json`, `/docs`"""
    document = (await service.http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.")
    assert {"/act", "/guidance", "/reward", "/weights", "/info"} <= set(document["paths"])
    assert "/openapi.json" in (await service.http.get("/docs")).text


async def test_info(service, client, embedded, language):
    """`GET /info` (`api_version`, models with digests, `env_ids`, limits, readout, prompt-template version, devices)"""
    info = await client.info()
    assert (info.api_version, info.readout, info.device) == (1, "phrase", "cpu")
    assert (info.policy.name, info.policy.sha256) == ("embedded", embedded.sha256)
    for model in (info.guidance, info.scorer):
        assert (model.name, model.sha256) == ("embedded-language", language.sha256)
    assert info.env_ids == list(DESCRIBED_ENV_IDS)
    assert info.prompt_template_version == PROMPT_TEMPLATE_VERSION
    limits = info.limits
    assert (limits.max_observations, limits.max_guidance_observations, limits.max_reward_items) == (1024, 256, 1024)
    assert limits.max_actions == 256
    assert limits.max_body_bytes == service.engine.settings.max_body_bytes


async def test_every_environment_that_info_names_takes_raw_observations(client):
    """Raw observations are taken for the ids in `/info.env_ids`, else 422 with the list"""
    env_ids = (await client.info()).env_ids
    with pytest.raises(InvalidRequest) as raised:
        await client.act([0], env_id="Ant-v5")
    [(field, message)] = raised.value.errors
    assert field == "env_id"
    assert all(env_id in message for env_id in env_ids)
