"""Service and worker as a user runs them: two processes, real environments, kill -9."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.forked import ROOT, Forked
from tests.e2e.processes import (
    CARTPOLE,
    Process,
    free_port,
    kill,
    policy_version,
    run_worker,
    running_service,
    start_service,
    stop,
    worker_command,
)

SHORT = (*CARTPOLE, "--num-envs", 4, "--num-steps", 32, "--minibatch-size", 64, "--update-epochs", 2)
WAIT_S = 120


def metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def start_worker(*arguments: object, start: type[Process] = Forked) -> Process:
    command = worker_command(*arguments)
    return start(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_until(condition, what: str) -> None:
    """Polls, with a limit and a message."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S} s for {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run with a service of its own, started as users start it: it shares no hash seed with forks."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    arguments = ("train", *SHORT, "--total-steps", 1024, "--run-dir", run_dir, "--seed", 3)
    ended = run_worker(*arguments, start=subprocess.Popen)
    assert ended.returncode == 0, ended.stderr
    return run_dir, ended


def test_a_run_leaves_everything_a_user_looks_for(trained):
    run_dir, ended = trained
    assert (run_dir / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert list(run_dir.glob("**/events.out.tfevents.*"))
    record = json.loads((run_dir / "run.json").read_text())
    assert record["steps"] == 1024
    assert record["evaluation"]["episodes"] == 8
    said = ended.stdout + ended.stderr
    assert "learning_curve.png" in said
    assert "step-000001024" in said
    assert "mean return" in said


def test_the_trainers_first_ratio_is_one_at_every_update(trained):
    errors = [line["first_ratio_error"] for line in metrics(trained[0])]
    assert len(errors) == 8
    assert max(errors) < 1e-4


def test_every_update_was_swapped_in_and_nothing_was_stale(trained):
    lines = metrics(trained[0])
    versions = [line["policy_version"] for line in lines]
    assert versions == list(range(versions[0], versions[0] + 8))
    assert sum(line["stale_transitions"] for line in lines) == 0


def test_evaluate_prints_one_json_line_that_repeats_what_the_run_was_judged_by(trained):
    run_dir, _ = trained
    ended = run_worker("evaluate", run_dir, "--greedy", "--episodes", 8)
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    judged = json.loads((run_dir / "run.json").read_text())["evaluation"]
    for name in ("mean_return", "std_return", "success_rate", "episodes", "seed"):
        assert answer[name] == judged[name], name


def test_a_head_is_trained_evaluated_and_resumed(tmp_path):
    run_dir = tmp_path / "run"
    arguments = ("train", *SHORT, "--run-dir", run_dir, "--readout", "head")
    ended = run_worker(*arguments, "--total-steps", 384)
    assert ended.returncode == 0, ended.stderr
    ended = run_worker("evaluate", run_dir, "--episodes", 2, "--greedy")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["steps"] == 384
    ended = run_worker("train", *SHORT, "--run-dir", run_dir, "--total-steps", 512, "--resume")
    assert ended.returncode == 0, ended.stderr
    lines = metrics(run_dir)
    assert [line["step"] for line in lines] == [128, 256, 384, 512]
    assert max(line["first_ratio_error"] for line in lines) < 1e-4
    assert max(line["approx_kl"] for line in lines) > 0
    assert json.loads((run_dir / "run.json").read_text())["readout"] == "head"


def test_a_worker_takes_the_readout_of_the_service_it_is_given(tmp_path):
    with running_service(tmp_path / "weights", "--readout", "head", "--head-env-id", "CartPole-v1") as url:
        given = ("train", *SHORT, "--run-dir", tmp_path / "run", "--service-url", url, "--total-steps", 128)
        ended = run_worker(*given, "--readout", "phrase", timeout_s=60)
        assert ended.returncode == 1
        assert "has readout head, this worker was asked for phrase" in ended.stderr.strip().splitlines()[-1]
        assert "Traceback" not in ended.stderr
        ended = run_worker(*given)
    assert ended.returncode == 0, ended.stderr
    assert metrics(tmp_path / "run")[0]["first_ratio_error"] < 1e-4


def test_the_same_seed_gives_the_same_run(trained, tmp_path):
    again = tmp_path / "again"
    ended = run_worker("train", *SHORT, "--total-steps", 512, "--run-dir", again, "--seed", 3)
    assert ended.returncode == 0, ended.stderr
    first, second = ([line["episodes"] for line in metrics(path)][:2] for path in (trained[0], again))
    assert first == second


@pytest.mark.parametrize("second", ["weights", "fresh"], ids=["with its weights", "without its weights"])
def test_training_survives_a_service_that_is_killed_and_started_again(tmp_path, second):
    port, run_dir = free_port(), tmp_path / "run"
    service, url = start_service(tmp_path / "weights", "--port", str(port))
    worker = start_worker("train", *SHORT, "--total-steps", 2560, "--run-dir", run_dir, "--service-url", url)
    try:
        wait_until(lambda: policy_version(url) >= 4, "a few updates")
        kill(service)
        service, _ = start_service(tmp_path / second, "--port", str(port))
        _, said = worker.communicate(timeout=WAIT_S)
    finally:
        kill(worker)
        stop(service)
    assert worker.returncode == 0, said
    assert metrics(run_dir)[-1]["step"] == 2560
    assert max(line["first_ratio_error"] for line in metrics(run_dir)) < 1e-4


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_worker_resumes_to_the_same_total(tmp_path, name):
    run_dir = tmp_path / "run"
    arguments = ("train", *SHORT, "--total-steps", 2048, "--run-dir", run_dir, "--checkpoint-every", 2)
    start = subprocess.Popen if name == signal.SIGKILL else Forked  # a fork server would end its service, too
    worker = start_worker(*arguments, start=start)
    try:
        wait_until(lambda: list(run_dir.glob("checkpoints/step-*/state.json")), "a checkpoint")
        worker.send_signal(name)
        _, said = worker.communicate(timeout=WAIT_S)
    finally:
        kill(worker)
    assert worker.returncode != 0
    assert "Traceback" not in said
    ended = run_worker(*arguments, "--resume")
    assert ended.returncode == 0, ended.stderr
    steps = [line["step"] for line in metrics(run_dir)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 2048


def test_a_run_that_collects_ahead_is_the_same_run_when_it_was_stopped(tmp_path):
    arguments = ("train", *SHORT, "--total-steps", 1024, "--seed", 3, "--max-staleness", 1, "--checkpoint-every", 2)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    ended = run_worker(*arguments, "--run-dir", straight)
    assert ended.returncode == 0, ended.stderr
    worker = start_worker(*arguments, "--run-dir", stopped)
    try:
        wait_until(lambda: list(stopped.glob("checkpoints/step-*256/state.json")), "a checkpoint")
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=WAIT_S)
    finally:
        kill(worker)
    assert worker.returncode == 143, said
    ended = run_worker(*arguments, "--run-dir", stopped, "--resume")
    assert ended.returncode == 0, ended.stderr
    [ours, theirs] = [[(m["step"], m["approx_kl"], m["episodes"]) for m in metrics(run)] for run in (straight, stopped)]
    assert ours == theirs
    assert [line["staleness"] for line in metrics(straight)] == [0] + [1] * 7


def test_a_worker_facing_no_service_ends_with_one_clear_line(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    arguments = ("train", *SHORT, "--run-dir", tmp_path / "run", "--service-url", url)
    ended = run_worker(*arguments, timeout_s=60, start=subprocess.Popen)
    assert ended.returncode != 0
    lines = ended.stderr.strip().splitlines()
    assert url in lines[-1]
    assert "Traceback" not in ended.stderr


def test_a_service_with_another_model_is_refused(tmp_path, embedded):
    small = tmp_path / "small"
    embedded.tokenizer.save_pretrained(small)
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(embedded.tokenizer), n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(small)
    with running_service(tmp_path / "weights") as url:
        ended = run_worker(
            "train", *SHORT, "--run-dir", tmp_path / "run", "--service-url", url, "--model", small, timeout_s=60
        )
    assert ended.returncode != 0
    assert "architecture" in ended.stderr.strip().splitlines()[-1]
    assert "Traceback" not in ended.stderr
