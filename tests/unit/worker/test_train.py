"""Whole runs against a service in this process."""

import json
import os
import signal
from contextlib import contextmanager

import numpy as np
import pytest

import worker.train as train_page
from hintwise.errors import ServiceUnreachable
from hintwise.weights import dump
from worker.checkpoint import last_checkpoint
from worker.config import EvaluateConfig, PlotConfig, TrainConfig
from worker.errors import CheckpointUnusable, Interrupted, RunDirTaken, WorkerError
from worker.evaluate import evaluate, play_episodes
from worker.plot import plot, running_mean
from worker.run_record import read_metrics, read_run
from worker.seeds import evaluation_action_seed
from worker.selection import choose_checkpoint
from worker.served_policy import ServedPolicy
from worker.train import train

NUM_UPDATES = 3
LEFT_RIGHT = ["push left", "push right"]


@pytest.fixture
def config(tmp_path, model_dir):
    return TrainConfig(
        env_id="CartPole-v1",
        total_steps=64 * NUM_UPDATES + 63,
        num_envs=4,
        num_steps=16,
        minibatch_size=32,
        update_epochs=1,
        checkpoint_every=2,
        model=str(model_dir),
        run_dir=tmp_path / "run",
    )


@pytest.fixture
def connect(service):
    """Stands in for `worker.connection.connect`."""

    @contextmanager
    def connected(settings, **wanted):
        connected.wanted = wanted
        yield service

    return connected


def clockless(run_dir):
    return [{k: v for k, v in line.items() if not k.endswith("_s")} for line in read_metrics(run_dir)]


def test_a_run_leaves_its_whole_record(config, connect, capsys):
    train(config, connect=connect)
    run = read_run(config.directory)
    assert (run["status"], run["steps"], run["updates"], run["seed"]) == ("finished", 64 * NUM_UPDATES, NUM_UPDATES, 1)
    assert (run["evaluation"]["episodes"], run["evaluation"]["seed"]) == (100, 900_000)
    assert run["evaluation"]["mode"] == "greedy"
    assert run["config"] == config.model_dump(mode="json")
    assert {"python", "torch", "gymnasium", "hintwise"} <= run["packages"].keys()
    lines = list(read_metrics(config.directory))
    assert [line["step"] for line in lines] == [64, 128, 192]
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])
    assert all(line["first_ratio_error"] < 1e-4 for line in lines)
    assert sum(len(line["episodes"]) for line in lines) == run["episodes"]
    assert list((config.directory / "tensorboard").glob("events*"))
    assert (config.directory / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert str(last_checkpoint(config.directory)) in out
    assert "learning_curve.png" in out
    assert f"mean return {run['evaluation']['mean_return']:.1f}" in out


def test_a_run_is_judged_as_it_was_told(config, connect, monkeypatch):
    chosen_by = []

    def noting_choice(*arguments, num_episodes, mode, **settings):
        chosen_by.append((num_episodes, mode))
        return choose_checkpoint(*arguments, num_episodes=num_episodes, mode=mode, **settings)

    monkeypatch.setattr(train_page, "choose_checkpoint", noting_choice)
    train(config.model_copy(update={"eval_episodes": 7, "eval_mode": "sample"}), connect=connect)
    evaluation = read_run(config.directory)["evaluation"]
    assert (evaluation["episodes"], evaluation["mode"]) == (7, "sample")
    assert chosen_by == [(3, "sample")]


def test_a_run_keeps_and_chooses_among_as_many_checkpoints_as_it_was_told(config, connect, capsys):
    train(config.model_copy(update={"checkpoint_every": 1, "keep_checkpoints": 2}), connect=connect)
    kept = sorted(path.name for path in (config.directory / "checkpoints").iterdir())
    assert kept == ["step-000000128", "step-000000192"]
    assert capsys.readouterr().err.count("validation of step-") == 2


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_every_second_of_an_update_is_some_parts(config, connect, max_staleness):
    config.max_staleness = max_staleness
    train(config, connect=connect)
    lines = list(read_metrics(config.directory))
    for line in lines:
        parts = [line[name] for name in ("wait_s", "env_s", "learn_s", "push_s", "save_s", "other_s")]
        assert min(parts[0], parts[2], parts[3]) > 0
        if max_staleness:
            assert parts[1] == 0  # another thread steps them
        else:
            assert min(parts[1], parts[4]) > 0
        assert sum(parts) == pytest.approx(line["update_s"])
        assert line["steps_per_s"] == pytest.approx(64 / line["update_s"])
    run = read_run(config.directory)
    assert run["training_s"] == pytest.approx(sum(line["update_s"] for line in lines), abs=0.002)
    assert sum(run["spent_s"].values()) == pytest.approx(run["training_s"], abs=0.004)
    assert run["service_wait_s"] == run["spent_s"]["waiting"]


def test_work_done_while_the_service_answers_changes_nothing(config, connect, make_service, tmp_path):
    train(config, connect=connect)
    checkpoints = sorted(path.name for path in (config.directory / "checkpoints").iterdir())
    busy = make_service()

    @contextmanager
    def overlapped(settings, *, while_waiting, **_):
        for name in ("act", "put_weights"):
            call = getattr(busy, name)
            setattr(busy, name, lambda *given, call=call, **more: (while_waiting(), call(*given, **more))[1])
        yield busy

    again = config.model_copy(update={"run_dir": tmp_path / "again"})
    train(again, connect=overlapped)
    assert clockless(again.directory) == clockless(config.directory)
    assert sorted(path.name for path in (again.directory / "checkpoints").iterdir()) == checkpoints


def test_the_same_seed_is_the_same_run(config, connect, make_service, tmp_path):
    train(config, connect=connect)
    again = config.model_copy(update={"run_dir": tmp_path / "again"})

    @contextmanager
    def fresh(settings, **_):
        yield make_service()

    train(again, connect=fresh)
    assert clockless(again.directory) == clockless(config.directory)


def test_a_run_on_weights_that_another_has_trained_says_so(config, connect, tmp_path, capsys):
    train(config, connect=connect)
    assert read_run(config.directory)["began_with"] == 1
    assert "beginning with version" not in capsys.readouterr().err
    second = config.model_copy(update={"run_dir": tmp_path / "second"})
    train(second, connect=connect)
    version = read_run(second.directory)["began_with"]
    assert version > 1
    assert f"beginning with version {version} of the service's weights" in capsys.readouterr().err
    train(second.model_copy(update={"resume": True, "total_steps": 64 * 4}), connect=connect)
    assert read_run(second.directory)["began_with"] == version


def test_a_directory_that_holds_a_run_is_refused(config, connect):
    train(config, connect=connect)
    with pytest.raises(RunDirTaken, match="add --resume to continue it, or choose another --run-dir"):
        train(config, connect=connect)


def test_a_finished_run_resumed_with_more_steps_goes_on(config, connect):
    train(config, connect=connect)
    train(config.model_copy(update={"resume": True, "total_steps": 64 * 5}), connect=connect)
    assert [line["update"] for line in read_metrics(config.directory)] == [1, 2, 3, 4, 5]


def test_a_run_killed_after_its_last_checkpoint_has_no_update_twice(config, connect):
    train(config, connect=connect)
    whole = clockless(config.directory)
    (config.directory / "checkpoints" / "step-000000192").rename(config.directory / "as-if-never-written")
    with (config.directory / "metrics.jsonl").open("a") as file:
        file.write('{"update": 4, "st')  # and in the middle of a line
    train(config.model_copy(update={"resume": True}), connect=connect)
    again = clockless(config.directory)
    assert [line["update"] for line in again] == [1, 2, 3]
    assert again[:2] == whole[:2]
    assert {**again[2], "policy_version": 0} == {**whole[2], "policy_version": 0}


def test_resuming_where_nothing_was_saved_starts_from_the_beginning(config, connect, capsys):
    train(config.model_copy(update={"resume": True}), connect=connect)
    assert "holds no checkpoint; starting from the beginning" in capsys.readouterr().err
    assert read_run(config.directory)["updates"] == NUM_UPDATES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(config, connect, service, number):
    service.before_act[20] = lambda: os.kill(os.getpid(), number)  # in the second rollout
    handler = signal.getsignal(number)
    with pytest.raises(
        Interrupted, match=rf"stopped by {number.name}; saved in .*step-000000064, go on with --resume"
    ) as e:
        train(config, connect=connect)
    assert e.value.exit_status == 128 + number
    assert signal.getsignal(number) == handler
    assert read_run(config.directory)["status"] == "stopped"
    train(config.model_copy(update={"resume": True}), connect=connect)
    assert [line["update"] for line in read_metrics(config.directory)] == [1, 2, 3]


def test_a_signal_while_the_service_is_away_stops_the_wait(config, connect, service):
    def wait_for_ever():
        os.kill(os.getpid(), signal.SIGTERM)
        connect.wanted["on_wait"]("service unreachable", 1.0)  # what the client calls before it retries
        raise AssertionError("still waiting")

    service.before_act[20] = wait_for_ever
    with pytest.raises(Interrupted, match="SIGTERM"):
        train(config, connect=connect)


def test_a_lost_service_leaves_a_checkpoint(config, connect, service):
    def lose():
        raise ServiceUnreachable("nobody answers")

    service.before_act[20] = lose
    with pytest.raises(ServiceUnreachable, match=r"nobody answers; saved in .*step-000000064, go on with --resume"):
        train(config, connect=connect)
    assert "nobody answers" in read_run(config.directory)["reason"]
    assert [line["update"] for line in read_metrics(config.directory)] == [1]  # what was still to be written is


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_an_update_that_could_not_be_pushed_is_in_the_record_of_a_run_that_goes_on(
    config, connect, service, monkeypatch, max_staleness
):
    config = config.model_copy(update={"max_staleness": max_staleness})
    push, pushed = service.put_weights, []

    def lose_the_second(*arguments, **settings):
        pushed.append(1)
        if len(pushed) == 2:
            raise ServiceUnreachable("nobody answers")
        return push(*arguments, **settings)

    monkeypatch.setattr(service, "put_weights", lose_the_second)
    with pytest.raises(ServiceUnreachable, match="step-000000128"):
        train(config, connect=connect)
    assert [line["update"] for line in read_metrics(config.directory)] == [1, 2]
    train(config.model_copy(update={"resume": True}), connect=connect)
    assert [line["update"] for line in read_metrics(config.directory)] == [1, 2, 3]


@pytest.fixture
def head_connect(make_service):
    """Stands in for `connect`: one service whose head answers for CartPole's actions."""
    service = make_service(LEFT_RIGHT)

    @contextmanager
    def connected(settings, **wanted):
        connected.wanted = wanted
        yield service

    return connected


def test_a_run_with_a_head_goes_through_and_is_evaluated_and_resumed_as_one(config, head_connect, capsys):
    train(config.model_copy(update={"readout": "head"}), connect=head_connect)
    assert list(head_connect.wanted["head_actions"]) == LEFT_RIGHT
    assert read_run(config.directory)["readout"] == "head"
    assert all(line["first_ratio_error"] < 1e-4 for line in read_metrics(config.directory))
    del head_connect.wanted
    assert evaluated(config.directory, head_connect, capsys, greedy=True)["steps"] == 192
    assert head_connect.wanted["head_actions"] == LEFT_RIGHT
    del head_connect.wanted
    train(config.model_copy(update={"resume": True, "total_steps": 64 * 4}), connect=head_connect)
    assert head_connect.wanted["head_actions"] == LEFT_RIGHT
    assert [line["update"] for line in read_metrics(config.directory)] == [1, 2, 3, 4]


@pytest.mark.parametrize(("was", "now"), [(None, "head"), ("phrase", "head"), ("head", "phrase")])
def test_a_run_does_not_go_on_with_another_readout(config, connect, head_connect, was, now):
    begun_with = head_connect if was == "head" else connect
    train(config.model_copy(update={"readout": was}), connect=begun_with)
    with pytest.raises(CheckpointUnusable, match=rf"readout \(was {was or 'phrase'}, now {now}\); leave --readout out"):
        train(config.model_copy(update={"readout": now, "resume": True}), connect=connect)


def test_without_a_word_about_it_a_service_of_our_own_reads_phrases(config, connect):
    train(config, connect=connect)
    assert connect.wanted["head_actions"] is None
    assert read_run(config.directory)["readout"] == "phrase"


@pytest.fixture
def trained(config, connect):
    train(config, connect=connect)
    return config.directory


def evaluated(run_dir, connect, capsys, **settings):
    capsys.readouterr()
    evaluate(EvaluateConfig(run_dir=run_dir, episodes=6, **settings), connect=connect)
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


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
