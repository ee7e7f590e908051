"""`Reserved for later, refused today`."""

import pytest

from hintwise.errors import InvalidRequest

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
