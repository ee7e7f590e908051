"""The `head` readout through the application: which actions it answers for, and what it refuses."""

import math

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load, save

from service.weight_store import StoreUnusable

pytestmark = pytest.mark.asyncio(loop_scope="module")

CAR = ["push left", "wait", "push right"]  # MountainCar's own, in its order
HEAD = {"readout": "head", "head_actions": CAR}
TEXT = "car 9 speed 20"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def head(tmp_path_factory, serving):
    """A service whose head has learnt something."""
    async with serving(tmp_path_factory.mktemp("weights"), **HEAD) as running:
        await running.put_noise(0.3)
        yield running


async def test_answers_say_head(head):
    answer = await head.ask("/act", {"observations": [TEXT], "actions": CAR})
    assert answer["readout"] == "head"


async def test_info_and_weights_name_the_list(head, service):
    info, held = (await head.http.get("/info")).json(), (await head.http.get("/weights")).json()
    assert (info["readout"], info["head_actions"]) == ("head", CAR)
    assert held["architecture"] == info["policy"]["architecture"]
    assert " head 3:" in held["architecture"]
    phrases = (await service.http.get("/info")).json()
    assert (phrases["readout"], phrases["head_actions"]) == ("phrase", None)
    assert phrases["policy"]["architecture"] + held["architecture"][-20:] == held["architecture"]


async def test_scores_are_raw_and_gathered_in_the_order_that_was_asked(head):
    (whole,) = await head.act([TEXT], CAR)
    tensors = await head.tensors()
    policy = head.engine.policy
    ids = torch.tensor([policy.encoder.encode(f"state: {TEXT}\naction:")])
    with torch.no_grad():
        hidden = policy.policy.trunk.base_model(input_ids=ids).last_hidden_state[0, -1]
    expected = tensors["action_head.weight"] @ hidden + tensors["action_head.bias"]
    assert whole["scores"] == pytest.approx(expected.tolist(), abs=1e-5)
    (part,) = await head.act([TEXT], ["push right", "push left"])
    assert part["scores"] == pytest.approx([whole["scores"][2], whole["scores"][0]], abs=1e-5)
    assert sum(map(math.exp, part["log_probs"])) == pytest.approx(1)
    assert len({round(score, 3) for score in whole["scores"]}) == 3


async def test_every_observation_may_have_legal_actions_of_its_own(head):
    lists = [["wait"], ["push right", "wait"], CAR]
    results = await head.act([TEXT] * 3, lists, mode="greedy")
    assert [len(result["scores"]) for result in results] == [1, 2, 3]
    assert [result["label"] in listed for result, listed in zip(results, lists, strict=True)] == [True] * 3
    assert results[0]["log_probs"] == [0.0]


async def test_an_environment_with_the_heads_list_may_leave_its_actions_out(head):
    answer = await head.ask("/act", {"observations": [[-0.5, 0.0]], "env_id": "MountainCar-v0"})
    assert answer["results"][0]["label"] == CAR[answer["results"][0]["action"]]


@pytest.mark.parametrize(
    ("actions", "field"), [(["wait", "jump"], "actions"), ([CAR, ["jump"]], "actions[1]"), (["Wait"], "actions")]
)
async def test_an_action_the_head_was_not_built_for_is_refused_with_its_list(head, actions, field):
    refusal = await head.refused("/act", {"observations": [TEXT] * 2, "actions": actions})
    assert set(refusal.fields) == {field}
    assert '["push left", "wait", "push right"]' in refusal.fields[field]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1"])
async def test_an_environment_with_another_list_is_refused_though_it_be_a_part(head, env_id):
    observation = [0.0] * {"CartPole-v1": 4, "Acrobot-v1": 6}[env_id]
    refusal = await head.refused("/act", {"observations": [observation], "env_id": env_id})
    assert '["push left", "wait", "push right"]' in refusal.fields["env_id"]


async def test_an_environment_with_the_same_actions_in_another_order_is_refused(start):
    async with start(readout="head", head_actions=["push right", "push left"]) as swapped:
        refusal = await swapped.refused("/act", {"observations": [[0.0] * 4], "env_id": "CartPole-v1"})
        assert '["push right", "push left"]' in refusal.fields["env_id"]
        assert await swapped.act([[0.0] * 4], ["push left", "push right"], env_id="CartPole-v1")


async def test_a_prompt_may_fill_all_positions_for_nothing_follows_it(head, service):
    policy = head.engine.policy
    spare = policy.language_model.max_tokens - len(policy.encoder.encode("state: 20\naction:"))
    text = "20" + " 20" * spare  # each number word is one token
    (result,) = await head.act([text], CAR)
    assert result["num_prompt_tokens"] == policy.language_model.max_tokens
    await service.refused("/act", {"observations": [text], "actions": ["push left", "push right"]})


async def test_the_scorer_goes_on_reading_phrases(head):
    item = {"hint": "wait", "observation": TEXT, "actions": ["jump", "duck"], "action": "jump"}
    assert (await head.ask("/reward", {"items": [item]}))["results"]


async def test_an_untrained_head_is_uniform(start):
    async with start(**HEAD) as fresh_head:
        (result,) = await fresh_head.act([TEXT], CAR)
        assert result["scores"] == [0.0, 0.0, 0.0]
        assert result["log_probs"] == pytest.approx([-math.log(3)] * 3)
        assert result["value"] == 0.0


async def test_what_was_learnt_survives_a_restart(start):
    async with start(**HEAD) as first:
        await first.put_noise(0.3)
        before = await first.act([TEXT], CAR, seed=1)
    async with start(**HEAD) as second:
        assert await second.act([TEXT], CAR, seed=1) == before


@pytest.mark.parametrize(
    "other", [{}, {"readout": "head", "head_actions": ["push left", "push right"]}, HEAD | {"head_actions": CAR[::-1]}]
)
async def test_a_weights_directory_of_another_readout_or_list_is_refused(start, other):
    async with start(**HEAD):
        pass
    with pytest.raises(StoreUnusable, match=r"architecture differs: .* head 3:.* there"):
        async with start(**other):
            pass


async def test_weights_of_another_readout_are_refused_by_name(head, service):
    pushed = save(await service.tensors())
    response = await head.put(pushed)
    assert response.status_code == 422
    assert {"alpha", "beta", "action_head.weight"} <= {entry["field"] for entry in response.json()["errors"]}


async def test_weights_that_say_they_are_for_this_list_are_served(start):
    async with start(**HEAD) as running:
        ours = (await running.http.get("/weights")).json()["architecture"]
        response = await running.put(save(await running.tensors(), metadata={"hintwise.architecture": ours}))
        assert response.status_code == 200, response.text


async def test_weights_that_say_they_are_for_another_list_are_refused(head):
    theirs = (await head.http.get("/weights")).json()["architecture"].replace("head 3:", "head 3:0")
    tensors = load((await head.http.get(f"/weights/{head.engine.policy.policy_version}")).content)
    response = await head.put(save(tensors, metadata={"hintwise.architecture": theirs}))
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "hintwise.architecture"
