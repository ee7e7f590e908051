"""One poisoned request among 64 in flight: it fails by name, and everybody else is answered.

The poison is real: weights that are finite, so that a push takes them, but whose embeddings of the
positions from 32 on overflow. Every prompt of more than 32 tokens has scores that are not finite.
"""

import asyncio
import json
import random

import pytest
import pytest_asyncio
import torch
from safetensors.torch import save

from tests.contract.conftest import happens, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUM_REQUESTS, NUM_ROUNDS = 64, 100
POISONED_POSITION = 32
POISON = "pole 3 " * 20
ACTIONS = ["push left", "push right"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def poisoned(tmp_path_factory):
    async with serving(tmp_path_factory.mktemp("poison") / "weights") as service:
        tensors = await service.tensors()
        tensors["trunk.transformer.wpe.weight"][POISONED_POSITION:] = torch.finfo(torch.float32).max
        response = await service.put(save(tensors))
        assert response.status_code == 200, response.text
        yield service


def request(i):
    return {"observations": [f"cart {i % 41} speed {i * 7 % 41} pole 3 turn 4"], "actions": ACTIONS, "seed": [i]}


async def in_one_batch(service, bodies):
    """Sends all requests while the model is busy, so that they wait together, and returns their answers."""
    async with service.blocked_thread():
        asked = []
        for body in bodies:
            waiting = service.engine.act_queue.queued_tokens
            asked.append(asyncio.create_task(service.http.post("/act", json=body)))
            await happens(lambda waiting=waiting: service.engine.act_queue.queued_tokens > waiting)
    return await asyncio.gather(*asked)


@pytest.mark.slow
async def test_63_are_answered_right_and_one_fails_by_name(poisoned):
    bodies = [request(i) for i in range(NUM_REQUESTS)]
    right = [(await poisoned.ask("/act", body))["results"][0] for body in bodies]
    places = random.Random(0)
    for _ in range(NUM_ROUNDS):
        place = places.randrange(NUM_REQUESTS)
        sent = list(bodies)
        sent[place] = {**bodies[place], "observations": [POISON]}
        answers = await in_one_batch(poisoned, sent)
        for i, answer in enumerate(answers):
            if i == place:
                assert answer.status_code == 500
                assert [entry["field"] for entry in answer.json()["errors"]] == ["observations[0]"]
                assert "finite" in answer.json()["detail"]
            else:
                assert answer.status_code == 200, answer.text
                [result] = json.loads(answer.content)["results"]
                assert result["action"] == right[i]["action"]
                assert result["log_probs"] == pytest.approx(right[i]["log_probs"], abs=2e-5)
