"""`hintwise.canary`: weights that the service scores otherwise than their trainer never serve."""

import json

import pytest
import pytest_asyncio
import structlog
import torch
from safetensors.torch import load, save

from hintwise.canary import MAX_PADDED_TOKENS, MAX_PROMPTS, canary_of
from hintwise.language_model import load_language_model
from hintwise.policy import Policy
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder
from hintwise.weights import apply
from service.policy_runner import PolicyRunner

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = [f"cart {n} speed {n + 7} pole 20 turn {40 - n}" for n in range(6)]
PROMPTS = [action_prompt(text, task="Keep the pole upright.") for text in TEXTS]
LISTS = [("push left", "push right"), ("wait",), ("up", "down", "fire")] * 2


class Trainer:
    """Has the weights that serve, changed a little, and makes their canary."""

    def __init__(self, state, **settings):
        language_model = load_language_model("embedded")
        self.policy = Policy(language_model)
        self.encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
        apply(self.policy, state | settings)
        self.state = state | settings

    def canary(self, **changes):
        return {**json.loads(canary_of(self.policy, self.encoder, PROMPTS, LISTS)), **changes}

    def data(self, canary):
        text = canary if isinstance(canary, str) else json.dumps(canary)
        return save(self.state, metadata={"hintwise.canary": text})


@pytest_asyncio.fixture(loop_scope="module")
async def trainer(fresh, noisy):
    return Trainer(noisy(await fresh.tensors(), 0.05, 3))


@pytest_asyncio.fixture(loop_scope="module")
async def refused(fresh):
    """Pushes what must be refused; gives the offending fields, and checks that nothing changed."""

    async def push(data):
        info, files = (await fresh.http.get("/weights")).json(), sorted(fresh.engine.settings.weights_dir.iterdir())
        answers = [result["scores"] for result in await fresh.act(TEXTS, mode="greedy")]
        response = await fresh.put(data)
        assert (response.status_code, response.json()["title"]) == (422, "Weights rejected"), response.text
        assert (await fresh.http.get("/weights")).json() == info
        assert sorted(fresh.engine.settings.weights_dir.iterdir()) == files
        assert [result["scores"] for result in await fresh.act(TEXTS, mode="greedy")] == answers
        return {entry["field"]: entry["message"] for entry in response.json()["errors"]}

    return push


async def test_weights_that_score_as_their_trainer_says_serve(fresh, trainer):
    response = await fresh.put(trainer.data(trainer.canary()))
    assert response.status_code == 200, response.text
    served = load((await fresh.http.get("/weights/2")).content)
    assert all(torch.equal(tensor, trainer.state[name]) for name, tensor in served.items())


async def test_one_list_of_actions_serves_all_prompts(fresh, trainer):
    canary = json.loads(canary_of(trainer.policy, trainer.encoder, PROMPTS, [LISTS[0]] * len(PROMPTS)))
    response = await fresh.put(trainer.data({**canary, "actions": list(LISTS[0])}))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("beta", [1.0, 20.0])
async def test_the_tolerance_follows_beta_and_the_log_prob(fresh, noisy, refused, beta):
    trainer = Trainer(noisy(await fresh.tensors(), 0.05, 3), beta=torch.tensor(beta))
    canary = trainer.canary()
    exact = canary["log_probs"][2][1]
    allowed = 1e-5 * beta * (1 + abs(exact))
    canary["log_probs"][2][1] = exact + 1.5 * allowed
    assert set(await refused(trainer.data(canary))) == {"hintwise.canary.log_probs[2][1]"}
    canary["log_probs"][2][1] = exact + 0.7 * allowed
    assert (await fresh.put(trainer.data(canary))).status_code == 200


async def test_a_mismatch_names_prompt_and_action_with_both_numbers(trainer, refused):
    canary = trainer.canary()
    canary["log_probs"][2][1] = -123.5
    [(field, message)] = (await refused(trainer.data(canary))).items()
    assert field == "hintwise.canary.log_probs[2][1]"
    assert "'down'" in message
    assert TEXTS[2] in message
    assert "-123.5" in message


async def test_the_canary_of_other_weights_is_refused(fresh, trainer, refused, noisy):
    stale = Trainer(await fresh.tensors()).canary()
    assert len(await refused(trainer.data(stale))) == 8  # the first few tell enough


async def test_a_refused_canary_leaves_no_prompt_in_the_log(trainer, refused):
    with structlog.testing.capture_logs() as logged:
        await refused(trainer.data(trainer.canary(log_probs=[[-1.0] * len(listed) for listed in LISTS])))
    [entry] = [entry for entry in logged if entry["event"] == "weights refused"]
    assert "hintwise.canary.log_probs[0][0]" in entry["fields"]
    assert TEXTS[0] not in str(logged)


async def test_a_service_with_wrong_numerics_refuses_what_a_right_one_takes(fresh, trainer, monkeypatch, refused):
    """Log-probs off by 1e-4, as of another kernel or a lower precision."""
    data, forward = trainer.data(trainer.canary()), PolicyRunner._forward

    def wrong(self, prompts):
        return [each._replace(log_probs=[x - 1e-4 for x in each.log_probs]) for each in forward(self, prompts)]

    with monkeypatch.context() as patched:
        patched.setattr(PolicyRunner, "_forward", wrong)
        assert await refused(data)
    assert (await fresh.put(data)).status_code == 200


async def test_weights_whose_scores_are_not_finite_are_refused(fresh, refused):
    """Finite themselves, they overflow in the forward pass."""
    state = await fresh.tensors()
    data = Trainer(state).data(Trainer(state).canary())
    huge = {**load(data), "value_head.weight": torch.full_like(state["value_head.weight"], 3e38)}
    metadata = {"hintwise.canary": json.dumps(Trainer(state).canary())}
    fields = await refused(save(huge, metadata=metadata))
    assert "not finite" in fields["hintwise.canary"]


async def test_a_rollback_is_checked_by_the_canary_in_the_file(fresh, trainer, monkeypatch):
    assert (await fresh.put(trainer.data(trainer.canary()))).status_code == 200
    await fresh.put_noise(seed=9)
    forward = PolicyRunner._forward

    def wrong(self, prompts):
        return [each._replace(log_probs=[x - 1e-4 for x in each.log_probs]) for each in forward(self, prompts)]

    with monkeypatch.context() as patched:
        patched.setattr(PolicyRunner, "_forward", wrong)
        await fresh.refused("/weights/rollback", {"policy_version": 2})
    assert (await fresh.http.get("/weights")).json()["policy_version"] == 3
    assert (await fresh.http.post("/weights/rollback", json={"policy_version": 2})).status_code == 200


async def test_a_failure_of_the_forward_itself_changes_nothing(fresh, trainer, monkeypatch):
    before = [result["scores"] for result in await fresh.act(TEXTS, mode="greedy")]

    def broken(self, items):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(PolicyRunner, "score", broken)
        assert (await fresh.put(trainer.data(trainer.canary()))).status_code == 500
    assert [result["scores"] for result in await fresh.act(TEXTS, mode="greedy")] == before
    assert (await fresh.http.get("/weights")).json()["policy_version"] == 1
    assert (await fresh.put(trainer.data(trainer.canary()))).status_code == 200


GOOD = {"prompts": ["state: x\naction:"], "actions": ["go", "wait"], "log_probs": [[-1.0, -2.0]]}
ROOT = "hintwise.canary"
MALFORMED = {
    "no JSON": ("{", ROOT),
    "empty": ("", ROOT),
    "a list": ([], ROOT),
    "nested deeply": ("[" * 100_000, ROOT),
    "no prompts": ({**GOOD, "prompts": [], "log_probs": []}, f"{ROOT}.prompts"),
    "prompts missing": ({"actions": ["go"], "log_probs": []}, f"{ROOT}.prompts"),
    "a prompt that is no text": ({**GOOD, "prompts": [7]}, f"{ROOT}.prompts[0]"),
    "an unknown field": ({**GOOD, "values": [1.0]}, f"{ROOT}.values"),
    "repeated actions": ({**GOOD, "actions": ["go", "go"]}, f"{ROOT}.actions"),
    "no actions": ({**GOOD, "actions": []}, f"{ROOT}.actions"),
    "lists of actions too few": ({**GOOD, "prompts": ["a", "b"], "actions": [["go", "wait"]]}, ROOT),
    "log_probs too few": ({**GOOD, "log_probs": []}, ROOT),
    "log_probs of too few actions": ({**GOOD, "log_probs": [[-1.0]]}, ROOT),
    "a log_prob that is a text": ({**GOOD, "log_probs": [["-1.0", -2.0]]}, f"{ROOT}.log_probs[0][0]"),
    "NaN": ({**GOOD, "log_probs": [[-1.0, float("nan")]]}, f"{ROOT}.log_probs[0][1]"),
    "infinity": ({**GOOD, "log_probs": [[-1.0, -float("inf")]]}, f"{ROOT}.log_probs[0][1]"),
    "too many prompts": (
        {**GOOD, "prompts": ["x"] * (MAX_PROMPTS + 1), "log_probs": [[-1.0, -2.0]] * (MAX_PROMPTS + 1)},
        f"{ROOT}.prompts",
    ),
    "a prompt too long": (
        {**GOOD, "prompts": ["x", "1 2 " * 5_000], "log_probs": [[-1.0, -2.0]] * 2},
        f"{ROOT}.prompts[1]",
    ),
    "a prompt of megabytes": ({**GOOD, "prompts": ["x" * 1_000_000]}, f"{ROOT}.prompts[0]"),
    "too many tokens": (
        {**GOOD, "prompts": ["cart 1 " * 150] * 40, "log_probs": [[-1.0, -2.0]] * 40},
        f"{ROOT}.prompts",
    ),
}


@pytest.mark.parametrize("fault", MALFORMED)
async def test_a_canary_that_cannot_be_used_names_what_is_wrong(trainer, refused, fault):
    canary, field = MALFORMED[fault]
    fields = await refused(trainer.data(canary))
    assert set(fields) == {field}
    if fault == "too many tokens":
        assert str(MAX_PADDED_TOKENS) in fields[field]
