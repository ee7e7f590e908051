"""`POST /guidance`, observation by observation: tasks, actions, seeds, and the numbers of each hint."""

import numpy as np
import pytest
import torch

from hintwise.describers import describer_for
from hintwise.prompts import guidance_prompt
from service.action_draw import STREAM_HINT
from service.hint_generator import HINTS_PER_ITEM, SECOND_ATTEMPT
from service.hint_hygiene import says_something
from service.hint_text import hint_text
from service.sampling import gumbels

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "cart 20 speed 21 pole 20 turn 19"
VARIED = [f"pole {n}" + " 7" * (n % 9) for n in range(64)]


async def hints(service, observations, **fields):
    """Returns the hints of each observation."""
    answer = await service.ask("/guidance", {"observations": observations, **fields})
    return [result["hints"] for result in answer["results"]]


def agree(given, wanted):
    """Whether two lists of hints are the same but for rounding in their numbers."""
    return len(given) == len(wanted) and all(
        (one["text"], one["finish_reason"]) == (other["text"], other["finish_reason"])
        and one["log_prob"] == pytest.approx(other["log_prob"], abs=1e-3)
        and one["probability"] == pytest.approx(other["probability"], abs=1e-4)
        for one, other in zip(given, wanted, strict=True)
    )


@torch.no_grad()
def written_by_hand(language_model, observation, item, *, temperature, seed, max_new_tokens, attempt=0):
    """Returns text, log-prob and reason of a hint with transformers' plain forward, one sequence, no cache.

    The documented draw: the token at step t is argmax(log p + T * g), g keyed by (seed, item, attempt, t).
    """
    tokenizer = language_model.tokenizer
    ids, written, log_prob = tokenizer.encode(guidance_prompt(observation)), [], 0.0
    for step in range(max_new_tokens):
        log_probs = language_model.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        key = np.array([(item << 16) + attempt * SECOND_ATTEMPT + step])
        noise = gumbels(np.array([seed]), key, len(log_probs), stream=STREAM_HINT)[0]
        token = int((log_probs + temperature * torch.from_numpy(noise)).argmax())
        if token in tokenizer.all_special_ids or "\n" in tokenizer.decode([token]):
            return hint_text(tokenizer, written), log_prob, "stop"
        ids, written = [*ids, token], [*written, token]
        log_prob += log_probs[token].item()
    return hint_text(tokenizer, written), log_prob, "length"


@pytest.mark.parametrize("temperature", [0, 0.7, 2, 100])
async def test_written_hints_equal_their_recomputation(service, language, unwatched, monkeypatch, temperature):
    monkeypatch.setattr(service.engine.hints, "_watch", unwatched)
    given = await hints(service, VARIED[:8], num_hints=2, temperature=temperature, seed=6, max_new_tokens=12)
    for i, each in enumerate(given):
        for k, hint in enumerate(each):
            item, sampling = i * HINTS_PER_ITEM + k, {"temperature": temperature, "seed": 6, "max_new_tokens": 12}
            text, log_prob, reason = written_by_hand(language, VARIED[i], item, **sampling)
            if not says_something(text) and temperature:
                text, log_prob, reason = written_by_hand(language, VARIED[i], item, **sampling, attempt=1)
            if not says_something(text):
                text, log_prob, reason = "", 0.0, "degenerate"
            assert (hint["text"], hint["finish_reason"]) == (text, reason)
            assert hint["log_prob"] == pytest.approx(log_prob, abs=2e-3)


@pytest.mark.parametrize("place", [0, 31, 63])
async def test_with_a_list_of_seeds_an_item_is_the_same_alone_and_among_63_others(service, place):
    fields = {"num_hints": 2, "max_new_tokens": 8}
    [alone] = await hints(service, [VARIED[place]], seed=[100 + place], **fields)
    everything = await hints(service, VARIED, seed=list(range(100, 164)), **fields)
    assert agree(everything[place], alone)


async def test_with_a_list_of_seeds_splitting_changes_nothing(service):
    seeds, fields = [7, 7, 8, 9], {"max_new_tokens": 8, "temperature": 5}
    whole = await hints(service, [TEXT, TEXT, TEXT, "pole 1"], seed=seeds, **fields)
    halves = [
        *await hints(service, [TEXT, TEXT], seed=seeds[:2], **fields),
        *await hints(service, [TEXT, "pole 1"], seed=seeds[2:], **fields),
    ]
    assert all(agree(one, other) for one, other in zip(whole, halves, strict=True))
    assert agree(whole[0], whole[1])  # the same seed and content
    assert whole[1][0]["text"] != whole[2][0]["text"]


@pytest.mark.parametrize("mode", ["free", "ranked"])
async def test_tasks_and_actions_are_each_observation_s_own(service, mode):
    tasks, actions = ["Stay.", None, "Go right."], [["push left", "wait"], ["a"], ["push right", "b c"]]
    fields = {"mode": mode, "temperature": 0, "max_new_tokens": 8}
    together = await hints(service, [TEXT] * 3, task=tasks, actions=actions, **fields)
    for task, listed, given in zip(tasks, actions, together, strict=True):
        own = {"task": task} if task else {}
        [alone] = await hints(service, [TEXT], actions=listed, **own, **fields)
        assert agree(given, alone)
    log_probs = [given[0]["log_prob"] for given in together]
    assert len({round(log_prob, 3) for log_prob in log_probs}) == 3  # the prompts differ


@pytest.mark.parametrize("mode", ["free", "ranked"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0", "Acrobot-v1"])
async def test_raw_observations_of_every_described_environment(service, mode, env_id):
    describer, size = describer_for(env_id), {"CartPole-v1": 4, "MountainCar-v0": 2, "Acrobot-v1": 6}[env_id]
    raw = [[0.01 * n] * size for n in (1, 2)]
    fields = {"mode": mode, "temperature": 0, "max_new_tokens": 6}
    described = await hints(service, raw, env_id=env_id, **fields)
    texts = [describer.describe(each) for each in raw]
    own = {"candidates": describer.hints} if mode == "ranked" else {}
    by_hand = await hints(service, texts, task=describer.task, actions=describer.actions, **own, **fields)
    assert all(agree(one, other) for one, other in zip(described, by_hand, strict=True))


async def test_a_raw_observation_that_is_wrong_is_named(service):
    raw = [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0]]
    for mode in ("free", "ranked"):
        refusal = await service.refused("/guidance", {"observations": raw, "env_id": "CartPole-v1", "mode": mode})
        assert set(refusal.fields) == {"observations[1]"}


async def test_8_hints_of_256_tokens_are_taken(service):
    [given] = await hints(service, [TEXT], num_hints=8, max_new_tokens=256, temperature=0)
    assert len(given) == 8
