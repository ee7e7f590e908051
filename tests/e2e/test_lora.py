"""Runs that train adapters, as a user starts them: two processes, and checkpoints of adapters alone."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hintwise.language_model import load_language_model
from hintwise.model_names import EMBEDDED_DIR
from hintwise.weights import metadata_in
from tests.e2e.processes import CARTPOLE, kill, run_worker, running_service
from tests.e2e.test_training import WAIT_S, metrics, start_worker, wait_until

pytest.importorskip("peft", reason="needs the extra `lora`")

SHORT = (*CARTPOLE, "--num-envs", 4, "--num-steps", 16, "--minibatch-size", 32, "--update-epochs", 2)
LORA = ("--lora-rank", 4, "--learning-rate", 0.01, "--checkpoint-every", 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run with a service of its own."""
    run_dir = tmp_path_factory.mktemp("lora") / "run"
    ended = run_worker("train", *SHORT, *LORA, "--total-steps", 256, "--run-dir", run_dir, "--seed", 3)
    assert ended.returncode == 0, ended.stderr
    return run_dir, ended


def policy_files(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("checkpoints/step-*/policy.safetensors"))


def test_the_trainers_first_ratio_is_one_at_every_update(trained):
    lines = metrics(trained[0])
    assert [line["step"] for line in lines] == [64, 128, 192, 256]
    assert max(line["first_ratio_error"] for line in lines) < 1e-4
    assert max(line["approx_kl"] for line in lines) > 0


def test_checkpoints_hold_adapters_and_heads_and_the_digest_of_their_base(trained):
    files = policy_files(trained[0])
    assert len(files) == 3
    for file in files:
        names = load_file(file).keys()
        assert {name.split(".")[-2] for name in names if name.startswith("trunk.")} == {"lora_A", "lora_B"}
        assert {"value_head.weight", "alpha", "beta", "value_scale"} <= names
        assert metadata_in(file.read_bytes())["hintwise.base_sha256"] == load_language_model("embedded").sha256
    state = json.loads((files[-1].parent / "state.json").read_text())
    assert state["model"] == "embedded"
    assert load_file(files[-1].parent / "optimizer.safetensors").keys() <= {
        f"{name}/{what}"
        for name in [*(n.replace(".weight", ".default.weight") for n in load_file(files[0])), *load_file(files[0])]
        for what in ("exp_avg", "exp_avg_sq", "step")
    }


def test_the_service_keeps_what_was_pushed(trained):
    run_dir, _ = trained
    kept = sorted((run_dir / "service").glob("policy-*.safetensors"))
    adapters = [file for file in kept if metadata_in(file.read_bytes()).get("hintwise.format") == "lora"]
    assert len(adapters) >= 4
    assert max(file.stat().st_size for file in adapters) < (EMBEDDED_DIR / "model.safetensors").stat().st_size / 10


def test_a_checkpoint_is_evaluated_as_the_run_was(trained):
    ended = run_worker("evaluate", trained[0], "--greedy", "--episodes", 8)
    assert ended.returncode == 0, ended.stderr
    judged = json.loads((trained[0] / "run.json").read_text())["evaluation"]
    assert json.loads(ended.stdout)["mean_return"] == judged["mean_return"]


def test_a_stopped_run_resumes_to_the_very_weights_of_one_that_was_not(trained, tmp_path):
    run_dir = tmp_path / "run"
    arguments = ("train", *SHORT, *LORA, "--total-steps", 256, "--run-dir", run_dir, "--seed", 3)
    worker = start_worker(*arguments)
    try:
        wait_until(lambda: len(policy_files(run_dir)) >= 2, "two checkpoints")
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=WAIT_S)
    finally:
        kill(worker)
    ended = run_worker(*arguments, "--resume")
    assert ended.returncode == 0, ended.stderr
    ours, wanted = (load_file(policy_files(path)[-1]) for path in (run_dir, trained[0]))
    assert ours.keys() == wanted.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_checkpoint_on_another_base_is_refused_with_both_digests(trained, tmp_path, another_base):
    digests = [load_language_model(name).sha256 for name in ("embedded", str(another_base))]
    ended = run_worker("evaluate", trained[0], "--episodes", 1, "--model", another_base)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    line = ended.stderr.strip().splitlines()[-1]
    assert all(digest in line for digest in digests), line


def test_the_whole_model_may_be_had_from_a_run_of_adapters(trained, tmp_path):
    """What `docs/lora.md` says: start a service on the run's directory, and download."""
    with running_service(trained[0] / "service") as url:
        version = httpx.get(f"{url}/weights", timeout=30).json()["policy_version"]
        (tmp_path / "whole").write_bytes(httpx.get(f"{url}/weights/{version}", timeout=30).content)
    with safe_open(tmp_path / "whole", "pt") as file:
        names = set(file.keys())
    assert "trunk.transformer.h.0.attn.c_attn.weight" in names
    assert not any("lora" in name for name in names)
