"""Whole runs, small enough for a unit test."""

import json
from contextlib import contextmanager

from worker.config import EvaluateConfig, TrainConfig
from worker.evaluate import evaluate
from worker.learner import Learner
from worker.run_record import read_metrics
from worker.served_policy import ServedPolicy


def small_config(tmp_path, model_dir, **settings):
    """Settings of a run of the tiny model on four CartPoles."""
    small = {
        "env_id": "CartPole-v1",
        "num_envs": 4,
        "num_steps": 8,
        "minibatch_size": 16,
        "update_epochs": 1,
        "eval_episodes": 8,
    }
    return TrainConfig(**small | {"model": str(model_dir), "run_dir": tmp_path / "run"} | settings)


def connecting(make):
    """Stands in for `worker.connection.connect`: every run is on the service that `make` returns."""

    @contextmanager
    def connected(settings, **wanted):
        connected.settings, connected.wanted = settings, wanted
        yield make()

    return connected


def begun(config, service):
    """A learner at the beginning of its run."""
    learner = Learner(config, ServedPolicy(service))
    learner.begin()
    return learner


def clockless(run_dir):
    """The lines of a run's metrics without what the clock decides."""
    return [{k: v for k, v in line.items() if not k.endswith("_s")} for line in read_metrics(run_dir)]


def evaluated(run_dir, connect, capsys, **settings):
    """What `evaluate` prints of six episodes."""
    capsys.readouterr()
    evaluate(EvaluateConfig(run_dir=run_dir, episodes=6, **settings), connect=connect)
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)
