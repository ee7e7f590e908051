"""`POST /act`, each line of its paragraph."""

import math

import numpy as np
import pytest
import pytest_asyncio
import torch
from safetensors.torch import save

from hintwise.describers import describer_for
from hintwise.errors import InvalidRequest
from hintwise.fields import MAX_SEED
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder
from service.sampling import gumbels, uniforms

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTIONS = ["push left", "push right", "move left"]
TEXTS = [f"cart {n} speed {40 - n} pole {n} turn 20" for n in range(40)]
HEAD = ["up", "down", "wait"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tied(tmp_path_factory, serving, calling):
    """A client of an untrained head, whose scores are all equal."""
    settings = {"readout": "head", "head_actions": HEAD}
    async with serving(tmp_path_factory.mktemp("tied"), **settings) as running, calling(running) as client:
        yield client


def softmax_logs(scores, temperature=1.0):
    scaled = np.array(scores, dtype=np.float64) / temperature
    return scaled - np.logaddexp.reduce(scaled)


def actions_of(answer):
    return [result.action for result in answer.results]


async def refused(client, *arguments, **fields):
    """Returns the message of each field that a refusal names."""
    with pytest.raises(InvalidRequest) as raised:
        await client.act(*arguments, **fields)
    assert client.wire.response.status_code == 422
    return dict(raised.value.errors)


# The request


async def test_1_to_1024_texts(client):
    """ "observations": 1..1024 texts"""
    for count in (1, 1024):
        assert len((await client.act(["x"] * count, ["go", "wait"])).results) == count
    for count in (0, 1025):
        assert set(await refused(client, ["x"] * count, ["go", "wait"])) == {"observations"}


@pytest.mark.parametrize(
    ("env_id", "raw"), [("FrozenLake-v1", 4), ("CartPole-v1", [0.0, 0.3, -0.05, 0.0]), ("Taxi-v4", 458.0)]
)
async def test_raw_observations_with_env_id(client, env_id, raw):
    """or, with "env_id", raw observations: number, array, ..."""
    described = describer_for(env_id)
    legal = described.legal_actions(raw)
    words = [described.actions[k] for k in legal]
    [answer] = (await client.act([raw], env_id=env_id, mode="greedy")).results
    [same] = (await client.act([described.describe(raw)], words, task=described.task, mode="greedy")).results
    assert (answer.action, answer.label) == (legal[same.action], same.label)
    assert answer.log_probs == pytest.approx(same.log_probs, rel=1e-4)
    assert set(await refused(client, [raw], ACTIONS)) == {"observations[0]"}


async def test_an_object_is_a_raw_observation(client):
    """or object (MiniGrid's {"image", "direction", "mission"}): of the environments so far, none has objects."""
    seen = {"image": [[[2, 5, 0]]], "direction": 0, "mission": "go to the door"}
    assert "env_id" in (await refused(client, [seen], ACTIONS))["observations[0]"]
    assert set(await refused(client, [seen], env_id="CartPole-v1")) == {"observations[0]"}


@pytest.mark.parametrize(
    "actions", [[], ["go", "go"], ["go", ""], ["go", " "], [f"go {n}" for n in range(257)], [["go"], ["go", "go"]]]
)
async def test_actions_that_are_refused(client, actions):
    """legal actions, 1..256, distinct, not empty"""
    assert set(await refused(client, ["x", "y"], actions)) == {"actions"}


@pytest.mark.parametrize("count", [1, 256])
async def test_1_to_256_actions(client, count):
    """legal actions, 1..256"""
    assert len((await client.act(["x"], [f"go {n}" for n in range(count)])).results[0].scores) == count


async def test_one_list_for_all_or_one_per_observation(client):
    """one list for all, or one list per observation"""
    one = await client.act(TEXTS[:2], ACTIONS, mode="greedy")
    each = await client.act(TEXTS[:2], [ACTIONS, ACTIONS[1:]], mode="greedy")
    assert each.results[0].scores == pytest.approx(one.results[0].scores, rel=1e-4)
    assert each.results[1].scores == pytest.approx(one.results[1].scores[1:], rel=1e-4)
    assert "actions" in str(await refused(client, ["x"], [ACTIONS, ACTIONS]))


async def test_actions_may_be_left_out_with_env_id_alone(client):
    """may be left out with "env_id" """
    assert len((await client.act([[0.0] * 4], env_id="CartPole-v1")).results[0].log_probs) == 2
    assert set(await refused(client, ["x"])) == {"actions"}


async def test_the_task_is_one_or_one_each(client):
    """ "task": text, or one per observation (null allowed); optional"""
    shared = await client.act(["x", "x"], ACTIONS, task="Stay.", mode="greedy")
    each = await client.act(["x", "x"], ACTIONS, task=["Stay.", None], mode="greedy")
    without = await client.act(["x"], ACTIONS, mode="greedy")
    assert each.results[0].scores == pytest.approx(shared.results[1].scores, rel=1e-4)
    assert each.results[1].scores == pytest.approx(without.results[0].scores, rel=1e-4)
    assert each.results[0].scores != pytest.approx(without.results[0].scores, rel=1e-4)


async def test_hints_are_one_per_observation(client):
    """ "hints": optional, one per observation"""
    hinted = await client.act(["x", "x"], ACTIONS, hints=["push right", None], mode="greedy")
    without = await client.act(["x"], ACTIONS, mode="greedy")
    assert hinted.results[0].scores != pytest.approx(without.results[0].scores, rel=1e-4)
    assert hinted.results[1].scores == pytest.approx(without.results[0].scores, rel=1e-4)
    assert "hints" in str(await refused(client, ["x"], ACTIONS, hints=["push left", None]))


# Modes


async def test_sample_is_the_default(service):
    """ "mode": default "sample" """
    plain = {"observations": TEXTS, "actions": ACTIONS, "seed": 3}
    default = await service.ask("/act", plain)
    assert default == await service.ask("/act", {**plain, "mode": "sample"})
    assert default != await service.ask("/act", {**plain, "mode": "greedy"})


async def test_epsilon_needs_epsilon_from_0_to_1(client):
    """ "epsilon" needs "epsilon": 0..1"""
    assert await refused(client, ["x"], ACTIONS, mode="epsilon")
    for epsilon in (-0.01, 1.01):
        assert set(await refused(client, ["x"], ACTIONS, mode="epsilon", epsilon=epsilon)) == {"epsilon"}


async def test_epsilon_is_uniform_with_that_probability_else_the_argmax(client):
    """uniform with that probability, else the argmax"""
    answer = await client.act(TEXTS, ACTIONS, mode="epsilon", epsilon=0.5, seed=7)
    chance, place = uniforms(np.full(40, 7), np.arange(40), 2, stream=1).T
    best = [int(np.argmax(result.scores)) for result in answer.results]
    assert actions_of(answer) == np.where(chance < 0.5, (place * 3).astype(int), best).tolist()
    for result, index in zip(answer.results, best, strict=True):
        assert math.exp(result.log_prob) == pytest.approx(0.5 / 3 + 0.5 * (result.action == index))


@pytest.mark.parametrize("fields", [{"mode": "greedy"}, {"mode": "epsilon", "epsilon": 0.0}, {"temperature": 0.0}])
@pytest.mark.parametrize("asked", [HEAD, HEAD[::-1]])
async def test_the_lowest_index_wins_a_tie(tied, fields, asked):
    """the argmax, lowest index on ties"""
    answer = await tied.act(TEXTS, asked, seed=7, **fields)
    assert {tuple(result.scores) for result in answer.results} == {(0.0, 0.0, 0.0)}
    assert set(actions_of(answer)) == {0}


async def test_temperature_from_0_to_100_divides_the_scores(client):
    """ "temperature": 0..100, divides the scores in "sample" only"""
    for temperature in (0.25, 100.0):
        for result in (await client.act(TEXTS, ACTIONS, temperature=temperature, seed=1)).results:
            assert result.log_prob == pytest.approx(softmax_logs(result.scores, temperature)[result.action], rel=1e-4)
    for temperature in (-0.1, 100.1):
        assert set(await refused(client, ["x"], ACTIONS, temperature=temperature)) == {"temperature"}


async def test_temperature_0_is_greedy(client):
    """(0 = greedy)"""
    greedy = await client.act(TEXTS, ACTIONS, mode="greedy")
    assert await client.act(TEXTS, ACTIONS, temperature=0) == greedy


@pytest.mark.parametrize("fields", [{"mode": "greedy"}, {"mode": "epsilon", "epsilon": 0.5}])
async def test_other_modes_take_a_temperature_and_ignore_it(client, fields):
    """accepted and ignored elsewhere"""
    plain = await client.act(TEXTS, ACTIONS, seed=7, **fields)
    assert await client.act(TEXTS, ACTIONS, seed=7, temperature=50.0, **fields) == plain


# Seeds


async def test_seeds_from_0_to_2_to_the_53(client):
    """ "seed": integer 0..2^53-1, or one per observation"""
    await client.act(["x", "y"], ACTIONS, seed=MAX_SEED)
    await client.act(["x", "y"], ACTIONS, seed=[0, 2**53 - 1])
    for seed in (-1, 2**53, 0.5):
        assert set(await refused(client, ["x"], ACTIONS, seed=seed)) == {"seed"}
    assert "seed" in str(await refused(client, ["x"], ACTIONS, seed=[1, 2]))


def drawn(answer, seeds, items):
    """Returns the actions that Gumbel-max draws from the answer's own scores."""
    scores = np.array([result.scores for result in answer.results], dtype=np.float64)
    return (scores + gumbels(np.array(seeds), np.array(items), scores.shape[1], stream=0)).argmax(axis=1).tolist()


async def test_a_scalar_s_means_s_i_for_item_i(client):
    """a scalar s means (s, i) for item i"""
    answer = await client.act(["x"] * 40, ACTIONS, seed=7)
    assert actions_of(answer) == drawn(answer, [7] * 40, range(40))
    assert len(set(actions_of(answer))) > 1


async def test_a_list_seeds_each_item_alone(client):
    """a list makes item i depend on (seeds[i], its own content, version) alone"""
    answer = await client.act(["x"] * 40, ACTIONS, seed=range(40))
    assert actions_of(answer) == drawn(answer, range(40), [0] * 40)
    assert len(set(actions_of(await client.act(["x"] * 40, ACTIONS, seed=[7] * 40)))) == 1  # unlike the scalar 7


async def test_splitting_a_batch_changes_nothing(client):
    """so splitting a batch changes nothing"""
    seeds = [3 * n for n in range(40)]
    whole = await client.act(TEXTS, ACTIONS, seed=seeds)
    parts = [await client.act(TEXTS[a:b], ACTIONS, seed=seeds[a:b]) for a, b in ((0, 1), (1, 17), (17, 40))]
    assert actions_of(whole) == [action for part in parts for action in actions_of(part)]
    told = [result.log_prob for part in parts for result in part.results]
    assert [result.log_prob for result in whole.results] == pytest.approx(told, rel=2e-5)


# The answer


async def test_the_answer_has_these_fields(service):
    """{"policy_version": 12, "readout": "phrase", "results": [{"action", "label", "log_prob", ...}]}"""
    answer = await service.ask("/act", {"observations": ["x", "y"], "actions": ACTIONS})
    assert set(answer) == {"policy_version", "readout", "results"}
    assert (answer["policy_version"], answer["readout"]) == (1, "phrase")
    named = {"action", "label", "log_prob", "log_probs", "scores", "value", "num_prompt_tokens"}
    assert [set(result) for result in answer["results"]] == [named] * 2


async def test_action_indexes_the_request_s_own_list(client):
    """`action` indexes the request's list for that observation"""
    lists = [ACTIONS[n % 3 :] + ACTIONS[: n % 3] for n in range(40)]
    answer = await client.act(TEXTS, lists, seed=1)
    assert [result.label for result in answer.results] == [
        listed[result.action] for listed, result in zip(lists, answer.results, strict=True)
    ]


async def test_action_is_the_environment_s_own_number(client):
    """(for a described environment, the environment's own action number)"""
    answer = await client.act([458] * 20, env_id="Taxi-v4", seed=1)
    assert {(result.action, result.label) for result in answer.results} == {(1, "move north"), (3, "move west")}


async def test_log_prob_is_of_the_distribution_that_chose(client):
    """`log_prob` is of the chosen action under the distribution that chose it (greedy: 0)"""
    for result in (await client.act(TEXTS, ACTIONS, seed=1)).results:
        assert result.log_prob == pytest.approx(result.log_probs[result.action], rel=1e-4)
    greedy = await client.act(TEXTS, ACTIONS, mode="greedy")
    assert [result.log_prob for result in greedy.results] == [0.0] * 40
    assert actions_of(greedy) == [int(np.argmax(result.scores)) for result in greedy.results]


@pytest.mark.parametrize("fields", [{"temperature": 5.0}, {"mode": "greedy"}, {"mode": "epsilon", "epsilon": 1.0}])
async def test_log_probs_are_the_log_softmax_of_the_scores_whatever_the_mode(client, fields):
    """`log_probs` = log_softmax(scores) over the legal actions at temperature 1"""
    for result in (await client.act(TEXTS[:4], ACTIONS, **fields)).results:
        assert result.log_probs == pytest.approx(softmax_logs(result.scores), rel=1e-4)


async def test_value_is_the_critic_s(fresh, calling):
    """`value`: the critic's"""
    state = await fresh.tensors()
    state |= {"value_head.weight": torch.zeros(1, 64), "value_head.bias": torch.tensor([8.6])}
    async with calling(fresh) as client:
        await client.put_weights(save(state | {"value_scale": torch.tensor(2.0)}), if_match=1)
        assert (await client.act(["x"], ACTIONS)).results[0].value == pytest.approx(17.2)


async def test_a_head_answers_only_for_its_list(tied, client):
    """`readout` (`phrase` or `head`) belongs to the policy; a head answers only for the list it was built for"""
    assert ((await tied.act(["x"], HEAD)).readout, (await client.act(["x"], HEAD)).readout) == ("head", "phrase")
    assert set(await refused(tied, ["x"], [*HEAD, "fire"])) == {"actions"}
    assert set(await refused(tied, [[0.0] * 4], env_id="CartPole-v1")) == {"env_id"}


async def test_phrase_alpha_and_beta_travel_with_the_weights(fresh, serving, calling, tmp_path):
    """Phrase alpha and beta travel with the weights."""
    phrases = ["wait", "push the cart to the left"]
    async with serving(tmp_path / "other", alpha=1.0, beta=2.5) as other, calling(other) as client:
        data, wanted = await client.download_weights(1), await client.act(["x"], phrases, mode="greedy")
    async with calling(fresh) as client:
        before = await client.act(["x"], phrases, mode="greedy")
        await client.put_weights(data, if_match=1)
        after = await client.act(["x"], phrases, mode="greedy")
    assert after.results[0].scores == pytest.approx(wanted.results[0].scores, rel=1e-5)
    assert after.results[0].scores != pytest.approx(before.results[0].scores, rel=1e-2)


async def test_a_prompt_beyond_the_context_is_refused_with_both_counts(client, embedded):
    """A prompt longer than the model's context is 422 with its token count and the limit"""
    encoder = TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)
    text = " 20" * (embedded.max_tokens - len(encoder.encode(action_prompt(""))) + 5)
    message = (await refused(client, ["x", text], ACTIONS))["observations[1]"]
    assert str(len(encoder.encode(action_prompt(text)))) in message
    assert str(embedded.max_tokens) in message


async def test_nothing_is_truncated_silently(client, embedded):
    """nothing is truncated silently: the number of tokens is that of the whole prompt"""
    encoder = TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)
    texts = [" 20" * count for count in (1, 500, 1_500)]
    answer = await client.act(texts, ACTIONS)
    wanted = [len(encoder.encode(action_prompt(text))) for text in texts]
    assert [result.num_prompt_tokens for result in answer.results] == wanted


async def test_the_embedded_tokenizer_covers_any_utf_8(client, embedded):
    """The embedded tokenizer covers any UTF-8 by bytes"""
    text = "".join(map(chr, range(1, 0x250))) + "東へ🎈\u200b\ufeff\U0010ffff\r\n\t"
    assert embedded.tokenizer.decode(embedded.tokenizer.encode(text)) == text
    assert (await client.act([text], ["🎈", "\u00a0x"])).results[0].num_prompt_tokens > len(text)


async def test_the_embedded_model_has_1024_positions(client, embedded):
    """and has at least 1,024 positions"""
    assert (await client.info()).policy.max_prompt_tokens >= 1_024
    assert embedded.model.config.n_positions >= 1_024
