"""Which checkpoint a run is judged by."""

from __future__ import annotations

import json

import pytest

from worker import selection
from worker.checkpoint import chosen_checkpoint
from worker.seeds import FIRST_EVALUATION_SEED, FIRST_VALIDATION_SEED
from worker.selection import choose_checkpoint


class Served:
    """Remembers what it was made to serve."""

    def __init__(self):
        self.data, self.synced = b"", []

    def hold(self, data):
        self.data = data

    def resync(self):
        self.synced.append(self.data)


@pytest.fixture
def chooses(monkeypatch, tmp_path):
    """Chooses among checkpoints with these validation returns."""
    served, played = Served(), []

    def choose(*returns, **how):
        of_policy = {f"policy {i}".encode(): value for i, value in enumerate(returns)}
        directories = [tmp_path / f"step-{i}" for i in range(len(returns))]
        monkeypatch.setattr(selection, "kept_checkpoints", lambda run_dir: directories)
        monkeypatch.setattr(
            selection,
            "load_checkpoint",
            lambda directory: type("Checkpoint", (), {"policy": f"policy {directory.name[5:]}".encode()}),
        )

        def play(served, env_id, **settings):
            played.append(settings)
            return type("Evaluation", (), {"mean_return": of_policy[served.synced[-1]]})

        monkeypatch.setattr(selection, "play_episodes", play)
        return choose_checkpoint(tmp_path, served, "CartPole-v1", say=lambda line: None, **how)

    choose.served, choose.played = served, played
    return choose


def test_the_best_on_validation_is_chosen_and_left_serving(chooses):
    choice = chooses(10.0, 500.0, 410.0)
    assert (choice.directory.name, choice.mean_return) == ("step-1", 500.0)
    assert chooses.served.synced[-1] == b"policy 1"


def test_the_later_one_wins_a_tie(chooses):
    assert chooses(500.0, 500.0, 3.0).directory.name == "step-1"


def test_validation_episodes_are_no_evaluation_episodes(chooses):
    chooses(1.0)
    [settings] = chooses.played
    first, last = settings["first_seed"], settings["first_seed"] + settings["num_episodes"] - 1
    assert first >= FIRST_VALIDATION_SEED
    assert last < FIRST_EVALUATION_SEED


def test_checkpoints_play_as_the_run_will_be_judged(chooses):
    chooses(1.0, mode="sample", num_episodes=7)
    [settings] = chooses.played
    assert (settings["mode"], settings["num_episodes"]) == ("sample", 7)


def test_a_chosen_checkpoint_is_found_by_name_in_a_run_that_was_moved(tmp_path):
    (tmp_path / "checkpoints" / "step-7").mkdir(parents=True)
    (tmp_path / "run.json").write_text(json.dumps({"checkpoint": "/elsewhere/checkpoints/step-7"}))
    assert chosen_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-7"


@pytest.mark.parametrize("run", ["{}", "not json", '{"checkpoint": "x/step-8"}', None])
def test_without_a_choice_there_is_none(tmp_path, run):
    if run is not None:
        (tmp_path / "run.json").write_text(run)
    assert chosen_checkpoint(tmp_path) is None
