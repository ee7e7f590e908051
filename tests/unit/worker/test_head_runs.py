"""Runs whose policy answers with a head."""

import pytest

from tests.unit.worker.runs import connecting, evaluated, small_config
from worker.errors import CheckpointUnusable
from worker.run_record import read_metrics, read_run
from worker.train import train

LEFT_RIGHT = ["push left", "push right"]
NUM_UPDATES = 3


@pytest.fixture
def config(tmp_path, model_dir):
    settings = {"num_steps": 16, "minibatch_size": 32, "checkpoint_every": 2}
    return small_config(tmp_path, model_dir, total_steps=64 * NUM_UPDATES + 63, **settings)


@pytest.fixture
def head_connect(make_service):
    """Stands in for `connect`: one service whose head answers for CartPole's actions."""
    service = make_service(LEFT_RIGHT)
    return connecting(lambda: service)


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
