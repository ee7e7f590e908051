"""Adapters on a GPT-2 of real width and vocabulary, random ones: a few updates through a real service.

On a GPU with all of its 124 million parameters, on the CPU with a third of its layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hintwise import Client
from hintwise.digests import sha256_of
from hintwise.model_names import EMBEDDED_DIR
from hintwise.weights import dump
from tests.e2e.processes import running_service
from worker.checkpoint import load_checkpoint, save_checkpoint
from worker.config import TrainConfig
from worker.learner import Learner
from worker.served_policy import ServedPolicy

pytest.importorskip("peft", reason="needs the extra `lora`")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TIMEOUT_S = 120.0
NUM_UPDATES = 3


@contextmanager
def learner_of(model: Path, url: str, device: str, **changed) -> Iterator[Learner]:
    config = TrainConfig(
        env_id="CartPole-v1",
        model=str(model),
        device=device,
        num_envs=2,
        num_steps=4,
        minibatch_size=4,
        update_epochs=1,
        learning_rate=3e-3,
        total_steps=8 * (NUM_UPDATES + 1),
        gradient_accumulation=2,
        env_workers=0,
        **changed,
    )
    with Client(url, timeout_s=TIMEOUT_S) as client, closing(Learner(config, ServedPolicy(client))) as learner:
        yield learner


@pytest.mark.parametrize(("device", "num_layers"), [("cpu", 4), ("cuda", 12)], ids=["cpu", "cuda"])
def test_a_few_updates_push_what_changed_and_resume(tmp_path, device, num_layers):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    gpt2 = tmp_path / "gpt2"
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=num_layers)).save_pretrained(gpt2)
    AutoTokenizer.from_pretrained(EMBEDDED_DIR).save_pretrained(gpt2)
    limit = 1e-3 if num_layers == 12 else 1e-4  # DESIGN section 4: ten times as much above 100 million parameters
    with running_service(tmp_path / "weights", "--model", str(gpt2), "--device", device) as url:
        with learner_of(gpt2, url, device, lora_rank=8) as learner:
            learner.begin()
            base = {name: p.clone() for name, p in learner.policy.named_parameters() if not p.requires_grad}
            reports = [learner.run_update() for _ in range(NUM_UPDATES)]
            pushed, whole = len(learner.served.data), len(dump(learner.policy))
            saved = save_checkpoint(tmp_path / "run", learner.checkpoint())
            kept = tmp_path / "weights" / f"policy-{learner.served.policy_version:06d}.safetensors"
            held = dict(learner.policy.named_parameters())
        assert [report.policy_version for report in reports] == [2, 3, 4]
        assert max(report.metrics.first_ratio_error for report in reports) < limit
        assert min(report.metrics.num_minibatches for report in reports) == 2
        assert all(torch.equal(tensor, held[name]) for name, tensor in base.items())
        assert pushed < whole / 100
        assert (saved / "policy.safetensors").stat().st_size == kept.stat().st_size == pushed

        with learner_of(gpt2, url, device, lora_rank=8) as learner:
            learner.restore(load_checkpoint(saved))
            assert sha256_of(learner.served.data) == sha256_of((saved / "policy.safetensors").read_bytes())
            report = learner.run_update()
        assert report.policy_version == 5
        assert report.metrics.first_ratio_error < limit

        with Client(url, timeout_s=TIMEOUT_S) as client:
            downloaded = load(client.download_weights(5))
            merged, loaded = (
                downloaded["trunk.transformer.h.0.attn.c_attn.weight"],
                GPT2LMHeadModel.from_pretrained(gpt2),
            )
        assert not torch.equal(merged, loaded.transformer.h[0].attn.c_attn.weight)
        assert torch.equal(downloaded["trunk.transformer.wte.weight"], loaded.transformer.wte.weight)
