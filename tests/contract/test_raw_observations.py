"""Raw observations with `env_id`: a number, an array or an object, and the legal actions that follow from them."""

import gymnasium
import numpy as np
import pytest

from hintwise.describers import describer_for
from hintwise.request_body import to_body
from hintwise.schemas import ActRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDPOINTS = ["/act", "/guidance"]
LAKE, TAXI, CARTPOLE = {"env_id": "FrozenLake-v1"}, {"env_id": "Taxi-v4"}, {"env_id": "CartPole-v1"}
DOOR_KEY = {"env_id": "MiniGrid-DoorKey-5x5-v0"}
VIEW = {"image": [[[1, 0, 0]] * 7] * 7, "direction": 0, "mission": "use the key to open the door"}
ONE_OF_EACH_FORM = [(LAKE, 6), (TAXI, 328), (CARTPOLE, [0.0, 0.5, -0.03, -0.8]), (DOOR_KEY, VIEW)]


async def acted(service, observations, **fields):
    return (await service.ask("/act", {"observations": observations, **fields}))["results"]


@pytest.mark.parametrize(("env", "raw"), ONE_OF_EACH_FORM, ids=str)
async def test_a_raw_observation_is_answered_as_its_text_is(service, env, raw):
    describer = describer_for(env["env_id"])
    legal = describer.legal_actions(raw)
    [result] = await acted(service, [raw], mode="greedy", **env)
    [by_hand] = await service.act(
        [describer.describe(raw)], [describer.actions[k] for k in legal], task=describer.task, mode="greedy"
    )
    assert result == {**by_hand, "action": legal[by_hand["action"]]}


@pytest.mark.parametrize(("env", "raw"), ONE_OF_EACH_FORM, ids=str)
async def test_guidance_reads_a_raw_observation_and_its_legal_actions(service, env, raw):
    describer = describer_for(env["env_id"])
    sent = {"temperature": 0, "max_new_tokens": 8}
    described = await service.ask("/guidance", {"observations": [raw], **env, **sent})
    by_hand = await service.ask(
        "/guidance",
        {
            "observations": [describer.describe(raw)],
            "actions": [describer.actions[k] for k in describer.legal_actions(raw)],
            "task": describer.task,
            **sent,
        },
    )
    assert described == by_hand


async def test_every_state_of_the_taxi_gets_one_of_its_legal_actions(service):
    env, describer = gymnasium.make("Taxi-v4").unwrapped, describer_for("Taxi-v4")
    masks = [np.flatnonzero(env.action_mask(state)).tolist() for state in range(500)]
    results = await acted(service, list(range(500)), seed=3, temperature=100, **TAXI)
    assert len({len(mask) for mask in masks}) > 2
    for mask, result in zip(masks, results, strict=True):
        assert result["action"] in mask
        assert result["label"] == describer.actions[result["action"]]
        assert len(result["log_probs"]) == len(result["scores"]) == len(mask)
        assert np.exp(result["log_probs"]).sum() == pytest.approx(1)
    assert {result["action"] for result in results} == set(range(6))


async def test_a_text_beside_env_id_has_all_of_its_actions(service):
    describer = describer_for("Taxi-v4")
    text, raw = await acted(service, [describer.describe(328), 328], mode="greedy", **TAXI)
    assert (len(text["scores"]), len(raw["scores"])) == (6, len(describer.legal_actions(328)))


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
async def test_a_random_action_is_a_legal_one(service, epsilon):
    results = await acted(service, [0] * 64, mode="epsilon", epsilon=epsilon, seed=1, **TAXI)
    assert {result["action"] for result in results} <= set(describer_for("Taxi-v4").legal_actions(0))


@pytest.mark.parametrize("same", [6.0, 6])
async def test_a_whole_number_may_be_written_with_a_point(service, same):
    [result] = await acted(service, [same], mode="greedy", **LAKE)
    assert result == (await acted(service, [6], mode="greedy", **LAKE))[0]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (16, "state is 16; expected an integer from 0 to 15"),
        (-1, "state is -1; expected an integer from 0 to 15"),
        (3.5, "state is 3.5; expected an integer from 0 to 15"),
        (1e300, "expected an integer from 0 to 15"),
        (10**400, "must be finite"),
        ([], "of type list; expected a number"),
        ([3], "of type list; expected a number"),
        ({"state": 3}, "of type dict; expected a number"),
        (True, "expected a text"),
        (None, "expected a text"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_number_that_is_no_state_is_named(service, endpoint, raw, said):
    refusal = await service.refused(endpoint, {"observations": [3, raw], **LAKE})
    assert set(refusal.fields) == {"observations[1]"}
    assert said in refusal.text


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(("env", "raw"), ONE_OF_EACH_FORM[:-1], ids=str)
async def test_an_object_where_none_belongs_is_named(service, endpoint, env, raw):
    thing = {"image": [[1]], "direction": 0, "mission": "go to the red ball"}
    refusal = await service.refused(endpoint, {"observations": [raw, thing], **env})
    assert set(refusal.fields) == {"observations[1]"}
    assert "dict" in refusal.text


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_number_needs_env_id(service, endpoint):
    refusal = await service.refused(endpoint, {"observations": [3], "actions": ["left", "right"]})
    assert set(refusal.fields) == {"observations[0]"}
    assert "FrozenLake-v1" in refusal.text


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_taxis_version_that_is_gone_is_refused_with_the_one_there_is(service, endpoint):
    refusal = await service.refused(endpoint, {"observations": [3], "env_id": "Taxi-v3"})
    assert set(refusal.fields) == {"env_id"}
    assert "did you mean Taxi-v4?" in refusal.text


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_view_that_is_incomplete_is_named_beside_one_that_is_not(service, endpoint):
    view = {name: value for name, value in VIEW.items() if name != "mission"}
    refusal = await service.refused(endpoint, {"observations": [VIEW, view], **DOOR_KEY})
    assert set(refusal.fields) == {"observations[1]"}
    assert "mission is missing" in refusal.text


async def test_the_described_worlds_are_told(service):
    told = (await service.http.get("/info")).json()["env_ids"]
    assert {"FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1", "Taxi-v4"} <= set(told)


@pytest.mark.parametrize("sent", [[np.int64(6), 6, np.float32(6)], np.array([6, 6, 6])], ids=["scalars", "array"])
async def test_numpys_integers_survive_the_client(service, sent):
    response = await service.http.post(
        "/act", content=to_body(ActRequest, {"observations": sent, "mode": "greedy", **LAKE})
    )
    first, *others = response.json()["results"]
    assert first["action"] == (await acted(service, [6], mode="greedy", **LAKE))[0]["action"]
    assert all(other["scores"] == pytest.approx(first["scores"], abs=1e-4) for other in others)
