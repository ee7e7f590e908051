"""`POST /guidance` with `"stream": true`, and how a long generation gives way to other work."""

import asyncio
import json
import threading

import pytest

from hintwise.schemas import GuidanceRequest, GuidanceToken, Problem
from service import event_stream
from service.guidance import guide
from service.guidance_stream import guide_or_stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "cart 20 speed 21 pole 20 turn 19"
LONG = {"observations": [TEXT], "max_new_tokens": 256, "temperature": 100, "seed": 1}
PATIENCE_S = 60


def events_of(body):
    """Returns name and data of every event; each is two lines and an empty one."""
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == ""
    lines = [block.split("\n") for block in blocks]
    assert all(len(each) == 2 for each in lines)
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in lines]


async def streamed(service, **body):
    """Returns the events of a stream that must begin well."""
    response = await service.http.post("/guidance", json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"]
    assert response.headers["x-policy-version"] == str(service.engine.policy.policy_version)
    assert "content-length" not in response.headers
    return events_of(response.content)


def joined(events, num_observations, num_hints):
    """Returns the text of every hint, from its token events."""
    texts = [[""] * num_hints for _ in range(num_observations)]
    for name, data in events:
        assert name == "token"
        GuidanceToken.model_validate(data)
        assert data["text"]
        texts[data["observation"]][data["hint"]] += data["text"]
    return texts


class Held:
    """The guidance model; step number `step` waits until `release`, and every step is noted."""

    def __init__(self, service, monkeypatch, unwatched, step=2):
        self.model, self.hold_at = service.engine.hints._model, step
        self.noted, self.reached, self.may_go_on = [], threading.Event(), threading.Event()
        monkeypatch.setattr(service.engine.hints, "_model", self)
        monkeypatch.setattr(service.engine.hints, "_stop_ids", frozenset())  # so that 256 tokens are 256 steps
        monkeypatch.setattr(service.engine.hints, "_watch", unwatched)

    def __call__(self, **inputs):
        self.noted.append("step")
        if len(self.noted) == self.hold_at:
            self.reached.set()
            assert self.may_go_on.wait(PATIENCE_S)
        return self.model(**inputs)

    async def until_reached(self):
        assert await asyncio.to_thread(self.reached.wait, PATIENCE_S)

    def release(self):
        self.may_go_on.set()


@pytest.fixture
def held(service, monkeypatch, unwatched):
    held = Held(service, monkeypatch, unwatched)
    yield held
    held.release()


# Giving way


@pytest.mark.parametrize("stream", [False, True])
async def test_act_is_answered_within_a_long_generation(service, held, happens, monkeypatch, stream):
    """The order of work on the model's thread tells: one step at most lies between asking and acting."""
    decide = service.engine.policy.decide
    monkeypatch.setattr(
        service.engine.act_queue, "_forward", lambda items: (held.noted.append("act"), decide(items))[1]
    )
    guiding = asyncio.create_task(service.http.post("/guidance", json={**LONG, "stream": stream}))
    await held.until_reached()
    acting = asyncio.create_task(service.act([TEXT], mode="greedy"))
    await happens(lambda: service.engine.act_queue.queued_tokens > 0)
    held.release()
    await acting
    assert (await guiding).status_code == 200
    assert held.noted.count("step") == 256
    assert held.noted.index("act") == held.hold_at


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_leaves_stops_the_generation(service, held, stream):
    loop = asyncio.get_running_loop()
    request = GuidanceRequest(**LONG, stream=stream)
    guiding = asyncio.create_task(
        (guide_or_stream if stream else guide)(service.engine, request, deadline=loop.time() + PATIENCE_S)
    )
    await held.until_reached()
    if stream:  # the first token is there, so what is left is to read
        answer = await guiding
        await answer._rest.aclose()
    else:
        guiding.cancel()
        await asyncio.gather(guiding, return_exceptions=True)
    held.release()
    for _ in range(4):  # each passes through the thread behind a step, if there still are any
        await service.engine.thread.run(lambda: None)
    assert len(held.noted) == held.hold_at


async def test_one_caller_who_leaves_does_not_stop_another_of_the_batch(service, happens):
    queue, loop = service.engine.guidance_queue, asyncio.get_running_loop()
    alone = await service.ask("/guidance", {**LONG, "max_new_tokens": 20})
    async with service.blocked_thread():
        tasks = []
        for request in (LONG, {**LONG, "max_new_tokens": 20}):
            before = queue.queued_tokens
            body = GuidanceRequest(**request)
            tasks.append(asyncio.create_task(guide(service.engine, body, deadline=loop.time() + PATIENCE_S)))
            await happens(lambda before=before: queue.queued_tokens > before)
    await happens(lambda: queue._underway is not None or tasks[1].done())
    tasks[0].cancel()
    [given], [wanted] = (answer["results"][0]["hints"] for answer in (await tasks[1], alone))
    assert given["text"] == wanted["text"]


async def test_a_deadline_stops_the_generation(service, held, happens):
    asked = asyncio.create_task(service.refused("/guidance", LONG, 504, headers={"X-Request-Timeout-Ms": "300"}))
    await held.until_reached()
    await asked
    held.release()
    for _ in range(4):
        await service.engine.thread.run(lambda: None)
    assert len(held.noted) == held.hold_at


@pytest.mark.parametrize("num_hints", [1, 2])
async def test_act_is_answered_within_256_hints(service, happens, monkeypatch, unwatched, num_hints):
    """Real forwards: whoever asks within a step is answered after one more at most."""
    held = Held(service, monkeypatch, unwatched, step=7)
    decide, queue = service.engine.policy.decide, service.engine.act_queue
    monkeypatch.setattr(queue, "_forward", lambda items: (held.noted.append("act"), decide(items))[1])
    body = {"observations": [f"pole {n % 40} cart {n // 40}" for n in range(256)], "max_new_tokens": 12, "seed": 1}
    guiding = asyncio.create_task(service.ask("/guidance", {**body, "num_hints": num_hints}))
    await held.until_reached()
    acting = asyncio.create_task(service.act([TEXT], mode="greedy"))
    await happens(lambda: queue.queued_tokens > 0)
    held.release()
    await acting
    assert len((await guiding)["results"]) == 256
    steps = held.noted.count("step")
    assert steps > held.hold_at + 2  # hints were still being written
    assert held.noted.index("act") <= held.hold_at + 1


# Streams


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 100}, {"num_hints": 3}, {"temperature": 0, "max_new_tokens": 1}]
)
async def test_tokens_together_are_the_answer_and_the_answer_is_as_without_a_stream(service, fields):
    body = {"observations": [TEXT, "pole 3", [0.0, 0.1, 0.2, 0.3]], "env_id": "CartPole-v1", "seed": 5, **fields}
    *tokens, (last, answer) = await streamed(service, **body)
    assert last == "done"
    plain = await service.ask("/guidance", body)
    texts = [[hint["text"] for hint in result["hints"]] for result in answer["results"]]
    assert joined(tokens, 3, body.get("num_hints", 1)) == texts
    assert texts == [[hint["text"] for hint in result["hints"]] for result in plain["results"]]
    assert answer["model_sha256"] == plain["model_sha256"]
    if fields.get("temperature") == 100:  # long enough to be told in parts
        assert len(tokens) > len(texts)  # they came one by one


async def test_a_hint_of_some_words_is_told_in_parts(service):
    """A part is held back for as long as a later word may take it away, and no longer."""
    view = "carry nothing wall ahead 2 left 1 right 1 yellow key ahead 1 locked yellow door left 1"
    *tokens, (last, answer) = await streamed(service, observations=[view], task="use the key", temperature=0)
    [[text]] = joined(tokens, 1, 1)
    assert (last, answer["results"][0]["hints"][0]["text"]) == ("done", text)
    assert len(tokens) > 1


async def test_ranked_mode_has_no_tokens(service):
    [(name, answer)] = await streamed(service, observations=[TEXT], mode="ranked", candidates=["a", "b"], seed=1)
    assert name == "done"
    assert answer["results"][0]["hints"][0]["text"] in ("a", "b")


@pytest.mark.parametrize(
    ("body", "status"), [({"num_hints": 9}, 422), ({"candidates": ["a"]}, 422), ({"env_id": "Pong"}, 422)]
)
async def test_what_fails_before_the_first_event_is_an_ordinary_problem(service, body, status):
    await service.refused("/guidance", {"observations": [TEXT], "stream": True, **body}, status)


async def test_a_stopping_service_is_an_ordinary_problem_too(fresh):
    fresh.engine.guidance_queue.stop()
    await fresh.refused("/guidance", {"observations": [TEXT], "stream": True}, 503)


async def test_a_deadline_before_the_first_event_is_an_ordinary_problem(service):
    async with service.blocked_thread():
        headers = {"X-Request-Timeout-Ms": "50"}
        await service.refused("/guidance", {"observations": [TEXT], "stream": True}, 504, headers=headers)


def failed(events):
    """Returns the problem that ends a stream which had begun."""
    *tokens, (name, data) = events
    assert tokens
    assert {each for each, _ in tokens} == {"token"}
    assert name == "error"
    return Problem.model_validate(data)


async def counted(service, status):
    """Returns how many answers of /guidance the metrics count under a status."""
    series = f'hintwise_requests_total{{endpoint="/guidance",status="{status}"}} '
    lines = (await service.http.get("/metrics")).text.splitlines()
    return next((float(line.removeprefix(series)) for line in lines if line.startswith(series)), 0.0)


async def test_a_deadline_within_the_stream_is_an_error_event(service, monkeypatch, unwatched):
    held = Held(service, monkeypatch, unwatched, step=3)
    before = await counted(service, 504)
    headers = {"X-Request-Timeout-Ms": "2000"}
    response = await service.http.post("/guidance", json={**LONG, "stream": True}, headers=headers)
    held.release()
    told = failed(events_of(response.content))
    assert (told.status, told.title) == (504, "Deadline exceeded")
    assert await counted(service, 504) == before + 1


async def test_a_model_that_fails_within_the_stream_is_an_error_event(service, monkeypatch, unwatched):
    held = Held(service, monkeypatch, unwatched, step=3)

    def failing(**inputs):
        if inputs["past_key_values"] is not None and inputs["attention_mask"].shape[1] > 60:
            raise RuntimeError("out of memory")
        return held.model(**inputs)

    monkeypatch.setattr(service.engine.hints, "_model", failing)
    before = await counted(service, 500)
    told = failed(await streamed(service, **LONG))
    assert (told.status, told.title) == (500, "Inference failed")
    assert [entry.field for entry in told.errors] == ["observations[0]"]
    assert await counted(service, 500) == before + 1


async def test_a_failing_neighbour_repeats_no_token_of_a_stream(service, happens, monkeypatch):
    """The batch is begun again for each of its requests; what was sent is not sent twice."""
    model, queue = service.engine.hints._model, service.engine.guidance_queue
    failures = []

    def failing(**inputs):
        if len(inputs["attention_mask"]) > 1 and inputs["attention_mask"].shape[1] > 50:
            failures.append(1)
            raise RuntimeError("out of memory")
        return model(**inputs)

    body = {"observations": [TEXT], "seed": 2, "max_new_tokens": 40, "temperature": 100}
    plain = await service.ask("/guidance", body)
    monkeypatch.setattr(service.engine.hints, "_model", failing)
    async with service.blocked_thread():
        reading = asyncio.create_task(streamed(service, **body))
        await happens(lambda: queue.queued_tokens > 0)
        before = queue.queued_tokens
        neighbour = asyncio.create_task(service.ask("/guidance", {**body, "seed": 3}))
        await happens(lambda: queue.queued_tokens > before)
    *tokens, (last, answer) = await reading
    assert (len(failures), last) == (1, "done")
    assert joined(tokens, 1, 1) == [[answer["results"][0]["hints"][0]["text"]]]
    assert answer["results"][0]["hints"][0]["text"] == plain["results"][0]["hints"][0]["text"]
    await neighbour


async def test_scores_that_are_not_finite_are_a_failure(service, monkeypatch):
    model = service.engine.hints._model

    def broken(**inputs):
        output = model(**inputs)
        output.logits = output.logits * float("nan")
        return output

    monkeypatch.setattr(service.engine.hints, "_model", broken)
    refusal = await service.refused("/guidance", {"observations": [TEXT]}, 500)
    assert "not finite" in refusal.text
    assert set(refusal.fields) == {"observations[0]"}


async def test_an_unforeseen_failure_within_a_stream_tells_nothing_of_itself():
    async def events():
        yield [event_stream.Event("token", b"{}")]
        raise ValueError("SECRET")

    sent = await sent_by(events(), seconds=PATIENCE_S)
    told = failed(events_of(b"".join(message["body"] for message in sent[1:])))
    assert told.status == 500
    assert "SECRET" not in repr(sent)
    assert sent[-1]["more_body"] is False


async def test_a_reader_who_takes_nothing_is_not_waited_for(monkeypatch):
    """The deadline ends the stream, and its last words have a limit of their own."""
    monkeypatch.setattr(event_stream, "LAST_WORDS_S", 0.01)
    scope, closed = {"type": "http", "path": "/guidance"}, []

    async def events():
        try:
            yield [event_stream.Event("token", b"{}")]
        finally:
            closed.append(True)

    async def stuck(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE_S):
        await sent_by(events(), seconds=0.05, send=stuck, scope=scope)
    assert scope["hintwise.counted_status"] == 499
    assert closed == [True]


async def sent_by(events, *, seconds, send=None, scope=None):
    """Returns the messages of a stream whose reader stays."""
    sent = []

    async def keep(message):
        sent.append(message)

    async def receive():
        await asyncio.Event().wait()

    first = await anext(events)
    deadline = asyncio.get_running_loop().time() + seconds
    stream = event_stream.EventStream(first, events, deadline=deadline)
    await stream(scope or {"type": "http", "path": "/guidance"}, receive, send or keep)
    return sent


async def test_a_hint_that_was_kept_is_neither_written_again_nor_told_otherwise(start, monkeypatch):
    body = {"observations": [TEXT], "max_new_tokens": 6, "temperature": 5.0, "seed": 3}
    async with start(max_cached_hints=10) as kept:
        whole = await kept.ask("/guidance", body)
        monkeypatch.setattr(kept.engine.hints, "_model", None)  # whoever reads with it now fails
        assert await kept.ask("/guidance", body) == whole
        *tokens, done = await streamed(kept, **body)
        assert done == ("done", whole)
        assert joined(tokens, 1, 1) == [[whole["results"][0]["hints"][0]["text"]]]
        metrics = (await kept.http.get("/metrics")).text.splitlines()
        monkeypatch.undo()
        other = await kept.ask("/guidance", {**body, "seed": 4})
    assert {'hintwise_hints_total{source="hit"} 2.0', 'hintwise_hints_total{source="miss"} 1.0'} <= {*metrics}
    assert other != whole
