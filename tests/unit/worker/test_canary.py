"""Every push of a learner carries a canary that is true of the weights pushed."""

import json

import pytest
import torch
from safetensors import safe_open

from hintwise import canary
from hintwise.action_batch import collate
from hintwise.policy import Policy
from hintwise.weights import apply, read
from worker.config import TrainConfig
from worker.learner import NUM_CANARY_PROMPTS, Learner
from worker.served_policy import ServedPolicy


@pytest.fixture
def pushed(tmp_path, model_dir, service):
    """The file that a learner pushed after one update."""
    config = TrainConfig(
        env_id="CartPole-v1",
        total_steps=64,
        num_envs=2,
        num_steps=16,
        minibatch_size=16,
        update_epochs=2,
        model=str(model_dir),
        run_dir=tmp_path / "run",
    )
    learner = Learner(config, ServedPolicy(service))
    learner.begin()
    learner.run_update()
    learner.close()
    path = tmp_path / "pushed"
    path.write_bytes(service.served[2])
    return path


def test_a_push_carries_the_log_probs_of_its_own_weights(pushed, language_model, encoder):
    with safe_open(pushed, "pt") as file:
        metadata = file.metadata()
    sent = canary.parse(metadata["hintwise.canary"])
    assert len(sent.prompts) == NUM_CANARY_PROMPTS
    assert all(prompt.endswith("action:") for prompt in sent.prompts)
    assert metadata["hintwise.format"] == "full"
    policy = Policy(language_model)
    apply(policy, read(pushed))
    encoded = canary.encode(sent, policy, encoder)
    with torch.no_grad():
        found = policy(collate([each.prompt for each in encoded], [each.candidates for each in encoded])).log_probs
    canary.check(sent, found.tolist(), beta=policy.beta.item(), num_parameters=language_model.num_parameters)


def test_it_is_not_true_of_the_weights_before_the_update(pushed, make_service, encoder):
    with safe_open(pushed, "pt") as file:
        sent = canary.parse(file.metadata()["hintwise.canary"])
    policy = make_service().policy
    before = json.loads(canary.canary_of(policy, encoder, sent.prompts, sent.phrases))["log_probs"]
    with pytest.raises(canary.WeightsRejected):
        canary.check(sent, before, beta=1.0, num_parameters=1)
