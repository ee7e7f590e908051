"""`POST /guidance`, line by line of DESIGN section 2."""

import asyncio

import pytest
import torch

from hintwise.describers import describer_for
from hintwise.prompts import guidance_prompt
from hintwise.tokens import TextEncoder
from service.hint_generator import HintRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "cart 20 speed 21 pole 20 turn 19"
OTHERS = [" ".join(["pole 3"] * n) for n in (1, 40, 7, 90)]
ACTIONS = ["push left", "push right"]


async def hints(service, observations, **fields):
    """Returns the hints of each observation."""
    answer = await service.ask("/guidance", {"observations": observations, **fields})
    return [result["hints"] for result in answer["results"]]


def agree(given, wanted):
    """Whether two hints are the same but for rounding in the log-prob."""
    return {**given, "log_prob": 0} == {**wanted, "log_prob": 0} and given["log_prob"] == pytest.approx(
        wanted["log_prob"], abs=1e-3
    )


def finished(steps):
    """Returns what a generator of steps returns, having run them all."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value


@torch.no_grad()
def greedy(language_model, prompt, max_new_tokens):
    """Greedy decoding with transformers' plain forward, one sequence, no cache: what the service must equal."""
    ids, log_prob, written = list(prompt), 0.0, []
    while len(written) < max_new_tokens:
        log_probs = language_model.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        token = int(log_probs.argmax())
        if token in language_model.tokenizer.all_special_ids or "\n" in language_model.tokenizer.decode([token]):
            break
        written.append(token)
        ids.append(token)
        log_prob += log_probs[token].item()
    return written, log_prob


def written_by_hand(language_model, prompt, max_new_tokens):
    """Returns the text and log-prob of a greedy hint."""
    tokens, log_prob = greedy(language_model, prompt, max_new_tokens)
    return language_model.tokenizer.decode(tokens).strip(), log_prob


async def test_the_answer_names_its_model_and_has_hints_for_each_observation(service):
    answer = await service.ask("/guidance", {"observations": [TEXT, *OTHERS], "num_hints": 3, "max_new_tokens": 4})
    assert set(answer) == {"model", "model_sha256", "results"}
    assert answer["model"] == "embedded-language"
    assert answer["model_sha256"] == service.engine.hints.language_model.sha256
    assert [len(result["hints"]) for result in answer["results"]] == [3] * 5
    for hint in answer["results"][0]["hints"]:
        assert set(hint) == {"text", "log_prob", "probability", "finish_reason"}
        assert hint["probability"] is None
        assert hint["log_prob"] <= 0


@pytest.mark.parametrize("fields", [{}, {"task": "Stay."}, {"actions": ACTIONS}, {"task": "Go.", "actions": ACTIONS}])
async def test_log_prob_and_text_equal_plain_transformers(service, language, unwatched, monkeypatch, fields):
    monkeypatch.setattr(service.engine.hints, "_watch", unwatched)
    encoder = TextEncoder(language.tokenizer, max_tokens=language.max_tokens)
    written = await hints(service, [TEXT, *OTHERS], temperature=0, max_new_tokens=24, **fields)
    for observation, [hint] in zip([TEXT, *OTHERS], written, strict=True):
        text, log_prob = written_by_hand(language, encoder.encode(guidance_prompt(observation, **fields)), 24)
        assert hint["text"] == text
        assert hint["log_prob"] == pytest.approx(log_prob, abs=1e-3)


async def test_temperature_zero_is_deterministic(service):
    [[first], [second]] = await hints(service, [TEXT] * 2, temperature=0)
    [[again]] = await hints(service, [TEXT], temperature=0, seed=99)
    assert agree(first, second)
    assert agree(again, first)


async def test_a_seed_repeats_hints_and_no_seed_does_not(service):
    async def four(**fields):
        drawn = await hints(service, [TEXT] * 2, num_hints=2, temperature=5, **fields)
        return [hint for each in drawn for hint in each]

    first, again, unseeded = await four(seed=5), await four(seed=5), await four()
    assert all(agree(a, b) for a, b in zip(first, again, strict=True))
    texts = [hint["text"] for hint in first]
    assert len(set(texts)) == 4  # (seed, item, hint) all matter
    assert texts != [hint["text"] for hint in unseeded]


async def test_the_first_hints_do_not_depend_on_how_many_are_asked_for(service):
    [few] = await hints(service, [TEXT], seed=5, num_hints=2)
    [many] = await hints(service, [TEXT], seed=5, num_hints=8)
    assert all(agree(a, b) for a, b in zip(few, many, strict=False))


@pytest.mark.parametrize("place", [0, 2, 4])
async def test_a_hint_does_not_depend_on_its_neighbours(service, place):
    [[alone]] = await hints(service, [TEXT], seed=[11])
    observations, seeds = [*OTHERS[:place], TEXT, *OTHERS[place:]], [1, 2, 3, 4]
    among = await hints(service, observations, seed=[*seeds[:place], 11, *seeds[place:]])
    assert agree(among[place][0], alone)


async def test_hints_of_different_lengths_share_a_batch(service):
    """A finished hint's positions must not run past the model's while its neighbour still grows."""
    generator = service.engine.hints
    longest = generator.language_model.max_tokens
    nearly_full = HintRequest((5, 6) * (longest // 2 - 2), max_new_tokens=4, temperature=0, seed=1, item=0)
    growing = HintRequest((7, 8, 9), max_new_tokens=64, temperature=1.0, seed=2, item=0)
    together = finished(generator.write([nearly_full, growing]))
    for hint, request in zip(together, (nearly_full, growing), strict=True):
        [alone] = finished(generator.write([request]))
        assert agree(hint._asdict(), alone._asdict())


async def test_concurrent_requests_of_other_lengths_change_nothing(service, happens):
    requests = [
        {"observations": [TEXT], "seed": 3, "max_new_tokens": 40},
        {"observations": OTHERS[:1], "seed": 4, "max_new_tokens": 3, "num_hints": 2},
        {"observations": OTHERS[1:], "seed": 5, "temperature": 0},
    ]
    alone = [await service.ask("/guidance", request) for request in requests]
    asked, queue = [], service.engine.guidance_queue
    async with service.blocked_thread():
        for request in requests:
            before = queue.queued_tokens
            asked.append(asyncio.create_task(service.ask("/guidance", request)))
            await happens(lambda before=before: queue.queued_tokens > before)
    for given, wanted in zip(await asyncio.gather(*asked), alone, strict=True):
        for a, b in zip(given["results"], wanted["results"], strict=True):
            assert all(agree(hint, other) for hint, other in zip(a["hints"], b["hints"], strict=True))


async def test_a_prompt_that_fails_harms_nobody_who_shares_the_others(service, happens, monkeypatch):
    """Equal prompts of several clients are one row; a failure is found all the same, and named by its observation."""
    generator, queue = service.engine.hints, service.engine.guidance_queue
    poison, model = list(generator.encoder.encode(guidance_prompt("pole 13"))), generator._model
    poisoned = [
        {"observations": [TEXT, "pole 13"], "num_hints": 2, "seed": 1},
        {"observations": [TEXT, "pole 13", TEXT], "temperature": 0},
    ]
    healthy = [{"observations": [TEXT], "num_hints": 2, "seed": 1}, {"observations": [TEXT], "temperature": 0}]
    alone = [await service.ask("/guidance", request) for request in healthy]

    def failing(**inputs):
        if any(row[-len(poison) :] == poison for row in inputs["input_ids"].tolist()):
            raise RuntimeError("out of memory")
        return model(**inputs)

    monkeypatch.setattr(generator, "_model", failing)
    asked = []
    async with service.blocked_thread():
        for request in (poisoned[0], healthy[0], poisoned[1], healthy[1]):
            before = queue.queued_tokens
            answer = service.refused("/guidance", request, 500) if request in poisoned else None
            asked.append(asyncio.create_task(answer or service.ask("/guidance", request)))
            await happens(lambda before=before: queue.queued_tokens > before)
    refused, first, refused_too, second = await asyncio.gather(*asked)
    assert [set(refusal.fields) for refusal in (refused, refused_too)] == [{"observations[1]"}] * 2
    for given, wanted in zip((first, second), alone, strict=True):
        ours, theirs = (answer["results"][0]["hints"] for answer in (given, wanted))
        assert all(agree(hint, other) for hint, other in zip(ours, theirs, strict=True))


async def test_finish_reason_tells_why_a_hint_ended(service):
    reasons = {}
    for max_new_tokens in (1, 64):
        for [hint] in await hints(service, [TEXT] * 96, seed=1, temperature=100, max_new_tokens=max_new_tokens):
            reasons.setdefault(hint["finish_reason"], []).append(hint["text"])
    assert set(reasons) == {"stop", "length", "degenerate"}
    assert all(reasons["stop"])
    assert all(reasons["length"])
    assert not any(reasons["degenerate"])
    assert not any("\n" in text for texts in reasons.values() for text in texts)


async def test_a_hint_ends_before_the_token_that_stops_it(service, language, monkeypatch):
    """The model as shipped seldom stops, so a token that it does write is made to."""
    encoder = TextEncoder(language.tokenizer, max_tokens=language.max_tokens)
    prompt = encoder.encode(guidance_prompt(TEXT))
    whole, _ = greedy(language, prompt, 24)
    length = max(n for n, token in enumerate(whole) if token not in whole[:n])  # where its last new token stands
    monkeypatch.setattr(service.engine.hints, "_stop_ids", frozenset({whole[length]}))
    [[hint]] = await hints(service, [TEXT], temperature=0, max_new_tokens=24)
    monkeypatch.undo()
    text, log_prob = written_by_hand(language, prompt, length)
    assert (hint["text"], hint["finish_reason"]) == (text, "stop" if text else "degenerate")
    assert hint["log_prob"] == pytest.approx(log_prob, abs=1e-3)


@pytest.mark.parametrize("max_new_tokens", [1, 2, 5])
async def test_max_new_tokens_bounds_a_hint(service, language, max_new_tokens):
    encoder = TextEncoder(language.tokenizer, max_tokens=language.max_tokens)
    [[hint]] = await hints(service, [TEXT], temperature=0, max_new_tokens=max_new_tokens)
    assert hint["text"] == written_by_hand(language, encoder.encode(guidance_prompt(TEXT)), max_new_tokens)[0]


async def test_raw_observations_are_described_as_the_library_does(service):
    describer = describer_for("CartPole-v1")
    raw = [[0.1, -0.2, 0.03, 0.4]]
    described = await hints(service, raw, env_id="CartPole-v1", temperature=0)
    by_hand = await hints(
        service, [describer.describe(raw[0])], task=describer.task, actions=describer.actions, temperature=0
    )
    assert agree(described[0][0], by_hand[0][0])


async def test_new_policy_weights_change_neither_hints_nor_rewards(fresh):
    guidance = {"observations": [TEXT], "temperature": 0}
    item = {"hint": "push left", "observation": TEXT, "actions": ACTIONS, "action": "push left"}
    before = [await fresh.ask("/guidance", guidance), await fresh.ask("/reward", {"items": [item]})]
    acted = await fresh.act([TEXT], mode="greedy")
    await fresh.put_noise(0.3)
    assert await fresh.act([TEXT], mode="greedy") != acted
    assert [await fresh.ask("/guidance", guidance), await fresh.ask("/reward", {"items": [item]})] == before


@pytest.mark.parametrize("count", [1, 256])
async def test_1_to_256_observations_are_taken(service, count):
    assert len(await hints(service, [TEXT] * count, max_new_tokens=1)) == count


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("observations", []),
        ("observations", ["x"] * 257),
        ("mode", "best"),
        ("num_hints", 0),
        ("num_hints", 9),
        ("max_new_tokens", 0),
        ("max_new_tokens", 257),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("seed", 2**53),
        ("seed", -1),
        ("actions", ["go", "go"]),
        ("actions", [f"go to {n}" for n in range(300)]),
        ("hints", ["a"]),
    ],
)
async def test_a_bad_field_is_refused_by_name(service, field, value):
    refusal = await service.refused("/guidance", {"observations": [TEXT], field: value})
    assert set(refusal.fields) == {field}


@pytest.mark.parametrize(("field", "value"), [("task", ["a"]), ("seed", [1, 2, 3]), ("actions", [["a"]])])
async def test_a_list_of_the_wrong_length_is_refused_by_name(service, field, value):
    refusal = await service.refused("/guidance", {"observations": [TEXT] * 2, field: value})
    assert refusal.fields == {field: f"has {len(value)} entries for 2 observations"}


async def test_a_prompt_without_room_for_the_hint_is_named_with_both_counts(service, language):
    encoder = TextEncoder(language.tokenizer, max_tokens=language.max_tokens)
    text = " 20" * (language.max_tokens - 40)
    counted = len(encoder.encode(guidance_prompt(text)))
    assert counted < language.max_tokens < counted + 64
    refusal = await service.refused("/guidance", {"observations": [TEXT, text], "max_new_tokens": 64})
    assert set(refusal.fields) == {"observations[1]"}
    assert str(counted) in refusal.text
    assert str(language.max_tokens) in refusal.text


async def test_a_hint_may_use_the_last_position(service, language):
    encoder = TextEncoder(language.tokenizer, max_tokens=language.max_tokens)
    text = " 20" * (language.max_tokens - 20)
    room = language.max_tokens - len(encoder.encode(guidance_prompt(text)))
    assert await hints(service, [text], max_new_tokens=room, seed=1)
    await service.refused("/guidance", {"observations": [text], "max_new_tokens": room + 1})
