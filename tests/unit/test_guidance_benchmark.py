"""The benchmark of /guidance compares services that write the same hints. How fast is no matter here."""

import json

import httpx
import pytest
import torch

from benchmarks import guidance, guidance_states, same_hints
from benchmarks.guidance_states import STATES, WORLDS, Question, questions
from benchmarks.naive_guidance import NaiveHintWriter, create_app
from benchmarks.same_hints import Agreement, WrittenText, compare
from hintwise.model_names import EMBEDDED_DIR
from hintwise.prompts import guidance_prompt
from hintwise.schemas import GuidanceRequest
from hintwise.tokens import TextEncoder
from service.hint_generator import HintGenerator, HintRequest

TEXTS = ["pole 3", "cart 20 speed 21 pole 20 turn 19", "pole 3 " * 12, "cart 7"]
PROMPT = guidance_prompt(TEXTS[0])


@pytest.fixture(scope="module")
def naive():
    return NaiveHintWriter(str(EMBEDDED_DIR))


def our_texts(embedded, unwatched, prompts, max_new_tokens):
    generator = HintGenerator(embedded)
    generator._watch = unwatched  # the embedded model loops, and the naive service lets it
    asked = [
        HintRequest(prompt, max_new_tokens, 0, 1, k) for k, prompt in enumerate(generator.encoder.encode_all(prompts))
    ]
    steps = generator.write(asked)
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return [hint.text for hint in ended.value]


@pytest.mark.parametrize("per_state", [False, True])
@pytest.mark.parametrize("handler", ["async", "sync"])
async def test_the_naive_service_writes_what_ours_writes(embedded, unwatched, naive, handler, per_state):
    app = create_app(naive, per_state=per_state, handler=handler)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://naive") as client:
        body = {"observations": TEXTS, "task": "Go.", "temperature": 0, "max_new_tokens": 9}
        results = (await client.post("/guidance", json=body)).raise_for_status().json()["results"]
    ours = our_texts(embedded, unwatched, [guidance_prompt(text, task="Go.") for text in TEXTS], 9)
    assert [result["hints"] for result in results] == [[{"text": text}] for text in ours]
    assert len(set(ours)) > 1


def test_a_naive_hint_is_one_line_that_ends_where_ours_does(embedded, naive):
    assert frozenset(naive._stop_ids) == HintGenerator(embedded)._stop_ids


def test_naive_hints_at_a_temperature_follow_the_seed(naive):
    def sampled(seed):
        torch.manual_seed(seed)
        return naive.write([PROMPT], max_new_tokens=12, temperature=1.0)

    assert sampled(1) == sampled(1) != sampled(2)


# Which hints are the same


def told(embedded, text, finish_reason, other, found=None, times=1):
    found = found or Agreement()
    compare(embedded, [PROMPT] * times, [WrittenText(text, finish_reason)] * times, [other] * times, found)
    return found


def test_equal_hints_are_counted(embedded):
    assert told(embedded, "go left", "stop", "go left") == Agreement(num_equal=1)


def test_hints_may_part_where_two_tokens_are_as_likely(embedded, monkeypatch):
    monkeypatch.setattr(same_hints, "MAX_GAP", 1e9)
    assert told(embedded, "push left", "stop", "push right") == Agreement(num_rounded=1)


def test_hints_that_part_for_another_reason_are_refused(embedded):
    with pytest.raises(RuntimeError, match="'push left' and 'push right'"):
        told(embedded, "push left", "stop", "push right")


@pytest.mark.parametrize("reason", ["stop", "degenerate"])
def test_a_hint_that_ours_ended_early_is_counted_apart_and_a_few_are_allowed(embedded, reason):
    found = Agreement(num_equal=99)
    assert told(embedded, "", reason, "left left left left", found).num_ended_early == 1
    with pytest.raises(RuntimeError, match="3 of 102 hints ended early"):
        told(embedded, "", reason, "left left left left", found, times=2)


def test_a_full_hint_did_not_end_early(embedded):
    with pytest.raises(RuntimeError, match="hints differ"):
        told(embedded, "push", "length", "push left")


@torch.no_grad()
def test_the_gap_is_between_the_first_tokens_that_differ(embedded):
    encoder = TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)
    before, left, end = (encoder.encode(text) for text in (PROMPT + " push", " left", "\n"))
    logits = embedded.model(input_ids=torch.tensor([before])).logits[0, -1]
    assert same_hints._gap(embedded, PROMPT, "push left", "push") == pytest.approx(
        abs(float(logits[left[0]] - logits[end[0]])), abs=1e-5
    )


# What is asked, and what is made of the answers


def test_no_state_is_asked_about_twice_and_the_service_takes_the_questions():
    asked = questions(WORLDS[0], 3, seed=1)
    texts = [text for question in asked for text in question.texts]
    assert len(texts) == len(set(texts)) == 3 * STATES
    assert asked == questions(WORLDS[0], 3, seed=1)
    request = GuidanceRequest.model_validate_json(json.dumps(asked[0].body(temperature=0.7, seed=3)))
    assert (len(request.observations), request.mode, request.num_hints) == (STATES, "free", 1)


def test_a_world_without_enough_texts_is_refused(monkeypatch):
    monkeypatch.setattr(guidance_states, "collect", lambda *arguments, **fields: [])
    with pytest.raises(RuntimeError, match="fewer rounds"):
        questions(WORLDS[0], 1, seed=1)


def test_a_stream_repeats_and_is_the_same_again():
    stream = guidance_states.repeating_questions(4, seed=1)
    assert [len(question.texts) for question in stream] == [STATES] * 4
    assert stream == guidance_states.repeating_questions(4, seed=1)
    assert 0.02 < guidance._distinct_share(stream) < 0.9


def test_worlds_one_after_another_take_the_sum_of_their_times():
    rates = [dict.fromkeys(guidance.SERVICES, rate) for rate in (100.0, 50.0)]
    assert guidance._one_after_another(rates) == pytest.approx(dict.fromkeys(guidance.SERVICES, 2 / (1 / 100 + 1 / 50)))


def test_ratios_are_medians_over_rounds():
    rounds = [{"service": 10.0, "batched": 5.0, "per_state": each} for each in (1.0, 2.0, 10.0)]
    medians = guidance._medians(rounds)
    assert (medians["service_over_batched"], medians["service_over_per_state"]) == (2.0, 5.0)
    assert medians["per_state_states_per_s"] == 2.0


def test_hints_are_compared_with_the_question_that_they_answer(embedded):
    asked = [Question("Go.", ("a", "b")), Question("Go.", ("c", "d"))]
    bodies = [
        b'{"results": [{"hints": [{"text": "%b", "finish_reason": "stop"}]}, {"hints": [{"text": "%b", '
        b'"finish_reason": "stop"}]}]}' % texts
        for texts in ((b"go", b"push left"), (b"wait", b"up"))
    ]
    answers = {"service": guidance.Asked(1.0, bodies), "batched": guidance.Asked(1.0, bodies)}
    agreement = Agreement()
    guidance._compare(embedded, asked, answers | {"per_state": guidance.Asked(1.0, bodies[:1])}, agreement)
    assert agreement == Agreement(num_equal=6)
    with pytest.raises(RuntimeError, match="hints differ"):
        guidance._compare(embedded, asked, answers | {"per_state": guidance.Asked(1.0, bodies[1:])}, agreement)
