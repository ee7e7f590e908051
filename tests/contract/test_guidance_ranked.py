"""`POST /guidance` in mode `ranked`: the frozen model chooses among candidates."""

import asyncio
import math
from collections import Counter

import numpy as np
import pytest
import torch

from hintwise.action_batch import ScoredPrompt
from hintwise.describers import describer_for, hints_of
from hintwise.prompts import guidance_prompt
from service.action_draw import STREAM_RANKING
from service.ranking import _split, ranking
from service.sampling import gumbels

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "cart 20 speed 21 pole 20 turn 19"
OTHERS = [f"pole {n} cart {2 * n}" for n in range(3, 20)]
CANDIDATES = ["push left", "push right", "wait", "push", "24 25"]


async def ranked(service, observations, candidates=CANDIDATES, **fields):
    """Returns the hints of each observation."""
    body = {"observations": observations, "mode": "ranked", **fields}
    if candidates is not None:
        body["candidates"] = candidates
    return [result["hints"] for result in (await service.ask("/guidance", body))["results"]]


def texts(hints):
    return [hint["text"] for hint in hints]


@torch.no_grad()
def log_prob_by_hand(language_model, prompt, hint):
    """Returns the sum over the hint's tokens with transformers' plain forward."""
    encode = language_model.tokenizer.encode
    start, following = encode(prompt), encode(" " + hint, add_special_tokens=False)
    logits = language_model.model(input_ids=torch.tensor([start + following])).logits[0].log_softmax(-1)
    return sum(logits[len(start) - 1 + j, token].item() for j, token in enumerate(following))


@pytest.mark.parametrize("temperature", [0, 0.7, 2])
@pytest.mark.parametrize("fields", [{}, {"task": "Stay."}, {"task": "Go.", "actions": ["a", "b c"]}])
async def test_log_prob_and_probability_equal_plain_transformers(service, language, temperature, fields):
    given = await ranked(service, [TEXT, *OTHERS], num_hints=5, temperature=temperature, seed=3, **fields)
    for observation, hints in zip([TEXT, *OTHERS], given, strict=True):
        prompt = guidance_prompt(observation, **fields)
        by_hand = {text: log_prob_by_hand(language, prompt, text) for text in CANDIDATES}
        total = math.log(sum(map(math.exp, by_hand.values())))
        assert set(texts(hints)) == set(CANDIDATES)
        for hint in hints:
            assert hint["log_prob"] == pytest.approx(by_hand[hint["text"]], abs=1e-3)
            assert hint["probability"] == pytest.approx(math.exp(by_hand[hint["text"]] - total), abs=1e-4)
            assert hint["finish_reason"] == "stop"


async def test_a_written_hint_and_the_same_hint_ranked_have_one_log_prob(service, language):
    written = await service.ask("/guidance", {"observations": [TEXT], "temperature": 0, "max_new_tokens": 6})
    [hint] = written["results"][0]["hints"]
    assert language.tokenizer.decode(language.tokenizer.encode(" " + hint["text"])) == " " + hint["text"]
    [[again]] = await ranked(service, [TEXT], [hint["text"]])
    assert again["log_prob"] == pytest.approx(hint["log_prob"], abs=1e-3)
    assert again["probability"] == 1.0


async def test_temperature_zero_gives_the_best_in_order(service):
    [everything] = await ranked(service, [TEXT], num_hints=5, temperature=0)
    log_probs = [hint["log_prob"] for hint in everything]
    assert log_probs == sorted(log_probs, reverse=True)
    [best] = await ranked(service, [TEXT], num_hints=2, temperature=0, seed=9)
    assert texts(best) == texts(everything)[:2]


async def test_a_draw_repeats_with_its_seed_and_takes_each_candidate_once(service):
    first, again = [await ranked(service, [TEXT] * 30, num_hints=3, temperature=50, seed=4) for _ in range(2)]
    assert [texts(hints) for hints in first] == [texts(hints) for hints in again]
    assert all(len(set(texts(hints))) == 3 for hints in first)
    assert len({tuple(texts(hints)) for hints in first}) > 5  # the place matters
    other = await ranked(service, [TEXT] * 30, num_hints=3, temperature=50, seed=5)
    assert [texts(hints) for hints in other] != [texts(hints) for hints in first]
    few = await ranked(service, [TEXT] * 30, num_hints=1, temperature=50, seed=4)
    assert [texts(hints) for hints in few] == [texts(hints)[:1] for hints in first]


async def test_the_first_of_a_draw_follows_the_softmax_and_the_second_what_is_left():
    count, scores = 20_000, np.log([0.6, 0.3, 0.1])
    seeds, items = np.full(count, 3), np.arange(count)
    orders = ranking([scores.tolist()] * count, 1.0, seeds, items)
    shares = Counter((int(order[0]), int(order[1])) for order in orders)
    for (a, b), share in {(0, 1): 0.6 * 0.3 / 0.4, (1, 0): 0.3 * 0.6 / 0.7, (2, 0): 0.1 * 0.6 / 0.9}.items():
        assert shares[a, b] / count == pytest.approx(share, abs=0.015)  # four standard deviations


async def test_a_draw_is_the_documented_formula_and_ties_go_to_the_lower_index():
    scores, seeds, items = [[-1.0, -2.0, -0.5], [-3.0, -3.0]], np.array([7, 8]), np.array([0, 5])
    noise = gumbels(seeds, items, 3, stream=STREAM_RANKING)
    drawn = ranking(scores, 2.0, seeds, items)
    assert drawn[0].tolist() == np.argsort(-(np.array(scores[0]) + 2 * noise[0])).tolist()
    assert drawn[1].tolist() == np.argsort(-(np.array(scores[1]) + 2 * noise[1, :2])).tolist()
    assert [order.tolist() for order in ranking(scores, 0.0, seeds, items)] == [[2, 0, 1], [0, 1]]


@pytest.mark.parametrize("place", [0, 31, 63])
async def test_with_a_list_of_seeds_an_item_is_the_same_alone_and_among_63_others(service, place):
    [alone] = await ranked(service, [TEXT], num_hints=3, temperature=30, seed=[11])
    others = [f"pole {n}" + " 7" * (n % 9) for n in range(63)]
    among = await ranked(
        service,
        [*others[:place], TEXT, *others[place:]],
        num_hints=3,
        temperature=30,
        seed=[*range(place), 11, *range(place, 63)],
    )
    assert texts(among[place]) == texts(alone)
    for hint, wanted in zip(among[place], alone, strict=True):
        assert hint["log_prob"] == pytest.approx(wanted["log_prob"], abs=1e-3)


async def test_without_candidates_the_environment_s_own_hints_are_ranked(service):
    describer = describer_for("MountainCar-v0")
    [hints] = await ranked(service, [[-0.5, 0.0]], None, env_id="MountainCar-v0", num_hints=3)
    assert set(texts(hints)) == set(describer.hints)


async def test_a_describer_without_hints_offers_its_actions():
    class Bare:
        actions = ("stick", "hit")

    class Advised(Bare):
        hints = ("take a card",)

    assert hints_of(Bare()) == ("stick", "hit")
    assert hints_of(Advised()) == ("take a card",)


async def test_without_an_environment_the_actions_of_each_observation_are_ranked(service):
    lists = [["push left", "wait"], ["push right"]]
    given = await ranked(service, [TEXT, TEXT], None, actions=lists)
    assert [texts(hints)[0] in listed for hints, listed in zip(given, lists, strict=True)] == [True, True]


async def test_candidates_win_over_the_environment_s(service):
    [[hint]] = await ranked(service, [[0.0, 0.1, 0.0, 0.1]], ["lean in"], env_id="CartPole-v1")
    assert hint["text"] == "lean in"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "candidates"),
        ({"candidates": []}, "candidates"),
        ({"candidates": ["a", "a"]}, "candidates"),
        ({"candidates": ["a", " "]}, "candidates"),
        ({"candidates": ["a", 3]}, "candidates"),
        ({"candidates": [["a"]]}, "candidates"),
        ({"candidates": [f"go to {n}" for n in range(257)]}, "candidates"),
        ({"candidates": ["x" * 1001]}, "candidates"),
        ({"candidates": ["a", "b"], "num_hints": 3}, "num_hints"),
        ({"actions": [["a", "b"], ["c"]], "num_hints": 2}, "num_hints"),
    ],
)
async def test_what_cannot_be_ranked_is_refused_by_name(service, fields, field):
    refusal = await service.refused("/guidance", {"observations": [TEXT] * 2, "mode": "ranked", **fields})
    assert set(refusal.fields) == {field}
    assert "actions must" not in refusal.text


async def test_candidates_are_refused_in_free_mode(service):
    refusal = await service.refused("/guidance", {"observations": [TEXT], "candidates": CANDIDATES})
    assert set(refusal.fields) == {"candidates"}
    assert "ranked" in refusal.text


async def test_candidates_that_do_not_fit_the_context_name_the_observation(service, language):
    text = " 20" * (language.max_tokens - 20)
    refusal = await service.refused(
        "/guidance", {"observations": [TEXT, text], "mode": "ranked", "candidates": ["go " * 100]}
    )
    assert set(refusal.fields) == {"observations[1]"}
    assert str(language.max_tokens) in refusal.text


async def test_a_long_list_of_candidates_keeps_to_the_token_budget(start):
    candidates = [f"{chr(97 + n % 26)}{chr(97 + n // 26)} then " + "20 " * 30 for n in range(256)]
    async with start(max_batch_tokens=2_048) as service:
        seen, score = [], service.engine.ranker.score
        observe = service.engine.ranking_queue._on_batch
        service.engine.ranking_queue._on_batch = lambda rows, tokens, s: (seen.append(tokens), observe(rows, tokens, s))
        [[best]] = await ranked(service, [TEXT], candidates, temperature=0)
        assert len(seen) > 1
        assert max(seen) <= 2_048
        encoder = service.engine.ranker.encoder
        whole = ScoredPrompt(encoder.encode(guidance_prompt(TEXT)), encoder.phrases(tuple(candidates)))
        [at_once] = await asyncio.to_thread(score, [whole])
    assert candidates.index(best["text"]) == int(np.argmax(at_once.scores))
    assert best["log_prob"] == pytest.approx(max(at_once.scores), abs=1e-3)
    assert best["probability"] == pytest.approx(math.exp(max(at_once.log_probs)), abs=1e-4)


async def test_a_split_keeps_every_candidate_in_order(service):
    encoder = service.engine.ranker.encoder
    candidates = tuple(f"{n} " * (1 + n % 7) for n in range(60))
    prompt, phrases = encoder.encode(TEXT), encoder.phrases(candidates)
    for budget in (1, 100, 1_000, 10**6):
        parts = _split(phrases, len(prompt), budget)
        assert [ids for part in parts for ids in part.token_ids] == list(phrases.token_ids)
        for part in parts:
            tokens = part.num_rows * (len(prompt) + part.num_row_tokens)
            assert tokens <= budget or len(part.token_ids) == 1


async def test_guidance_and_scorer_share_one_model_and_another_gets_its_own(service, start, tmp_path, language):
    assert service.engine.ranker is service.engine.scorer
    language.model.save_pretrained(tmp_path / "model")
    language.tokenizer.save_pretrained(tmp_path / "model")
    async with start(guidance=str(tmp_path / "model")) as other:
        assert other.engine.ranker.policy.trunk is other.engine.hints.language_model.model
        assert other.engine.ranker.policy.trunk is not other.engine.scorer.policy.trunk
        answer = await other.ask("/guidance", {"observations": [TEXT], "mode": "ranked", "candidates": ["a"]})
        assert answer["model"] == str(tmp_path / "model")
