"""Whole runs against a service in this process."""

import os
import signal
from contextlib import contextmanager, nullcontext

import pytest

import worker.train as train_page
from hintwise.errors import ServiceUnreachable
from tests.unit.worker.runs import clockless, connecting, small_config
from worker import run_record
from worker.checkpoint import last_checkpoint, save_checkpoint
from worker.errors import Interrupted, RunDirTaken
from worker.run_record import read_metrics, read_run
from worker.selection import choose_checkpoint
from worker.train import train

NUM_UPDATES = 3
LEFT_RIGHT = ["push left", "push right"]


@pytest.fixture
def config(tmp_path, model_dir):
    settings = {"num_steps": 16, "minibatch_size": 32, "checkpoint_every": 2}
    return small_config(tmp_path, model_dir, total_steps=64 * NUM_UPDATES + 63, **settings)


def test_a_run_leaves_its_whole_record(config, connect, capsys):
    train(config, connect=connect)
    run = read_run(config.directory)
    assert (run["status"], run["steps"], run["updates"], run["seed"]) == ("finished", 64 * NUM_UPDATES, NUM_UPDATES, 1)
    assert (run["evaluation"]["episodes"], run["evaluation"]["seed"]) == (8, 900_000)
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
    train(again, connect=connecting(make_service))
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


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_no_checkpoint_is_there_before_the_lines_of_its_updates_and_it_knows_their_time(
    config, connect, monkeypatch, max_staleness
):
    def save_having_looked(run_dir, checkpoint, **settings):
        if checkpoint.state.update:
            lines = list(read_metrics(run_dir))
            saved.append([line["update"] for line in lines])
            assert saved[-1] == list(range(1, checkpoint.state.update + 1))
            assert checkpoint.state.training_s == pytest.approx(sum(line["update_s"] for line in lines))
        return save_checkpoint(run_dir, checkpoint, **settings)

    saved = []
    monkeypatch.setattr(train_page, "save_checkpoint", save_having_looked)
    train(config.model_copy(update={"checkpoint_every": 1, "max_staleness": max_staleness}), connect=connect)
    assert saved == [[1], [1, 2], [1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize("lost", [False, True])
def test_lines_are_on_the_disk_before_the_record_and_the_checkpoint_of_their_updates(
    config, connect, service, monkeypatch, lost
):
    def noted(name, function):
        def call(*arguments, **named):
            done.append((name, len(list(read_metrics(config.directory)))))
            return function(*arguments, **named)

        return call

    def lose():
        raise ServiceUnreachable("nobody answers")

    train(config.model_copy(update={"total_steps": 64}), connect=connect)
    done = []
    for page, name in [(run_record, "sync"), (run_record, "write_whole"), (train_page, "save_checkpoint")]:
        monkeypatch.setattr(page, name, noted(name, getattr(page, name)))
    if lost:
        service.before_act[service.calls["act"] + 20] = lose  # in the third rollout
    with pytest.raises(ServiceUnreachable) if lost else nullcontext():
        train(config.model_copy(update={"resume": True}), connect=connect)
    flushed = [("sync", 2), ("write_whole", 2), ("save_checkpoint", 2)]
    last = flushed if lost else [("sync", 3), ("write_whole", 3), ("save_checkpoint", 3)]
    assert done[: 3 + 3 + 3] == [("write_whole", 1), ("sync", 1), ("write_whole", 1), *flushed, *last]


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


def test_without_a_word_about_it_a_service_of_our_own_reads_phrases(config, connect):
    train(config, connect=connect)
    assert connect.wanted["head_actions"] is None
    assert read_run(config.directory)["readout"] == "phrase"
