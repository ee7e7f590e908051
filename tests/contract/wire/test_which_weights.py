"""`Which weights answer`: the policy is replaced, its judges never are."""

import pytest
import pytest_asyncio
from safetensors.torch import save

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTIONS = ["push left", "push right"]
TEXT = "cart 20 speed 23 pole 15 turn 20"
ITEM = {"hint": "push left", "observation": TEXT, "actions": ACTIONS, "action": "push left", "next_observation": "x"}


async def judgements(client):
    """Everything that the frozen models say about one state."""
    return [
        await client.guidance([TEXT], seed=7, max_new_tokens=8),
        await client.guidance([TEXT], mode="ranked", candidates=ACTIONS, num_hints=2, seed=7),
        await client.reward([ITEM]),
        await client.reward([ITEM], scorer="progress"),
    ]


@pytest_asyncio.fixture(loop_scope="module")
async def swapped(fresh, calling, noisy):
    """A client, and what was answered before a push and after it."""
    async with calling(fresh) as client:
        before = await client.act([TEXT], ACTIONS, mode="greedy"), await judgements(client)
        await client.put_weights(save(noisy(await fresh.tensors(), 0.2, 3)), if_match=1)
        yield client, before, (await client.act([TEXT], ACTIONS, mode="greedy"), await judgements(client))


async def test_act_runs_on_the_policy(swapped):
    """`/act` runs on the policy, which `PUT /weights` replaces."""
    _, (before, _), (after, _) = swapped
    assert (before.policy_version, after.policy_version) == (1, 2)
    assert after.results[0].scores != pytest.approx(before.results[0].scores, rel=1e-3)


async def test_no_put_and_no_rollback_change_the_judges(swapped):
    """no PUT changes them, so a policy never trains its own judge"""
    client, (_, before), (_, after) = swapped
    assert after == before
    await client.rollback(1)
    assert await judgements(client) == before


async def test_the_judges_are_the_embedded_model_as_shipped_also_after_a_restart(start, calling, noisy, language):
    """default: the embedded model as shipped"""
    async with start() as service, calling(service) as client:
        before = await judgements(client)
        await client.put_weights(save(noisy(await service.tensors(), 0.2, 3)), if_match=1)
    async with start() as service, calling(service) as client:
        assert (await client.weights()).policy_version == 2
        assert await judgements(client) == before
    assert {answer.model_sha256 for answer in before} == {language.sha256}


async def test_judges_of_ones_own_are_named_by_their_digest(start, calling, fresh_embedded, tmp_path):
    """(`--guidance`, `--scorer-model`) ... Their answers carry `model` and `model_sha256`."""
    fresh_embedded.model.transformer.wte.weight.data.mul_(1.5)
    fresh_embedded.model.save_pretrained(tmp_path / "own")
    fresh_embedded.tokenizer.save_pretrained(tmp_path / "own")
    async with start(guidance=str(tmp_path / "own")) as service, calling(service) as client:
        info, hint, reward = await client.info(), await client.guidance([TEXT]), await client.reward([ITEM])
    assert (hint.model, hint.model_sha256) == (str(tmp_path / "own"), info.guidance.sha256)
    assert (reward.model, reward.model_sha256) == ("embedded-language", info.scorer.sha256)
    assert hint.model_sha256 != reward.model_sha256
