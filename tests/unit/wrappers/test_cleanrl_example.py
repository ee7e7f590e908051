"""The one-file example counts on what follows a time limit."""

import importlib.util
from pathlib import Path

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from hintwise.wrappers.vector import HintObservation

PATH = Path(__file__).parents[3] / "examples" / "cleanrl_style_ppo.py"


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location(PATH.stem, PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_time_limit_is_no_end(answering, example, monkeypatch):
    learned = []
    monkeypatch.setattr(example, "learn", lambda agent, optimizer, batch: learned.append(batch))
    together = SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1", max_episode_steps=3)] * example.NUM_ENVS,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    agent = example.Agent(6, 2)
    with torch.no_grad():
        agent.critic[-1].weight.zero_()
        agent.critic[-1].bias.fill_(10.0)  # a step of 1 with 10 after it is worth 10.9; with nothing after it, 1
    example.train(HintObservation(together, answering.client, form="action"), agent, num_steps=1, seed=1)
    ((*_, returns),) = learned
    assert returns.min() == pytest.approx(10.9, abs=1e-4)
