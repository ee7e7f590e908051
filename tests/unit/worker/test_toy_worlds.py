"""Training in worlds whose legal actions vary, environments made with arguments, and `describe`."""

import json
import re
from contextlib import closing
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.envs.toy_text.taxi import TaxiEnv

from hintwise.model_names import EMBEDDED_DIR
from hintwise.tokens import TextEncoder
from worker import text_env
from worker.__main__ import main
from worker.algorithms.ppo import PPO
from worker.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint
from worker.command_line import read_config
from worker.config import DescribeConfig, EvaluateConfig, TrainConfig
from worker.describe import shown_steps
from worker.env_processes import EnvProcesses
from worker.envs import TextEnvs
from worker.errors import CheckpointUnusable, EnvironmentUnsupported, UsageError
from worker.evaluate import evaluate, play_episodes
from worker.learner import Learner
from worker.run_record import read_run
from worker.selection import choose_checkpoint
from worker.served_policy import ServedPolicy
from worker.text_env import TextEnv
from worker.train import train

DRY = {"is_slippery": False}
EIGHT = {"is_slippery": False, "map_name": "8x8"}
POND = {"desc": ["SFF", "FFG"], "is_slippery": False, "max_episode_steps": 6}
SHAPED = {"reward_schedule": [1.0, -1.0, -0.1]}
"""Rewards at every step, so that there is something to learn from at once."""
WORLDS = [
    ("FrozenLake-v1", {}),
    ("FrozenLake-v1", EIGHT),
    ("FrozenLake-v1", {"desc": ["SFH", "FFG"], "success_rate": 0.8}),
    ("Taxi-v4", {"is_rainy": True, "fickle_passenger": True, "fickle_probability": 1.0}),
    ("CliffWalkingSlippery-v1", {"max_episode_steps": 20}),
]


@pytest.fixture(scope="session")
def model_dir():
    """The embedded model: these worlds are described in its words."""
    return EMBEDDED_DIR


@pytest.fixture
def configured(tmp_path, model_dir):
    def configure(env_id, env_kwargs=None, **more):
        settings = {"total_steps": 192, "num_envs": 4, "num_steps": 16, "minibatch_size": 32, "update_epochs": 2}
        settings["env_workers"] = 0  # `auto` makes one environment more, and steps it
        settings |= {"env_id": env_id, "env_kwargs": env_kwargs or {}, "model": str(model_dir)}
        return TrainConfig(**{**settings, "run_dir": tmp_path / "run", **more})

    return configure


def numbers(report):
    """The report without what the clock decides, as a text: NaN equals nothing, not even itself."""
    return repr({name: value for name, value in report.record().items() if not name.endswith("_s")})


# --- legal actions that vary


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "env", "mask_of"),
    [
        ("Taxi-v4", {}, TaxiEnv, lambda env: env.action_mask(env.s)),
        ("FrozenLake-v1", SHAPED, FrozenLakeEnv, lambda env: np.ones(4)),
    ],
    ids=["Taxi", "FrozenLake"],
)
def test_ppo_takes_legal_actions_alone(configured, service, monkeypatch, env_id, env_kwargs, env, mask_of):
    legal, rollouts, step, update = [], [], env.step, PPO.update

    def watched_step(self, action):
        legal.append(bool(mask_of(self)[action]))
        return step(self, action)

    def watched_update(self, rollout, **settings):
        rollouts.append(rollout)
        return update(self, rollout, **settings)

    monkeypatch.setattr(env, "step", watched_step)
    monkeypatch.setattr(PPO, "update", watched_update)
    learner = Learner(configured(env_id, env_kwargs), ServedPolicy(service))
    learner.begin()
    reports = [learner.run_update() for _ in range(3)]
    assert legal == [True] * 192
    for report in reports:
        assert report.metrics.first_ratio_error < 1e-4
        assert np.isfinite([report.metrics.policy_loss, report.metrics.entropy]).all()
        assert report.metrics.grad_norm > 0
    sizes = {len(phrases) for phrases in rollouts[0].action_phrases}
    assert (len(sizes) > 1) == (env_id == "Taxi-v4")
    chosen = zip(rollouts[0].actions.ravel(), rollouts[0].action_phrases, strict=True)
    assert all(0 <= action < len(phrases) for action, phrases in chosen)


def test_the_index_of_an_answer_is_the_environments_own_action():
    env = TextEnv("Taxi-v4")
    for seed in range(20):
        state = env.reset(seed)
        for choice, phrase in enumerate(state.actions):
            env.reset(seed)
            env.step(choice)
            action = env.snapshot().actions[-1]
            assert env._describer.actions[action] == phrase


# --- arguments of an environment


@pytest.mark.parametrize("memory", [0, 5])
@pytest.mark.parametrize(("env_id", "env_kwargs"), WORLDS, ids=str)
def test_a_snapshot_continues_exactly(env_id, env_kwargs, memory):
    def play(envs, choices):
        seen = []
        for row in choices:
            taken = [choice % len(state.actions) for choice, state in zip(row, envs.states, strict=True)]
            step = envs.step(taken)
            seen.append((envs.states, step.rewards.tolist(), step.truncated.tolist(), step.finished))
        return seen

    def made():
        return TextEnvs(env_id, num_envs=4, run_seed=5, env_kwargs=env_kwargs, memory=memory)

    choices = np.random.default_rng(0).integers(12, size=(60, 4))
    original, resumed = made(), made()
    play(original, choices[:33])
    episodes, num_begun = original.snapshot()
    resumed.restore([type(episode).model_validate_json(episode.model_dump_json()) for episode in episodes], num_begun)
    assert resumed.states == original.states
    assert play(resumed, choices[33:]) == play(original, choices[33:])


@pytest.mark.parametrize("env_kwargs", [SHAPED, SHAPED | DRY, SHAPED | EIGHT], ids=str)
def test_a_resumed_run_has_the_same_numbers(configured, service, make_service, env_kwargs):
    config = configured("FrozenLake-v1", env_kwargs)
    learner = Learner(config, ServedPolicy(service))
    learner.begin()
    whole = [numbers(learner.run_update()) for _ in range(3)]

    first = Learner(config, ServedPolicy(make_service()))
    first.begin()
    again = [numbers(first.run_update())]
    second = Learner(config, ServedPolicy(first.served.client))
    second.restore(load_checkpoint(save_checkpoint(config.directory, first.checkpoint())))
    again += [numbers(second.run_update()) for _ in range(2)]
    assert again == whole


@pytest.mark.parametrize("changed", [{}, {"is_slippery": True}, EIGHT], ids=str)
def test_other_arguments_are_refused_when_resuming(configured, service, changed):
    learner = Learner(configured("FrozenLake-v1", DRY), ServedPolicy(service))
    learner.begin()
    other = Learner(configured("FrozenLake-v1", changed), ServedPolicy(service))
    with pytest.raises(CheckpointUnusable, match=r"env_kwargs \(was {'is_slippery': False}, now {"):
        other.restore(learner.checkpoint())


def test_the_arguments_reach_every_environment_of_a_run(configured, connect, monkeypatch, capsys):
    made, make = [], gymnasium.make
    monkeypatch.setattr(gymnasium, "make", lambda env_id, **more: (made.append(more), make(env_id, **more))[1])
    config = configured("FrozenLake-v1", POND)
    train(config, connect=connect)
    assert len(made) == 4 + 2 * 50 + 64  # training, validation of the first and last checkpoint, evaluation
    run = read_run(config.directory)
    assert run["config"]["env_kwargs"] == run["evaluation"]["env_kwargs"] == POND
    state = json.loads((last_checkpoint(config.directory) / "state.json").read_text())
    assert state["config"]["env_kwargs"] == POND
    capsys.readouterr()
    evaluate(EvaluateConfig(run_dir=config.directory, episodes=3, greedy=True), connect=connect)
    assert json.loads(capsys.readouterr().out)["env_kwargs"] == POND
    assert made == [POND] * len(made)


# --- texts with a memory


def test_a_text_remembers_its_own_episode():
    env = TextEnv("FrozenLake-v1", {"desc": ["SF", "FG"], "is_slippery": False, "max_episode_steps": 9}, 3)
    first = env.reset(1)
    right = first.actions.index("right")
    env.step(right)
    assert "left open 1" in env.state.text
    env.step(right)
    env.step(right)
    env.step(right)
    assert "left open" in env.state.text  # the start is farther back than three steps
    assert "left open 1" not in env.state.text
    assert env.reset(1) == first


def test_a_run_s_memory_reaches_its_environments_and_its_evaluation(configured, connect, capsys):
    config = configured("FrozenLake-v1", DRY, memory=7, total_steps=64)
    train(config, connect=connect)
    assert read_run(config.directory)["evaluation"]["memory"] == 7
    capsys.readouterr()
    evaluate(EvaluateConfig(run_dir=config.directory, episodes=3), connect=connect)
    assert json.loads(capsys.readouterr().out)["memory"] == 7


def test_processes_of_environments_remember_as_well():
    played = {"num_envs": 2, "run_seed": 1, "env_kwargs": DRY, "memory": 4}
    here = TextEnvs("FrozenLake-v1", **played)
    with closing(EnvProcesses("FrozenLake-v1", num_processes=2, **played)) as there:
        for choices in ([2, 1], [0, 3], [2, 1]):
            here.step(choices)
            there.step(choices)
            assert there.states == here.states
    assert re.search(r"open \d", here.states[0].text)


def test_a_run_does_not_go_on_with_another_memory(configured, service):
    learner = Learner(configured("FrozenLake-v1", DRY), ServedPolicy(service))
    learner.begin()
    checkpoint = learner.checkpoint()
    with pytest.raises(CheckpointUnusable, match=r"memory \(was 0, now 7\)"):
        Learner(configured("FrozenLake-v1", DRY, memory=7), ServedPolicy(service)).restore(checkpoint)
    del checkpoint.state.config["memory"]  # a run from before there was the setting
    learner.restore(checkpoint)


def test_a_run_from_before_there_were_arguments_goes_on_without(configured, service):
    config = configured("FrozenLake-v1")
    learner = Learner(config, ServedPolicy(service))
    learner.begin()
    checkpoint = learner.checkpoint()
    del checkpoint.state.config["env_kwargs"]
    learner.restore(checkpoint)
    with pytest.raises(CheckpointUnusable, match="env_kwargs"):
        Learner(configured("FrozenLake-v1", DRY), ServedPolicy(service)).restore(checkpoint)


def test_a_run_from_before_there_were_arguments_is_evaluated_without(configured, connect, capsys):
    config = configured("FrozenLake-v1", POND, total_steps=64)
    train(config, connect=connect)
    for path in config.directory.glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())
        del state["config"]["env_kwargs"]
        path.write_text(json.dumps(state))
    capsys.readouterr()
    evaluate(EvaluateConfig(run_dir=config.directory, episodes=3), connect=connect)
    assert json.loads(capsys.readouterr().out)["env_kwargs"] == {}


def test_validation_and_evaluation_play_what_they_are_told(configured, service, tmp_path):
    learner = Learner(configured("FrozenLake-v1", DRY), ServedPolicy(service))
    learner.begin()
    save_checkpoint(tmp_path, learner.checkpoint())
    sevens = {"desc": ["SF"], "reward_schedule": [7, 7, 7], "max_episode_steps": 3}
    assert play_episodes(learner.served, "FrozenLake-v1", env_kwargs=sevens, num_episodes=2).mean_return == 21
    choice = choose_checkpoint(tmp_path, learner.served, "FrozenLake-v1", env_kwargs=sevens, say=lambda line: None)
    assert choice.mean_return == 21


@pytest.mark.parametrize(
    ("env_kwargs", "message"),
    [
        ({"is_slipery": False}, r'with env_kwargs {"is_slipery": false}: TypeError: .*is_slipery'),
        ({"map_name": "9x9"}, r'with env_kwargs {"map_name": "9x9"}: KeyError: \'9x9\''),
        ({"desc": "SG"}, "ValueError"),
        ({"success_rate": "high"}, "TypeError"),
        ({"render_mode": 3}, "could not be made"),
        ({"id": "CartPole-v1"}, "TypeError"),
    ],
    ids=str,
)
def test_arguments_that_no_environment_takes_are_named(env_kwargs, message):
    with pytest.raises(EnvironmentUnsupported, match=message):
        TextEnv("FrozenLake-v1", env_kwargs)


@pytest.mark.parametrize("error", [ImportError, TypeError, ValueError, KeyError, AttributeError, AssertionError])
def test_whatever_an_environment_says_of_its_arguments_is_one_error(monkeypatch, error):
    def refuse(**arguments):
        raise error("no colour")

    spec = gymnasium.envs.registration.EnvSpec("TestPicky-v0", entry_point=refuse)
    monkeypatch.setitem(gymnasium.registry, "TestPicky-v0", spec)
    with pytest.raises(
        EnvironmentUnsupported, match=rf'with env_kwargs {{"colour": 1}}: {error.__name__}: .*no colour'
    ):
        TextEnv("TestPicky-v0", {"colour": 1})


# --- how arguments are given


def read(*arguments, config=TrainConfig, **environ):
    return read_config(config, ["--env-id", "FrozenLake-v1", *arguments], prog="python -m worker", environ=environ)


@pytest.mark.parametrize("config", [TrainConfig, DescribeConfig])
def test_arguments_come_from_a_flag_a_variable_or_a_file(tmp_path, config):
    path = tmp_path / "settings.toml"
    path.write_text('env_kwargs = {map_name = "8x8"}\n')
    assert read(config=config).env_kwargs == {}
    assert read("--config", str(path), config=config).env_kwargs == {"map_name": "8x8"}
    environ = {"HINTWISE_ENV_KWARGS": '{"is_slippery": false}'}
    assert read("--config", str(path), config=config, **environ).env_kwargs == DRY
    flagged = ("--env-kwargs", '{"desc": ["SF", "FG"], "success_rate": 0.5}')
    assert read(*flagged, config=config, **environ).env_kwargs == {"desc": ["SF", "FG"], "success_rate": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("is_slippery=false", "--env-kwargs is_slippery=false: is not JSON"),
        ("[1]", "--env-kwargs [1]: expected a JSON object such as"),
        ("null", "--env-kwargs null: expected a JSON object such as"),
        ('{"a": NaN}', "JSON has no NaN"),
        ('{"a": -Infinity}', "JSON has no -Infinity"),
        ("[" * 100_000, "is not JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_no_object_is_refused(text, message):
    with pytest.raises(UsageError) as raised:
        read("--env-kwargs", text)
    assert message in str(raised.value)


def test_a_table_holds_what_json_holds(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("env_kwargs = {since = 2020-01-01}\n")
    with pytest.raises(UsageError, match="env_kwargs"):
        read("--config", str(path))


# --- time limits


def test_an_environment_without_a_time_limit_gets_one(monkeypatch):
    monkeypatch.setattr(text_env, "MAX_EPISODE_STEPS", 7)
    env = TextEnv("CliffWalking-v1")
    env.reset(1)
    ends = [env.step(0).truncated for _ in range(7)]
    assert ends == [False] * 6 + [True]


def test_a_time_limit_of_its_own_is_kept(monkeypatch):
    monkeypatch.setattr(text_env, "MAX_EPISODE_STEPS", 7)
    for env in (TextEnv("Taxi-v4"), TextEnv("CliffWalking-v1", {"max_episode_steps": 9})):
        env.reset(1)
        assert not any(env.step(0).truncated for _ in range(8))


# --- describe


def test_describe_shows_what_the_model_reads(capsys):
    assert main(["describe", "--env-id", "Taxi-v4", "--steps", "3", "--seed", "7"]) == 0
    shown = capsys.readouterr().out
    assert main(["describe", "--env-id", "Taxi-v4", "--steps", "3", "--seed", "7"]) == 0
    assert capsys.readouterr().out == shown
    env = TextEnv("Taxi-v4")
    state = env.reset(7)
    assert [line.split(":")[0] for line in shown.splitlines() if line.startswith("step")] == [
        f"step {number}" for number in range(3)
    ]
    first = shown.split("step 1")[0]
    assert f"  | task: {env.task}\n  | state: {state.text}\n  | action:\n  legal: {', '.join(state.actions)}\n" in first
    taken = first.split("taken: ")[1].split(",")[0]
    assert f"state: {env.step(state.actions.index(taken)).state.text}\n" in shown.split("step 1")[1]


def test_describe_counts_tokens_and_goes_on_after_an_end(embedded):
    encoder = TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)
    env = TextEnv("FrozenLake-v1", {"desc": ["SG"], "success_rate": 1.0, "max_episode_steps": 2})
    texts = list(shown_steps(env, encoder, num_steps=40, seed=1))
    ends = [text.rpartition("reward ")[2] for text in texts]
    assert {"1, terminated", "0, truncated", "0"} == set(ends)
    for text, after in pairwise(texts):
        prompt = "\n".join(line.removeprefix("  | ") for line in text.splitlines() if line.startswith("  | "))
        assert text.splitlines()[0].endswith(f": {len(encoder.encode(prompt))} tokens")
        if "terminated" in text:
            assert "state: at 0 0 " in after


def test_describe_takes_arguments_and_names_what_is_wrong(capsys):
    assert main(["describe", "--env-id", "FrozenLake-v1", "--env-kwargs", json.dumps(EIGHT), "--steps", "1"]) == 0
    assert "goal down 7 right 7" in capsys.readouterr().out
    assert main(["describe", "--env-id", "FrozenLake-v1", "--env-kwargs", '{"colour": 1}']) == 1
    assert main(["describe", "--env-id", "Pendulum-v1"]) == 1
    assert main(["describe"]) == 2
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["python -m worker"] * 3
