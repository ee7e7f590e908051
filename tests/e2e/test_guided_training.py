"""A guided run as a user starts it: hints and rewards of the service's own language model."""

import json
import signal

import pytest

from tests.e2e.processes import FEW, kill, run_worker
from tests.e2e.test_training import metrics, start_worker, wait_until

LAKE = ("--env-id", "FrozenLake-v1", "--env-kwargs", '{"is_slippery": false}')
SHORT = ("--num-envs", 4, "--num-steps", 32, "--minibatch-size", 64, "--update-epochs", 2, "--value-scale", 1, *FEW)
# So few episodes do not show that hints help, and a gate would trust none.
GUIDED = ("train", *LAKE, *SHORT, "--seed", 3, "--guidance", "both", "--no-guidance-gate", "--checkpoint-every", 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("guided") / "run"
    ended = run_worker(*GUIDED, "--total-steps", 512, "--run-dir", run_dir)
    assert ended.returncode == 0, ended.stderr
    return run_dir, ended


def test_a_guided_run_says_what_guidance_did(trained):
    run_dir, ended = trained
    lines = metrics(run_dir)
    assert len(lines) == 4
    assert all(-0.3 <= line["mean_shaping"] < 0 for line in lines)  # an untrained policy disobeys now and then
    assert all(line["guide_s"] > 0 and line["distill_kl"] > 0 for line in lines)
    assert max(line["first_ratio_error"] for line in lines) < 1e-4
    record = json.loads((run_dir / "run.json").read_text())
    assert record["evaluation"]["guidance"] == "none"
    assert record["evaluation_with_hints"]["guidance"] == "observation"
    assert "with hints" in ended.stdout
    assert "guidance" in ended.stdout  # where the time went


def test_a_policy_that_reads_its_own_hints_plays_by_them(tmp_path):
    """The language model as policy does what a hint says before it has learned anything else."""
    run_dir = tmp_path / "run"
    trained = ("train", *LAKE, *SHORT, "--model", "embedded-language", "--learning-rate", 1e-9)
    ended = run_worker(*trained, "--guidance", "observation", "--total-steps", 128, "--run-dir", run_dir)
    assert ended.returncode == 0, ended.stderr
    record = json.loads((run_dir / "run.json").read_text())
    assert record["evaluation_with_hints"]["success_rate"] == 1.0
    assert record["evaluation"]["success_rate"] < 1.0
    ended = run_worker("evaluate", run_dir, "--guidance", "observation", "--episodes", 5, "--greedy")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["success_rate"] == 1.0


def test_a_guided_run_that_was_stopped_goes_on_to_the_same_numbers(trained, tmp_path):
    run_dir = tmp_path / "run"
    worker = start_worker(*GUIDED, "--total-steps", 512, "--run-dir", run_dir)
    try:
        wait_until(lambda: list(run_dir.glob("checkpoints/step-*256/state.json")), "a checkpoint")
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=120)
    finally:
        kill(worker)
    ended = run_worker(*GUIDED, "--total-steps", 512, "--run-dir", run_dir, "--resume")
    assert ended.returncode == 0, ended.stderr
    for ours, theirs in zip(metrics(trained[0]), metrics(run_dir), strict=True):
        assert ours["episodes"] == theirs["episodes"]
        for name in ("mean_shaping", "distill_kl", "approx_kl"):  # scores that are asked again differ in the last bits
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-6)
