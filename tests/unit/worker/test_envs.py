import itertools

import gymnasium
import numpy as np
import pytest

from worker import text_env
from worker.envs import TextEnvs
from worker.errors import EnvironmentNotReplayable, EnvironmentUnsupported
from worker.seeds import NUM_TRAINING_SEEDS, action_seed, episode_seed, evaluation_action_seed
from worker.text_env import TextEnv

NEVER_AGAIN = itertools.count(1)


class Counter(gymnasium.Env):
    """Counts its steps from a number that the seed draws; action 1 terminates."""

    observation_space = gymnasium.spaces.Discrete(10_000)
    action_space = gymnasium.spaces.Discrete(2)
    replays = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = seed
        self.count = int(self.np_random.integers(100)) * 100
        return self.count, {}

    def step(self, action):
        self.count += 1 if self.replays else next(NEVER_AGAIN)
        return self.count, float(action), bool(action == 1), False, {}


class Unrepeatable(Counter):
    replays = False


class PlainDescriber:
    """Numbers as they are; only action 0 is legal where the count is divisible by three."""

    task = "Count."
    actions = ("wait", "stop")

    def describe(self, observation):
        return f"count {observation}"

    def legal_actions(self, observation):
        return [0] if observation % 3 == 0 else [0, 1]


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for name, env in (("TestCounter-v0", Counter), ("TestUnrepeatable-v0", Unrepeatable)):
        monkeypatch.setitem(
            gymnasium.registry, name, gymnasium.envs.registration.EnvSpec(name, entry_point=env, max_episode_steps=4)
        )
    original = text_env.describer_for
    monkeypatch.setattr(
        text_env, "describer_for", lambda env: PlainDescriber() if "Test" in env.spec.id else original(env)
    )


def counters(num_envs=3, run_seed=1):
    return TextEnvs("TestCounter-v0", num_envs=num_envs, run_seed=run_seed)


def test_states_are_words_and_legal_actions():
    env = TextEnv("TestCounter-v0")
    state = env.reset(7)
    number = int(state.text.removeprefix("count "))
    assert state.actions == (("wait",) if number % 3 == 0 else ("wait", "stop"))


def test_a_choice_indexes_the_legal_actions(monkeypatch):
    monkeypatch.setattr(PlainDescriber, "legal_actions", lambda self, observation: [1])
    env = TextEnv("TestCounter-v0")
    assert env.reset(7).actions == ("stop",)
    assert env.step(0).terminated


def test_a_time_limit_hands_out_the_final_state_and_resets_within_the_step():
    envs = counters(num_envs=2)
    first = [int(state.text.split()[1]) for state in envs.states]
    for _ in range(3):
        step = envs.step([0, 0])
        assert not step.truncated.any()
    step = envs.step([0, 0])
    assert step.truncated.all()
    assert not step.terminated.any()
    assert [step.final_states[i].text for i in range(2)] == [f"count {number + 4}" for number in first]
    assert [int(state.text.split()[1]) % 100 for state in envs.states] == [0, 0]
    assert [(end.env_index, end.episode_return, end.length) for end in step.finished] == [(0, 0.0, 4), (1, 0.0, 4)]


def test_a_terminal_state_has_no_final_state_to_value(monkeypatch):
    monkeypatch.setattr(PlainDescriber, "legal_actions", lambda self, observation: [0, 1])
    envs = counters(num_envs=2)
    step = envs.step([1, 0])
    assert step.terminated.tolist() == [True, False]
    assert step.final_states == {}
    assert step.rewards.tolist() == [1.0, 0.0]
    assert step.finished[0].episode_return == 1.0


def test_a_step_that_terminates_at_the_limit_is_terminal(monkeypatch):
    monkeypatch.setattr(PlainDescriber, "legal_actions", lambda self, observation: [0, 1])
    envs = counters(num_envs=1)
    for _ in range(3):
        envs.step([0])
    step = envs.step([1])
    assert step.terminated.all()
    assert step.truncated.all()
    assert step.final_states == {}


def test_every_episode_gets_the_seed_of_its_number():
    envs = counters(num_envs=2, run_seed=3)
    seen = []
    for _ in range(3):
        seen.append([env._env.unwrapped.seed for env in envs._envs])
        for _ in range(4):
            envs.step([0, 0])
    assert seen == [[episode_seed(3, n, e, num_envs=2) for n in range(2)] for e in range(3)]


@pytest.mark.parametrize("run_seed", [0, 1, 499_999])
def test_training_seeds_are_distinct_and_in_their_range(run_seed):
    seeds = {episode_seed(run_seed, n, e, num_envs=8) for n in range(8) for e in range(5_000)}
    assert len(seeds) == 40_000
    assert min(seeds) >= 0
    assert max(seeds) < NUM_TRAINING_SEEDS


def test_runs_see_different_episodes():
    one, two = ({episode_seed(run, 0, e, num_envs=1) for e in range(100)} for run in (1, 2))
    assert len(one & two) < 5


def test_action_seeds_differ_by_run_step_and_purpose():
    seeds = {action_seed(run, step) for run in range(5) for step in range(100)}
    seeds |= {evaluation_action_seed(episode, step) for episode in range(5) for step in range(100)}
    assert len(seeds) == 1_000
    assert max(seeds) < 2**53


@pytest.mark.parametrize("env_id", ["TestCounter-v0", "CartPole-v1", "FrozenLake-v1"])
def test_a_snapshot_continues_exactly(env_id):
    generator = np.random.default_rng(0)

    def play(envs, choices):
        outcomes = []
        for row in choices:
            step = envs.step([choice % len(state.actions) for choice, state in zip(row, envs.states, strict=True)])
            outcomes.append((envs.states, step.rewards.tolist(), step.truncated.tolist(), step.finished))
        return outcomes

    choices = generator.integers(12, size=(60, 4))
    original = TextEnvs(env_id, num_envs=4, run_seed=5)
    play(original, choices[:31])
    episodes, num_begun = original.snapshot()
    resumed = TextEnvs(env_id, num_envs=4, run_seed=5)
    resumed.restore([type(episode).model_validate_json(episode.model_dump_json()) for episode in episodes], num_begun)
    assert resumed.states == original.states
    assert play(resumed, choices[31:]) == play(original, choices[31:])


def test_an_environment_that_does_not_replay_is_refused_by_name():
    envs = TextEnvs("TestUnrepeatable-v0", num_envs=1, run_seed=1)
    envs.step([0])
    with pytest.raises(EnvironmentNotReplayable, match="TestUnrepeatable-v0 does not replay"):
        envs.restore(*envs.snapshot())


@pytest.mark.parametrize(
    ("env_id", "message"),
    [("CartPol-v1", "CartPole"), ("Pendulum-v1", "Pendulum-v1 has the action space Box.*only Discrete")],
)
def test_unusable_environments_are_named(env_id, message):
    with pytest.raises(EnvironmentUnsupported, match=message):
        TextEnv(env_id)


def test_observations_survive_json_exactly():
    observation = {"image": np.arange(4, dtype=np.uint8).reshape(2, 2), "pair": (np.float32(0.1), 3), "text": "go"}
    assert text_env.plain(observation) == {
        "image": [[0, 1], [2, 3]],
        "pair": [float(np.float32(0.1)), 3],
        "text": "go",
    }
