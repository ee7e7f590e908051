"""What `evaluate` and `plot` make of a run that is there."""

import json

import numpy as np
import pytest

import worker.evaluate as evaluate_page
from hintwise.weights import dump
from tests.unit.worker.runs import evaluated, small_config
from worker.checkpoint import last_checkpoint
from worker.config import EvaluateConfig, PlotConfig
from worker.errors import CheckpointUnusable, WorkerError
from worker.evaluate import evaluate, play_episodes
from worker.guidance.hints import Hints
from worker.plot import plot, running_mean
from worker.seeds import evaluation_action_seed
from worker.served_policy import ServedPolicy
from worker.train import train

NUM_UPDATES = 3
ADVISER = "told"  # by the service that stands in for one


@pytest.fixture
def config(tmp_path, model_dir):
    settings = {"num_steps": 16, "minibatch_size": 32, "checkpoint_every": 2}
    return small_config(tmp_path, model_dir, total_steps=64 * NUM_UPDATES + 63, **settings)


@pytest.fixture
def trained(config, connect):
    train(config, connect=connect)
    return config.directory


def test_evaluate_prints_one_json_line(trained, connect, capsys):
    result = evaluated(trained, connect, capsys, greedy=True)
    assert result.keys() == {
        "mean_return", "std_return", "min_return", "success_rate", "episodes", "seed", "mode", "env_id",
        "env_kwargs", "memory", "guidance", "policy_version", "checkpoint", "steps",
    }  # fmt: skip
    assert (result["episodes"], result["seed"], result["mode"]) == (6, 900_000, "greedy")
    assert (result["steps"], result["env_id"]) == (192, "CartPole-v1")
    assert 0 <= result["success_rate"] <= 1


def test_evaluate_serves_the_checkpoint_not_what_was_there(trained, connect, service, capsys):
    expected = (last_checkpoint(trained) / "policy.safetensors").read_bytes()
    service.force_weights(service.served[1])
    result = evaluated(trained, connect, capsys)
    assert service.served[service.version] == expected
    assert result["policy_version"] == service.version


@pytest.mark.parametrize(
    ("flags", "every", "model"),
    [
        ({}, "done", ADVISER),
        ({"hint_every": 4, "guidance_model": "another/gpt2"}, 4, "another/gpt2"),
        ({"service_url": "http://127.0.0.1:1"}, "done", None),  # which has a model of its own
    ],
)
def test_evaluate_shows_hints_as_the_run_did_unless_told_otherwise(
    config, connect, capsys, monkeypatch, flags, every, model
):
    def noted(source, num_envs, every, how_far):
        held.append(every)
        return Hints(source, num_envs, every, how_far)

    guidance = {"guidance": "both", "hint_every": "done"}
    train(config.model_copy(update=guidance), connect=connect)
    held = []
    monkeypatch.setattr(evaluate_page, "Hints", noted)
    evaluated(config.directory, connect, capsys, guidance="observation", **flags)
    assert (held, connect.settings.guidance_model) == ([every], model)


@pytest.mark.parametrize(
    ("trained_with", "noted", "model"),
    [
        ({"service_url": "http://127.0.0.1:1"}, True, None),  # the name may be a path over there
        ({"guidance_model": "somebody/gpt2"}, False, "somebody/gpt2"),  # of a run of before it was noted
    ],
)
def test_only_a_service_of_the_runs_own_had_a_model_that_another_can_be_given(
    config, connect, capsys, trained_with, noted, model
):
    train(config.model_copy(update={"guidance": "both", **trained_with}), connect=connect)
    path = last_checkpoint(config.directory) / "state.json"
    state = json.loads(path.read_text())
    assert state["guidance_model"] == ADVISER
    if not noted:
        path.write_text(json.dumps(state | {"guidance_model": None}))
    (config.directory / "run.json").unlink()  # so that the last checkpoint is the one that is played
    evaluated(config.directory, connect, capsys, guidance="observation")
    assert connect.settings.guidance_model == model


def test_an_evaluation_without_hints_asks_for_no_guidance_model_and_one_with_others_says_so(
    config, connect, service, capsys
):
    train(config.model_copy(update={"guidance": "both"}), connect=connect)
    evaluated(config.directory, connect, capsys)
    assert connect.settings.guidance_model is None
    evaluate(EvaluateConfig(run_dir=config.directory, episodes=1, guidance="observation"), connect=connect)
    assert "hints come from" not in capsys.readouterr().err
    service.adviser_sha256 = "1" * 64
    evaluate(EvaluateConfig(run_dir=config.directory, episodes=1, guidance="observation"), connect=connect)
    said = f"hints come from {ADVISER}; the run was given other weights', those of {ADVISER}"
    assert said in capsys.readouterr().err


def test_evaluate_says_what_it_pushed_to_another_service(trained, connect, service, capsys):
    evaluate(EvaluateConfig(run_dir=trained, episodes=1, service_url="http://127.0.0.1:1"), connect=connect)
    assert f"to http://127.0.0.1:1 as version {service.version}; it stays there" in capsys.readouterr().err


def test_how_many_environments_run_side_by_side_changes_nothing(trained, connect, capsys):
    one, many = (evaluated(trained, connect, capsys, num_envs=n) for n in (1, 4))
    assert one == many


def test_episode_i_is_reset_with_seed_s_plus_i(trained, connect, capsys):
    whole = evaluated(trained, connect, capsys, seed=900_100)
    singles = []
    for i in range(6):
        capsys.readouterr()
        evaluate(EvaluateConfig(run_dir=trained, episodes=1, seed=900_100 + i), connect=connect)
        singles.append(json.loads(capsys.readouterr().out)["mean_return"])
    assert sum(singles) / 6 == pytest.approx(whole["mean_return"])
    assert len(set(singles)) > 1


def test_action_seeds_of_an_evaluation_derive_from_episode_and_step(service):
    served = ServedPolicy(service)
    served.fetch()
    play_episodes(served, "CartPole-v1", num_episodes=2, mode="sample")
    assert service.seeds[:2] == [[evaluation_action_seed(900_000 + i, t) for i in range(2)] for t in range(2)]


def test_an_evaluation_of_changing_weights_is_refused(service):
    served = ServedPolicy(service)
    served.fetch()

    def push_by_somebody_else():
        service.policy.value_head.bias.data.add_(1.0)
        service.force_weights(dump(service.policy))

    service.before_act[3] = service.before_act[4] = push_by_somebody_else
    with pytest.raises(WorkerError, match="other weights"):
        play_episodes(served, "CartPole-v1", num_episodes=2)


def test_evaluate_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointUnusable, match="holds no checkpoint"):
        evaluate(EvaluateConfig(run_dir=tmp_path))


def test_plot_prints_the_path(trained, capsys):
    (trained / "learning_curve.png").unlink()
    capsys.readouterr()
    plot(PlotConfig(run_dir=trained))
    assert capsys.readouterr().out.strip() == str(trained / "learning_curve.png")
    assert (trained / "learning_curve.png").exists()


def test_plot_without_an_episode_says_so(trained):
    (trained / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointUnusable, match="nothing to draw"):
        plot(PlotConfig(run_dir=trained))


def test_the_running_mean_starts_with_what_there_is():
    assert running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]
