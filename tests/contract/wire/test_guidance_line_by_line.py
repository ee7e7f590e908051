"""`POST /guidance`, each line of its paragraph."""

import json

import numpy as np
import pytest

from hintwise.describers import describer_for, hints_of
from hintwise.errors import InferenceFailed, InvalidRequest
from hintwise.schemas import GuidanceToken

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "cart 20 speed 23 pole 15 turn 20"
CANDIDATES = ["push left", "push right", "20 20 20"]


async def refused(client, *arguments, **fields):
    """Returns the message of each field that a refusal names."""
    with pytest.raises(InvalidRequest) as raised:
        await client.guidance(*arguments, **fields)
    assert client.wire.response.status_code == 422
    return dict(raised.value.errors)


def hints_in(answer):
    return [hint for result in answer.results for hint in result.hints]


async def test_1_to_256_observations(client):
    """as above, 1..256 observations"""
    for count in (1, 256):
        assert len((await client.guidance(["x"] * count, max_new_tokens=1)).results) == count
    for count in (0, 257):
        assert set(await refused(client, ["x"] * count)) == {"observations"}


async def test_observations_task_and_actions_are_as_in_act(client):
    """ "observations", "task", "actions", "env_id": as above"""
    raw, described = [0.0, 0.3, -0.05, 0.0], describer_for("CartPole-v1")
    short = {"max_new_tokens": 4, "temperature": 0}
    answer = await client.guidance([raw], env_id="CartPole-v1", **short)
    words = await client.guidance([described.describe(raw)], described.actions, task=described.task, **short)
    assert answer == words
    listed = await client.guidance(["x", "x"], [["go"], ["stay", "go"]], task=["Stay.", None], **short)
    apart = [
        await client.guidance(["x"], ["go"], task="Stay.", **short),
        await client.guidance(["x"], ["stay", "go"], **short),
    ]
    assert [hint.text for hint in hints_in(listed)] == [hint.text for each in apart for hint in hints_in(each)]
    told = [hint.log_prob for each in apart for hint in hints_in(each)]
    assert [hint.log_prob for hint in hints_in(listed)] == pytest.approx(told, rel=1e-4)


async def test_ranked_chooses_among_candidates(client):
    """ranked: the model chooses among candidate hints"""
    answer = await client.guidance([TEXT], mode="ranked", candidates=CANDIDATES, num_hints=3, temperature=0)
    hints = hints_in(answer)
    assert {hint.text for hint in hints} == set(CANDIDATES)
    log_probs = np.array([hint.log_prob for hint in hints])
    assert log_probs.tolist() == sorted(log_probs, reverse=True)
    wanted = np.exp(log_probs - np.logaddexp.reduce(log_probs))
    assert [hint.probability for hint in hints] == pytest.approx(wanted, rel=1e-4)


async def test_the_describer_s_candidates_when_left_out(client):
    """(the describer's when left out)"""
    known = hints_of(describer_for("CartPole-v1"))
    count = min(8, len(known))
    answer = await client.guidance([[0.0] * 4], env_id="CartPole-v1", mode="ranked", num_hints=count)
    assert {hint.text for hint in hints_in(answer)} <= set(known)


async def test_the_defaults(service):
    """ "mode": "free", "num_hints": 1, "max_new_tokens": 32, "temperature": 0.7, "stream": false"""
    plain = {"observations": [TEXT], "seed": 7}
    told = {"mode": "free", "num_hints": 1, "max_new_tokens": 32, "temperature": 0.7, "stream": False}
    assert await service.ask("/guidance", plain) == await service.ask("/guidance", plain | told)


async def test_a_seed_repeats_the_hints(client):
    """ "seed": 7, as above: a scalar or one per observation, and splitting changes nothing"""
    texts = [TEXT, TEXT, "x"]
    wild = {"max_new_tokens": 8, "temperature": 5.0}
    whole = await client.guidance(texts, seed=[1, 2, 3], **wild)
    parts = [await client.guidance([text], seed=[n], **wild) for n, text in enumerate(texts, 1)]
    assert [hint.text for hint in hints_in(whole)] == [hint.text for part in parts for hint in hints_in(part)]
    scalar = [await client.guidance([TEXT] * 4, seed=7, **wild) for _ in range(2)]
    assert scalar[0] == scalar[1]
    assert len({hint.text for hint in hints_in(scalar[0])}) > 1


async def test_the_answer_has_these_fields(service, language):
    """{"model", "model_sha256", "results": [{"hints": [{"text", "log_prob", "probability", "finish_reason"}]}]}"""
    answer = await service.ask("/guidance", {"observations": ["x", TEXT], "num_hints": 2, "max_new_tokens": 3})
    assert set(answer) == {"model", "model_sha256", "results"}
    assert (answer["model"], answer["model_sha256"]) == ("embedded-language", language.sha256)
    assert [set(result) for result in answer["results"]] == [{"hints"}] * 2
    hints = [hint for result in answer["results"] for hint in result["hints"]]
    assert [set(hint) for hint in hints] == [{"text", "log_prob", "probability", "finish_reason"}] * 4
    assert {hint["probability"] for hint in hints} == {None}


async def test_finish_reason(service, client, language, monkeypatch):
    """ "finish_reason": "stop" | "length" | "degenerate" """
    [cut] = hints_in(await client.guidance([TEXT], max_new_tokens=1, temperature=0))
    assert cut.finish_reason == "length"
    assert hints_in(await client.guidance([TEXT], temperature=0))[0].finish_reason == "stop"
    monkeypatch.setattr(service.engine.hints, "_stop_ids", frozenset(range(len(language.tokenizer))))
    [empty] = hints_in(await client.guidance([TEXT], temperature=0))
    assert (empty.text, empty.finish_reason) == ("", "degenerate")


@pytest.mark.parametrize("temperature", [0.0, 0.01, 3.0])
async def test_log_prob_is_the_sum_at_temperature_1(client, temperature):
    """`log_prob` is the sum over the hint's tokens at temperature 1"""
    [hint] = hints_in(await client.guidance([TEXT], max_new_tokens=3, temperature=temperature, seed=5))
    [same] = hints_in(await client.guidance([TEXT], mode="ranked", candidates=[hint.text], temperature=temperature))
    if temperature < 1:  # a wild draw may spell a text in other tokens than it is split into
        assert hint.log_prob == pytest.approx(same.log_prob, rel=1e-4)
    [likeliest] = hints_in(await client.guidance([TEXT], max_new_tokens=3, temperature=0))
    assert (hint.log_prob == pytest.approx(likeliest.log_prob, rel=1e-4)) == (hint.text == likeliest.text)


# Streaming


async def test_a_stream_is_tokens_and_the_whole_body(client):
    """ "stream": true answers server-sent events: `token`, `done` (the whole body)"""
    asked = {"max_new_tokens": 8, "seed": 7, "num_hints": 2}
    whole = await client.guidance([TEXT, "x"], **asked)
    *tokens, last = [event async for event in client.stream_guidance([TEXT, "x"], **asked)]
    assert client.wire.response.headers["content-type"].partition(";")[0] == "text/event-stream"
    assert last == whole
    assert tokens
    joined = {}
    for token in tokens:
        assert isinstance(token, GuidanceToken)
        place = token.observation, token.hint
        joined[place] = joined.get(place, "") + token.text
    texts = {(i, k): hint.text for i, result in enumerate(whole.results) for k, hint in enumerate(result.hints)}
    assert joined == {place: text for place, text in texts.items() if text}


async def test_the_last_event_of_a_failure_is_an_error_with_a_problem(service, client, unwatched, monkeypatch):
    """`error` (a problem)"""
    monkeypatch.setattr(service.engine.hints, "_watch", unwatched)
    model, steps = service.engine.hints._model, []

    def failing(**inputs):
        steps.append(inputs)
        if len(steps) % 4 == 0:  # in its fourth step, alone or not
            raise RuntimeError("CUDA error")
        return model(**inputs)

    monkeypatch.setattr(service.engine.hints, "_model", failing)
    monkeypatch.setattr(service.engine.hints, "_stop_ids", frozenset())
    response = await service.http.post("/guidance", json={"observations": [TEXT], "stream": True, "seed": 1})
    *tokens, last = response.text.removesuffix("\n\n").split("\n\n")
    assert response.status_code == 200
    assert all(token.startswith("event: token\ndata: {") for token in tokens)
    assert tokens
    name, data = last.split("\n")
    assert name == "event: error"
    problem = json.loads(data.removeprefix("data: "))
    assert set(problem) == {"type", "title", "status", "detail", "errors"}
    assert problem["status"] == 500
    steps.clear()
    with pytest.raises(InferenceFailed, match="CUDA error"):
        assert not [event async for event in client.stream_guidance([TEXT], seed=1)]
