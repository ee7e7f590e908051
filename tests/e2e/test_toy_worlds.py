"""Worlds of holes and walls as a user trains them: the worker and its service as processes."""

from __future__ import annotations

import json

import pytest

from tests.e2e.processes import FEW, run_worker

SHORT = ("--num-envs", 4, "--num-steps", 32, "--minibatch-size", 64, "--update-epochs", 1, "--total-steps", 256, *FEW)
DRY = '{"is_slippery": false, "max_episode_steps": 8}'


@pytest.mark.parametrize(("env_id", "env_kwargs"), [("FrozenLake-v1", DRY), ("Taxi-v4", '{"max_episode_steps": 8}')])
def test_a_world_is_trained_and_evaluated_as_it_was_made(tmp_path, env_id, env_kwargs):
    run_dir = tmp_path / "run"
    arguments = ("train", "--env-id", env_id, *SHORT, "--run-dir", run_dir)
    ended = run_worker(*arguments, "--env-kwargs", env_kwargs)
    assert ended.returncode == 0, ended.stderr
    record = json.loads((run_dir / "run.json").read_text())
    assert record["config"]["env_kwargs"] == json.loads(env_kwargs)
    assert record["steps"] == 256
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert max(line["first_ratio_error"] for line in lines) < 1e-4
    assert max(length for line in lines for _, _, length, _ in line["episodes"]) <= 8
    played = run_worker("evaluate", run_dir, "--episodes", 5, "--greedy")
    assert played.returncode == 0, played.stderr
    assert json.loads(played.stdout)["env_kwargs"] == json.loads(env_kwargs)
    refused = run_worker(*arguments, "--resume")
    assert refused.returncode == 1
    assert "env_kwargs (was " in refused.stderr.strip().splitlines()[-1]
