"""What every algorithm promises, on an environment whose observation says the right action."""

import pytest

from tests.unit.worker import identity_env
from worker.algorithms.build import build_algorithm
from worker.checkpoint import load_checkpoint, save_checkpoint
from worker.config import TrainConfig
from worker.errors import CheckpointUnusable
from worker.evaluate import play_episodes
from worker.learner import Learner
from worker.served_policy import ServedPolicy

ALGORITHMS = ["ppo", "a2c", "dqn", "sarsa"]
ENOUGH = {
    "ppo": {"total_steps": 3_072, "num_steps": 32, "minibatch_size": 64, "learning_rate": 3e-3},
    "a2c": {"total_steps": 10_240, "num_steps": 4, "learning_rate": 3e-3, "gae_lambda": 0.5, "ent_coef": 0.02},
    "dqn": {
        "total_steps": 4_096,
        "num_steps": 16,
        "gradient_steps": 16,
        "learning_starts": 256,
        "learning_rate": 2e-3,
        "q_scale": 1.0,
    },
    "sarsa": {
        "total_steps": 4_096,
        "num_steps": 16,
        "minibatch_size": 64,
        "learning_rate": 3e-3,
        "sarsa_lambda": 0.5,
        "q_scale": 1.0,
    },
}
"""What each needs with a tiny model; rewards come at every step, so little is discounted."""


@pytest.fixture(autouse=True)
def _registered():
    identity_env.register()


@pytest.fixture
def configured(tmp_path, model_dir):
    def configure(algorithm, **more):
        settings = {"env_id": identity_env.ID, "model": str(model_dir), "run_dir": tmp_path / "run", "gamma": 0.5}
        return TrainConfig(**{**settings, "env_workers": 0, "algorithm": algorithm, **ENOUGH[algorithm], **more})

    return configure


def numbers(report):
    return repr({name: value for name, value in report.record().items() if not name.endswith("_s")})


@pytest.mark.parametrize("head_actions", [None, ["action 0", "action 1", "action 2"]], ids=["phrase", "head"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_solves_the_identity(configured, make_service, algorithm, head_actions):
    service = make_service(head_actions)
    learner = Learner(configured(algorithm), ServedPolicy(service))
    learner.begin()
    for _ in range(learner.config.num_updates):
        learner.run_update()
    learner.close()
    played = play_episodes(learner.served, identity_env.ID, num_episodes=20)
    assert played.mean_return == identity_env.EPISODE_STEPS


@pytest.mark.parametrize("max_staleness", [0, 1])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_is_the_same_run_also_when_it_was_interrupted(
    configured, make_service, tmp_path, algorithm, max_staleness
):
    few = {"learning_starts": 200} if algorithm == "dqn" else {}
    config = configured(algorithm, total_steps=512, num_steps=16, max_staleness=max_staleness, **few)
    straight = Learner(config, ServedPolicy(make_service()))
    straight.begin()
    reports = [numbers(straight.run_update()) for _ in range(4)]
    stopped = Learner(config, ServedPolicy(make_service()))
    stopped.begin()
    assert [numbers(stopped.run_update()) for _ in range(2)] == reports[:2]
    saved = save_checkpoint(tmp_path, stopped.checkpoint())
    resumed = Learner(config, ServedPolicy(make_service()))
    resumed.restore(load_checkpoint(saved))
    again = [numbers(resumed.run_update()) for _ in range(2)]
    versions = [report.partition("policy_version")[2].partition(",")[2] for report in (*again, *reports[2:])]
    assert versions[:2] == versions[2:]
    assert resumed.served.data == straight.served.data


@pytest.mark.parametrize("algorithm", ["dqn", "sarsa"])
def test_the_service_has_action_values_from_the_first_step_on(configured, service, algorithm):
    learner = Learner(configured(algorithm), ServedPolicy(service))
    learner.begin()
    assert service.policy.has_action_values
    assert service.policy.q_scale.item() == pytest.approx(learner.algorithm.q_scale)


@pytest.mark.parametrize("algorithm", ["dqn", "sarsa"])
def test_an_initial_value_is_what_every_action_is_worth_until_something_is_learned(configured, service, algorithm):
    learner = Learner(configured(algorithm, initial_value=3.0, value_scale=7.0, q_scale=1e-6), ServedPolicy(service))
    learner.begin()
    [result] = service.act(["anything"], ["action 0", "action 1"]).results
    assert result.scores == pytest.approx([3.0, 3.0], abs=1e-3)
    learner.run_update()
    trained = learner.served.data
    again = Learner(configured(algorithm, initial_value=9.0), learner.served)
    again.begin()
    assert again.served.data == trained  # what was learned is no untrained head


def test_an_actor_critic_takes_action_values_for_log_probabilities(configured, service):
    Learner(configured("dqn"), ServedPolicy(service)).begin()
    Learner(configured("ppo"), ServedPolicy(service)).begin()
    assert not service.policy.has_action_values


def test_a_checkpoint_of_dqn_without_its_replay_is_refused(configured, make_service, tmp_path):
    learner = Learner(configured("dqn"), ServedPolicy(make_service()))
    learner.begin()
    learner.run_update()
    saved = save_checkpoint(tmp_path, learner.checkpoint())
    for path in saved.glob("algorithm.*"):
        path.unlink()
    again = Learner(configured("dqn"), ServedPolicy(make_service()))
    with pytest.raises(CheckpointUnusable, match="no whole replay buffer"):
        again.restore(load_checkpoint(saved))


def test_a_damaged_replay_is_one_clear_error(configured, make_service, tmp_path):
    learner = Learner(configured("dqn"), ServedPolicy(make_service()))
    learner.begin()
    learner.run_update()
    saved = save_checkpoint(tmp_path, learner.checkpoint())
    (saved / "algorithm.json").write_text("{")
    with pytest.raises(CheckpointUnusable, match="cannot be read"):
        load_checkpoint(saved)


def test_only_the_last_two_checkpoints_keep_what_going_on_needs(configured, service, tmp_path):
    learner = Learner(configured("dqn"), ServedPolicy(service))
    learner.begin()
    saved = []
    for _ in range(3):
        learner.run_update()
        saved.append(save_checkpoint(tmp_path, learner.checkpoint()))
    kept = [sorted(path.name for path in directory.glob("algorithm.*")) for directory in saved]
    assert kept == [[], *[["algorithm.json", "algorithm.safetensors"]] * 2]


def test_a_setting_of_another_algorithm_is_refused():
    with pytest.raises(ValueError, match="clip_coef belongs to ppo; dqn has no such setting"):
        TrainConfig(env_id="A-v0", algorithm="dqn", clip_coef=0.1)
    with pytest.raises(ValueError, match="end_epsilon belongs to dqn and sarsa; ppo has no such setting"):
        TrainConfig(env_id="A-v0", end_epsilon=0.1)


def test_defaults_differ_by_algorithm():
    steps = {name: TrainConfig(env_id="A-v0", algorithm=name).num_steps for name in ALGORITHMS}
    assert steps == {"ppo": 128, "a2c": 8, "dqn": 32, "sarsa": 32}
    assert TrainConfig(env_id="A-v0", algorithm="dqn", num_steps=7).num_steps == 7


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_is_built_for_its_name(configured, service, encoder, algorithm):
    built = build_algorithm(configured(algorithm), service.policy, encoder, None)
    assert type(built).__name__.lower() == algorithm
