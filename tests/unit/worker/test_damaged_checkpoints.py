"""What a run can go on from when its last checkpoint is damaged, and what it is told."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from worker import checkpoint as checkpoint_page
from worker.algorithms.algorithm import NOTHING, AlgorithmState
from worker.buffers import Rollout
from worker.checkpoint import Checkpoint, RunState, last_checkpoint, load_checkpoint, save_checkpoint
from worker.errors import CheckpointUnusable

REPLAY = AlgorithmState({"replay/rewards": torch.ones(3)}, {"num_seen": 3})
STEMS = "algorithm", "rollout"


def checkpoint_at(step, *, algorithm=REPLAY, ahead=True):
    state = RunState(
        step=step, update=step, num_episodes=0, recent_episodes=[], num_stale_transitions=0, training_s=0.0, wait_s=0.0,
        policy_version=1, model="m", architecture="a", tokenizer_sha256="t", prompt_template_version=1, generator={},
        episodes=[], num_begun=[], config={}, packages={},
    )  # fmt: skip
    policy = save({"weight": torch.full((2,), float(step))})
    return Checkpoint(state, policy, {"weight/step": torch.ones(1)}, algorithm, Rollout.empty(2, 1) if ahead else None)


@pytest.fixture
def run(tmp_path):
    """Saves one checkpoint a step; returns their directories, oldest first."""

    def run(*steps, keep=5, **held):
        return [save_checkpoint(tmp_path, checkpoint_at(step, **held), keep=keep) for step in steps]

    return run


def cut_power(directory, name="policy.safetensors"):
    """Leaves the file's name without its bytes."""
    (directory / name).write_bytes(b"")


def refusal(directory):
    with pytest.raises(CheckpointUnusable, match=re.escape(directory.name)) as raised:
        load_checkpoint(directory, to_go_on=True)
    return str(raised.value)


def forget_parts(directory, **config):
    """Makes a checkpoint one of before its parts were noted."""
    path = directory / "state.json"
    state = json.loads(path.read_text())
    del state["parts"]
    path.write_text(json.dumps(state | {"config": config}))


# --- what is kept


@pytest.mark.parametrize("stem", STEMS)
def test_the_last_two_keep_what_going_on_needs(run, stem):
    kept = [sorted(path.suffix for path in each.glob(f"{stem}.*")) for each in run(1, 2, 3, 4)]
    assert kept == [[], [], [".json", ".safetensors"], [".json", ".safetensors"]]


def test_who_keeps_one_checkpoint_keeps_one(run):
    *older, last = run(1, 2, 3, keep=1)
    assert [each.exists() for each in (*older, last)] == [False, False, True]
    assert load_checkpoint(last).algorithm.values == REPLAY.values


def test_a_checkpoint_that_was_there_is_on_the_disk_before_older_ones_lose_anything(run, monkeypatch):
    *_, last = run(1, 2, 3)
    done = []
    monkeypatch.setattr(checkpoint_page, "sync", lambda path: done.append(("sync", path)))
    monkeypatch.setattr(checkpoint_page, "_prune", lambda run_dir, keep: done.append(("prune", run_dir)))
    run(3)
    assert done == [("sync", last.parent), ("prune", last.parent.parent)]


# --- what is told


@pytest.mark.parametrize(
    "name",
    [
        "policy.safetensors",
        "optimizer.safetensors",
        "state.json",
        *(f"{stem}.{ending}" for stem in STEMS for ending in ("safetensors", "json")),
    ],
)
def test_the_one_before_is_named_and_can_be_gone_on_from(run, tmp_path, name):
    *_, before, last = run(1, 2, 3)
    cut_power(last, name)
    advice = f"; move it out of {last.parent}, and `train --resume` goes on from {before}"
    assert refusal(last).endswith(advice)
    last.rename(tmp_path / "elsewhere")
    assert last_checkpoint(tmp_path) == before
    again = load_checkpoint(before)
    assert (again.state.step, again.algorithm.values) == (2, REPLAY.values)
    assert again.pending is not None


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("endings", [["safetensors"], ["json"], ["safetensors", "json"]])
def test_a_last_one_whose_files_are_gone_is_not_gone_on_from_as_if_there_had_been_none(run, stem, endings):
    *_, before, last = run(1, 2, 3)
    for ending in endings:
        (last / f"{stem}.{ending}").unlink()
    assert f"{stem}." in (told := refusal(last))
    assert told.endswith(f"goes on from {before}")


def test_an_older_one_is_played_though_it_lost_what_going_on_needs(run):
    oldest, *_ = run(1, 2, 3)
    assert load_checkpoint(oldest).algorithm == NOTHING
    assert "lacks what going on needs: algorithm.safetensors" in refusal(oldest)


def test_nothing_is_gone_on_from_unasked(run, tmp_path):
    *_, last = run(1, 2)
    cut_power(last)
    refusal(last)
    assert last_checkpoint(tmp_path) == last


@pytest.mark.parametrize("held", [{"ahead": False}, {"algorithm": NOTHING}])
def test_one_that_lost_what_going_on_needs_is_not_named(run, held):
    *_, before, last = run(1, 2, 3, **held)
    for each in (before, last):
        cut_power(each)
    told = refusal(last)
    assert told.endswith(
        "there is none before it to go on from: put its files back, or start a new run in another --run-dir"
    )
    assert "move it" not in told


def test_one_that_had_nothing_to_lose_is_named(run):
    first, *others = run(1, 2, 3, algorithm=NOTHING, ahead=False)
    for each in others:
        cut_power(each)
    assert refusal(others[-1]).endswith(f"goes on from {first}")


def test_the_one_before_is_named_also_where_nothing_had_been_collected_ahead(run):
    first, *_ = run(0, ahead=False)
    last, *_ = run(1)
    cut_power(last)
    assert refusal(last).endswith(f"goes on from {first}")


def test_a_replay_that_was_removed_when_one_checkpoint_had_it_is_missed(run):
    """Runs of before kept it in the last alone."""
    before, last = run(1, 2)
    for path in before.glob("algorithm.*"):
        path.unlink()
    forget_parts(before)
    cut_power(last)
    assert "there is none before it to go on from" in refusal(last)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"max_staleness": 0}, True),
        ({"max_staleness": 1}, False),
        ({"max_staleness": 1, "total_steps": 1_024, "num_envs": 8, "num_steps": 128}, True),  # that was its end
    ],
)
def test_a_rollout_that_was_collected_ahead_and_removed_is_missed(run, config, named):
    """Runs of before kept it in the last alone."""
    before, last = run(1, 2, algorithm=NOTHING, ahead=False)
    forget_parts(before, **config)
    cut_power(last)
    assert (f"goes on from {before}" in refusal(last)) is named


def test_a_last_one_of_before_parts_were_noted_is_gone_on_from(run):
    *_, last = run(1, 2, algorithm=NOTHING, ahead=False)
    forget_parts(last, max_staleness=1)  # a run that came to its end has collected nothing ahead
    assert load_checkpoint(last, to_go_on=True).pending is None


def test_of_an_older_one_nothing_more_is_said(run):
    before, _ = run(1, 2)
    cut_power(before)
    told = refusal(before)
    assert "goes on from" not in told
    assert "none before it" not in told


def test_a_directory_that_is_not_there_is_just_that(tmp_path):
    assert "; " not in refusal(Path(tmp_path) / "checkpoints" / "step-000000001")
