"""`POST /reward`, each line of its paragraph."""

import math

import pytest

from hintwise.errors import InvalidRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTIONS = ["push left", "push right"]
NOW, NEXT = "cart 20 speed 23 pole 15 turn 20", "cart 21 speed 18 pole 16 turn 24"


def item(**changes):
    whole = {
        "hint": "push left",
        "observation": NOW,
        "actions": ACTIONS,
        "action": "push left",
        "next_observation": NEXT,
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not ...}


async def refused(client, items, **fields):
    """Returns the message of each field that a refusal names."""
    with pytest.raises(InvalidRequest) as raised:
        await client.reward(items, **fields)
    assert client.wire.response.status_code == 422
    return dict(raised.value.errors)


async def test_1_to_1024_items(client):
    """ "items": [...] 1..1024"""
    for count in (1, 1024):
        assert len((await client.reward([item()] * count)).results) == count
    for count in (0, 1025):
        assert set(await refused(client, [item()] * count)) == {"items"}


async def test_the_scorer_is_one_that_info_lists(client):
    """ "scorer": "alignment" | "progress" | ..."""
    scorers = (await client.info()).scorers
    assert {"alignment", "progress"} <= set(scorers)
    for scorer in scorers:
        assert (await client.reward([item()], scorer=scorer)).scorer == scorer
    assert "progress" in (await refused(client, [item()], scorer="vibes"))["scorer"]


async def test_the_answer_has_these_fields(service, language):
    """{"scorer", "model", "model_sha256", "results": [{"reward": 0.42, "potential": null, "next_potential": null}]}"""
    answer = await service.ask("/reward", {"scorer": "alignment", "items": [item()] * 2})
    assert set(answer) == {"scorer", "model", "model_sha256", "results"}
    assert (answer["scorer"], answer["model"], answer["model_sha256"]) == (
        "alignment",
        "embedded-language",
        language.sha256,
    )
    for result in answer["results"]:
        assert set(result) == {"reward", "potential", "next_potential"}
        assert (result["potential"], result["next_potential"]) == (None, None)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"actions": ...}, "items[1].actions"),
        ({"action": ...}, "items[1].action"),
        ({"action": "x"}, "items[1].action"),
    ],
)
async def test_alignment_needs_actions_and_the_action_among_them(client, changes, field):
    """`alignment` (needs `actions`, and `action` among them)"""
    assert set(await refused(client, [item(), item(**changes)])) == {field}


@pytest.mark.parametrize("action", ACTIONS)
async def test_alignment_is_how_much_the_hint_raises_the_action(start, calling, action):
    """how much the hint raises the log-probability of the action taken over no hint, squashed to [-1, 1]"""
    async with start(model="embedded-language") as service, calling(service) as client:  # policy and judge are one
        acted = await client.act([NOW] * 2, ACTIONS, hints=["push left", None], mode="greedy")
        [result] = (await client.reward([item(action=action)])).results
    hinted, plain = (result.log_probs[ACTIONS.index(action)] for result in acted.results)
    assert result.reward == pytest.approx(math.tanh(hinted - plain), rel=1e-2, abs=2e-6)
    assert -1 <= result.reward <= 1


@pytest.mark.parametrize(("hint", "about"), [(None, 1e-6), ("", 1e-6), ("the weather is fine", 0.1)])
async def test_an_empty_or_off_topic_hint_says_nothing(client, hint, about):
    """an empty or off-topic one says about 0"""
    answer = await client.reward([item(hint=hint, action=action) for action in ACTIONS])
    assert [result.reward for result in answer.results] == pytest.approx([0, 0], abs=about)


async def test_a_hint_raises_the_action_it_names(client):
    """A well-formed hint, right or wrong, raises the action it names"""
    for named in ACTIONS:
        answer = await client.reward([item(hint=named, action=action) for action in ACTIONS])
        rewards = dict(zip(ACTIONS, (result.reward for result in answer.results), strict=True))
        assert rewards.pop(named) > 0.05
        assert max(rewards.values()) < 0


async def test_progress_is_the_discounted_rise_of_a_potential(client):
    """`progress`: potentials in [0, 1] ...; reward = gamma * next_potential - potential"""
    for gamma in (0.0, 0.5, 1.0):
        [result] = (await client.reward([item()], scorer="progress", gamma=gamma)).results
        assert 0 <= result.potential <= 1
        assert 0 <= result.next_potential <= 1
        assert result.reward == pytest.approx(gamma * result.next_potential - result.potential)
    for gamma in (-0.1, 1.1):
        assert set(await refused(client, [item()], gamma=gamma)) == {"gamma"}


async def test_gamma_is_099_by_default(service, client):
    """ "gamma": 0.99"""
    default = await service.ask("/reward", {"scorer": "progress", "items": [item()]})
    assert default["results"][0]["next_potential"] > 0
    told = await service.ask("/reward", {"scorer": "progress", "items": [item()], "gamma": 0.99})
    assert default == told


async def test_a_terminal_state_has_no_potential(client):
    """next_potential is 0 when `terminated`"""
    for changes in ({}, {"next_observation": ...}):
        [result] = (await client.reward([item(terminated=True, **changes)], scorer="progress")).results
        assert result.next_potential == 0
        assert result.reward == -result.potential


async def test_next_hint_defaults_to_hint(client):
    """`next_hint` defaults to `hint`"""
    items = [item(), item(next_hint=None), item(next_hint="push left"), item(next_hint="wait")]
    default, null, same, other = (await client.reward(items, scorer="progress")).results
    assert default == null == same
    assert other.next_potential != pytest.approx(same.next_potential, rel=1e-4)


async def test_a_task_is_heeded(client):
    """ "task": "..." """
    for scorer in ("alignment", "progress"):
        with_task, without = (await client.reward([item(task="Stay."), item()], scorer=scorer)).results
        assert with_task.reward != pytest.approx(without.reward, rel=1e-4)
