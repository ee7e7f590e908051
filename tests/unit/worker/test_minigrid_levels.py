"""MiniGrid's own levels against what is known of them without it; skipped where it is not installed."""

import gymnasium
import numpy as np
import pytest

from hintwise.describers import describer_for
from hintwise.describers.minigrid import MiniGrid, level_ids
from worker import minigrid_levels
from worker.__main__ import main
from worker.teachers import teacher_for
from worker.teachers.check import play
from worker.text_env import TextEnv

pytest.importorskip("minigrid")
LEVELS = ["MiniGrid-DoorKey-8x8-v0", "MiniGrid-Dynamic-Obstacles-5x5-v0", "BabyAI-GoToLocal-v0", "BabyAI-BossLevel-v0"]
MAX_DOOR_KEY_WORDS = 48


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of levels that have a newer version
def test_the_known_levels_are_those_that_minigrid_registers():
    registered = minigrid_levels.registered_levels()
    assert registered.keys() == set(level_ids())
    told = {env_id: MiniGrid(env_id).task for env_id in level_ids()}
    assert all(told[env_id] == mission for env_id, mission in registered.items() if mission)


def test_a_level_whose_package_is_missing_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(gymnasium, "registry", {})
    monkeypatch.setitem(__import__("sys").modules, "minigrid", None)
    with pytest.raises(ImportError, match=r"pip install 'hintwise\[minigrid\]'"):
        minigrid_levels.register_levels("MiniGrid-Empty-5x5-v0")


@pytest.mark.parametrize("env_id", LEVELS)
def test_an_episode_of_a_level_is_described_and_replays(env_id):
    env, generator = TextEnv(env_id), np.random.default_rng(1)
    env.reset(3)
    for _ in range(20):
        step = env.step(int(generator.integers(len(env.state.actions))))
        assert step.state.text
        assert len(env.state.actions) == len(describer_for(env_id).actions)
        if step.terminated:
            break
    again = TextEnv(env_id)
    again.restore(env.snapshot())
    assert again.state == env.state


def test_a_door_key_view_is_short():
    env, generator = TextEnv("MiniGrid-DoorKey-8x8-v0"), np.random.default_rng(1)
    lengths = []
    for seed in range(20):
        env.reset(seed)
        for _ in range(20):
            lengths.append(len(env.state.text.split()))
            if env.step(int(generator.integers(6))).terminated:
                break
    assert max(lengths) <= MAX_DOOR_KEY_WORDS


def test_only_steps_are_printed_to_stdout(capsys):
    assert main(["describe", "--env-id", "BabyAI-PickupLoc-v0", "--steps", "2"]) == 0
    assert capsys.readouterr().out.startswith("step 0: ")


@pytest.mark.parametrize(
    ("env_id", "least"),
    [
        ("MiniGrid-DoorKey-8x8-v0", 10),
        ("MiniGrid-Empty-8x8-v0", 10),
        ("MiniGrid-Unlock-v0", 10),
        ("MiniGrid-KeyCorridorS3R1-v0", 10),
        ("MiniGrid-MultiRoom-N2-S4-v0", 10),
        ("BabyAI-GoToLocal-v0", 8),
    ],
)
def test_a_teacher_that_is_obeyed_succeeds(env_id, least):
    assert play(env_id, num_episodes=10, seed=900_000).successes >= least


@pytest.mark.parametrize("env_id", ["MiniGrid-DoorKey-8x8-v0", "MiniGrid-FourRooms-v0", "BabyAI-GoToLocal-v0"])
def test_a_teacher_knows_nothing_but_the_text(env_id):
    """Views that read the same are taught the same, whatever else differs in them."""
    teacher, describer, env = teacher_for(env_id), describer_for(env_id), gymnasium.make(env_id)
    generator, taught = np.random.default_rng(1), {}
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        for _ in range(40):
            answer = (teacher.actions(observation), teacher.hint(observation))
            assert taught.setdefault(describer.describe(observation), answer) == answer
            observation, _, terminated, _, _ = env.step(int(generator.integers(6)))
            if terminated:
                break
