"""`Reserved for later, refused today`."""

import pytest
from safetensors.torch import save

from hintwise.errors import InvalidRequest, WeightsRejected

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTIONS = ["push left", "push right"]


@pytest.mark.parametrize("path", ["/act", "/guidance"])
async def test_continuous_actions(service, path):
    """`action_space` (continuous actions)"""
    box = {"low": [-1.0], "high": [1.0]}
    refusal = await service.refused(path, {"observations": ["x"], "actions": ACTIONS, "action_space": box})
    assert set(refusal.fields) == {"action_space"}


@pytest.mark.parametrize("env_id", [None, "CartPole-v1", "Taxi-v4"])
async def test_images(client, env_id):
    """`{"image": {...}}` observations"""
    image = {"image": {"png": "iVBORw0KGgo="}}
    for call in (client.act, client.guidance):
        with pytest.raises(InvalidRequest) as raised:
            await call(["x", image], ACTIONS, env_id=env_id)
        assert [offence.field for offence in raised.value.errors] == ["observations[1]"]


async def test_lora(service, client):
    """`lora` weights"""
    with pytest.raises(WeightsRejected) as raised:
        await client.put_weights(save(await service.tensors(), metadata={"hintwise.format": "lora"}), if_match=1)
    assert [offence.field for offence in raised.value.errors] == ["hintwise.format"]
    assert "lora" in str(raised.value)
    assert (await client.weights()).policy_version == 1
