"""The service and a trainer with the same weights agree (DESIGN section 4), whatever the batch.

The trainer here is `hintwise.policy.Policy` with weights fetched over `GET /weights/{v}`.
"""

import gymnasium
import numpy as np
import pytest
import pytest_asyncio
import torch
from safetensors.torch import load

from hintwise.action_batch import collate
from hintwise.describers import describer_for
from hintwise.language_model import load_language_model
from hintwise.policy import Policy
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUM_OBSERVATIONS = 1_000
REQUEST_SIZES = (1, 2, 64, 7, 300, 33, 593)
TRAINER_BATCH = 128
LEFT_RIGHT = ["push left", "push right"]
OTHER_LISTS = [["wait"], ["up", "down", "fire"], ["pick up the red key", "pick up the blue key", "toggle"], LEFT_RIGHT]
ALL_ACTIONS = list(dict.fromkeys(action for actions in OTHER_LISTS for action in actions))


class Trainer:
    """Scores texts with fetched weights, in batches of its own making."""

    def __init__(self, data, head_actions=None):
        language_model = load_language_model("embedded")
        self.policy = Policy(language_model, head_actions=head_actions)
        self.encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
        missing, unexpected = self.policy.load_state_dict(load(data), strict=False)
        assert (missing, unexpected) == (["trunk.lm_head.weight"], [])  # tied to the embeddings, so not sent twice

    @torch.no_grad()
    def __call__(self, texts, actions, task):
        outputs = []
        for start in range(0, len(texts), TRAINER_BATCH):
            prompts = [self.encoder.encode(action_prompt(text, task=task)) for text in texts[start:][:TRAINER_BATCH]]
            candidates = [self.policy.candidates(self.encoder, tuple(actions))] * len(prompts)
            outputs.append(self.policy(collate(prompts, candidates)))
        return torch.cat([o.log_probs for o in outputs]).tolist(), torch.cat([o.values for o in outputs]).tolist()


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[(0.0, 1.0), (1.0, 7.0), None], ids="alpha,beta={}".format
)
async def trained(service, head_service, request):
    """A service with weights whose heads are no longer zero: phrases under settings alpha and beta, or a head."""
    if request.param is None:
        await head_service.put_noise(0.05, value_scale=torch.tensor(3.0))
        return head_service
    alpha, beta = request.param
    settings = {"alpha": torch.tensor(alpha), "beta": torch.tensor(beta), "value_scale": torch.tensor(3.0)}
    await service.put_noise(0.05, **settings)
    return service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def head_service(tmp_path_factory, serving):
    async with serving(tmp_path_factory.mktemp("head"), readout="head", head_actions=ALL_ACTIONS) as running:
        yield running


async def beta_of(service):
    """The inverse temperature of the scores; a head has none."""
    return (await service.tensors()).get("beta", torch.tensor(1.0)).item()


def random_play(count):
    """Returns CartPole observations under uniform actions, ends of episodes included."""
    env = gymnasium.make("CartPole-v1")
    generator, observations = np.random.default_rng(0), []
    while len(observations) < count:
        observation, _ = env.reset(seed=len(observations))
        over = False
        while not over:
            observations.append(observation.tolist())
            observation, _, terminated, truncated, _ = env.step(int(generator.integers(2)))
            over = terminated or truncated
        observations.append(observation.tolist())
    env.close()
    return observations[:count]


async def test_act_and_the_trainer_agree_over_1000_observations(trained, close_to):
    observations, describer = random_play(NUM_OBSERVATIONS), describer_for("CartPole-v1")
    assert sum(REQUEST_SIZES) == NUM_OBSERVATIONS
    results, start = [], 0
    head_actions = (await trained.http.get("/info")).json()["head_actions"]
    for size in REQUEST_SIZES:
        part = observations[start : start + size]
        body = {"observations": part, "env_id": "CartPole-v1"} | ({"actions": LEFT_RIGHT} if head_actions else {})
        results += (await trained.ask("/act", body))["results"]
        start += size
    version = trained.engine.policy.policy_version
    trainer = Trainer((await trained.http.get(f"/weights/{version}")).content, head_actions)
    texts = [describer.describe(observation) for observation in observations]
    log_probs, values = trainer(texts, describer.actions, describer.task)
    beta = await beta_of(trained)
    for result, expected, value in zip(results, log_probs, values, strict=True):
        assert close_to(result["log_probs"], expected, beta)
        assert close_to([result["log_prob"]], [expected[result["action"]]], beta)
        assert result["value"] == pytest.approx(value, abs=1e-4, rel=1e-4)
    assert len({round(value, 3) for value in values}) > 10  # a constant would agree with anything
    stale, _ = Trainer((await trained.http.get("/weights/1")).content, head_actions)(
        texts, describer.actions, describer.task
    )
    agreeing = sum(close_to(old, new, beta) for old, new in zip(stale, log_probs, strict=True))
    assert agreeing < NUM_OBSERVATIONS / 2  # the tolerance tells these weights from others


def neighbours(count):
    """Returns texts of other lengths, each with one of several lists of actions."""
    return [("pole 3 " * (1 + 5 * n % 61), OTHER_LISTS[n % len(OTHER_LISTS)]) for n in range(count)]


@pytest.mark.parametrize("place", [0, 31, 63])
@pytest.mark.parametrize("actions", OTHER_LISTS[1:], ids=str)
async def test_an_observation_is_scored_alike_alone_and_among_63_others(trained, close_to, place, actions):
    item = ("cart 20 speed 21 pole 20 turn 19", actions)
    batch = neighbours(63)
    batch.insert(place, item)
    [alone] = await trained.act([item[0]], [item[1]], seed=[5])
    among = (await trained.act([text for text, _ in batch], [listed for _, listed in batch], seed=[5] * 64))[place]
    beta = await beta_of(trained)
    assert close_to(among["log_probs"], alone["log_probs"], beta)
    assert close_to([among["log_prob"]], [alone["log_prob"]], beta)
    assert among["value"] == pytest.approx(alone["value"], abs=1e-4)
    assert (among["action"], among["num_prompt_tokens"]) == (alone["action"], alone["num_prompt_tokens"])


@pytest.mark.parametrize("fields", [{}, {"temperature": 3.0}, {"mode": "epsilon", "epsilon": 0.5}], ids=str)
async def test_splitting_a_batch_in_halves_changes_nothing(trained, close_to, fields):
    batch, seeds = neighbours(64), list(range(900, 964))
    texts, lists = [text for text, _ in batch], [listed for _, listed in batch]
    whole = await trained.act(texts, lists, seed=seeds, **fields)
    first = await trained.act(texts[:32], lists[:32], seed=seeds[:32], **fields)
    second = await trained.act(texts[32:], lists[32:], seed=seeds[32:], **fields)
    beta = await beta_of(trained)
    for result, half in zip(whole, first + second, strict=True):
        assert (result["action"], result["label"]) == (half["action"], half["label"])
        assert close_to(result["log_probs"], half["log_probs"], beta)
