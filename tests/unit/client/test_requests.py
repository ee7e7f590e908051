"""What the calls send and parse, and what they refuse before anything is sent."""

import json
import math
from types import MappingProxyType

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hintwise.errors import InvalidRequest
from hintwise.request_body import to_body
from hintwise.schemas import ActRequest, RewardItem
from tests.unit.client.scripted import ACTED, ACTIONS, DATA, GUIDED, INFORMED, REWARDED, SHA256, weighed


async def test_act_parses_the_answer_and_ignores_unknown_fields(service):
    answer = await service.call(service.client(ACTED), "act", ["pole leans"], ACTIONS)
    assert (answer.policy_version, answer.results[0].label, answer.results[0].value) == (12, "push right", 17.2)
    assert str(service.requests[0].url) == "http://service/act"
    assert service.requests[0].method == "POST"
    assert service.requests[0].headers["content-type"] == "application/json"


async def test_every_other_call_parses_its_answer(service):
    hints = await service.call(service.client(GUIDED), "guidance", ["pole leans"], num_hints=1, seed=3)
    assert hints.results[0].hints[0].text == "push right"
    assert service.sent == {"observations": ["pole leans"], "seed": 3}
    rewards = await service.call(service.client(REWARDED), "reward", [{"hint": "h", "observation": "o"}], gamma=0.9)
    assert rewards.results[0].reward == 0.42
    weights = await service.call(service.client(weighed(5)), "weights")
    assert (weights.policy_version, weights.sha256) == (5, SHA256)
    info = await service.call(service.client(INFORMED), "info")
    assert (info.env_ids, info.limits.max_actions) == (["CartPole-v1"], 7)
    data = await service.call(service.client(lambda request: httpx.Response(200, content=DATA)), "download_weights", 5)
    assert data == DATA
    paths = [(request.method, request.url.path) for request in service.requests]
    assert paths == [
        ("POST", "/guidance"),
        ("POST", "/reward"),
        ("GET", "/weights"),
        ("GET", "/info"),
        ("GET", "/weights/5"),
    ]


async def test_only_given_fields_are_sent(service):
    client = service.client(ACTED)
    await service.call(client, "act", ["a"], ACTIONS, mode="sample", temperature=1.0)
    assert service.sent == {"observations": ["a"], "actions": ACTIONS}
    given_fields = {
        "env_id": "CartPole-v1",
        "task": "Keep it up.",
        "hints": ["push right"],
        "mode": "epsilon",
        "epsilon": 0.0,
        "temperature": 0,
        "seed": 0,
    }
    await service.call(client, "act", ["a"], ACTIONS, **given_fields)
    assert service.sent == {"observations": ["a"], "actions": ACTIONS, **given_fields}
    ActRequest.model_validate(service.sent)


async def test_reward_takes_items_as_models_and_as_mappings(service):
    item = {"hint": "h", "observation": "o", "actions": ACTIONS, "action": "push left", "terminated": True}
    for items in ([RewardItem(**item)], [item], (i for i in [item])):
        await service.call(service.client(REWARDED), "reward", items)
        assert service.sent == {"items": [item]}


async def test_numpy_observations_are_sent_as_numbers(service):
    raw = [
        np.array([0.5, -1.5], dtype=np.float32),
        np.float32(0.25),
        np.int64(3),
        {"image": np.zeros((1, 2), np.uint8)},
    ]
    await service.call(service.client(ACTED), "act", raw, env_id="X-v0", seed=np.arange(4))
    assert service.sent["observations"] == [[0.5, -1.5], 0.25, 3, {"image": [[0, 0]]}]
    assert service.sent["seed"] == [0, 1, 2, 3]
    await service.call(service.client(ACTED), "act", np.eye(2), env_id="X-v0")
    assert service.sent["observations"] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    "bad", [math.nan, -math.inf, np.float32("nan"), np.array([1.0, np.inf]), {"image": [math.nan]}]
)
async def test_nan_is_refused_before_sending_and_the_observation_named(service, bad):
    error = await service.failure(service.client(ACTED), "act", [0.5, bad], env_id="X-v0")
    assert isinstance(error, InvalidRequest)
    assert [offence.field for offence in error.errors] == ["observations[1]"]
    assert "NaN" in error.errors[0].message
    assert service.requests == []


async def test_only_the_first_of_many_bad_observations_are_named(service):
    error = await service.failure(service.client(ACTED), "act", [math.nan] * 100, env_id="X-v0")
    assert [offence.field for offence in error.errors] == [f"observations[{i}]" for i in range(8)]


async def test_a_bad_text_is_named_whole_not_by_its_letters(service):
    error = await service.failure(service.client(ACTED), "act", ["a"], ACTIONS, task="half a pair: \ud800")
    assert [offence.field for offence in error.errors] == ["task"]


async def test_other_containers_are_sent_as_lists_and_objects(service):
    raw = [range(2), MappingProxyType({"mission": "go"}), (1, 2)]
    await service.call(service.client(ACTED), "act", raw, env_id="X-v0")
    assert service.sent["observations"] == [[0, 1], {"mission": "go"}, [1, 2]]


async def test_nan_in_a_one_shot_iterable_is_refused_too(service):
    error = await service.failure(service.client(ACTED), "act", iter([math.nan]), env_id="X-v0")
    assert isinstance(error, InvalidRequest)
    assert service.requests == []


async def test_nan_in_a_setting_names_the_setting(service):
    error = await service.failure(service.client(ACTED), "act", ["a"], ACTIONS, temperature=math.nan)
    assert [offence.field for offence in error.errors] == ["temperature"]


async def test_a_text_that_says_nan_is_sent(service):
    await service.call(service.client(ACTED), "act", ["the reading is NaN, not Infinity"], ACTIONS)
    assert len(service.requests) == 1


@pytest.mark.parametrize("bad", [object(), "half a pair: \ud800", np.longdouble(1)])
async def test_what_json_cannot_hold_is_refused_and_named(service, bad):
    error = await service.failure(service.client(ACTED), "act", ["fine", bad], ACTIONS)
    assert isinstance(error, InvalidRequest)
    assert [offence.field for offence in error.errors] == ["observations[1]"]
    assert service.requests == []


NUMBERS = st.floats() | st.integers(-(2**63), 2**63)
OBSERVATIONS = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)


@settings(max_examples=60)
@given(st.lists(OBSERVATIONS, max_size=4))
def test_a_body_is_strict_json_or_refused(observations):
    try:
        wanted = json.loads(json.dumps(observations, allow_nan=False))
    except ValueError:
        with pytest.raises(InvalidRequest, match=r"observations\[\d+\]"):
            to_body(ActRequest, {"observations": observations})
    else:
        assert json.loads(to_body(ActRequest, {"observations": observations})) == {"observations": wanted}
