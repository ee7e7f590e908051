"""Adapters change a policy on the trainer's side as on the service's, learn alone, and begin as nothing."""

import sys

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hintwise import lora
from hintwise.action_batch import collate
from hintwise.errors import ModelNotFound, WeightsRejected
from hintwise.language_model import load_language_model
from hintwise.lora_training import adapter_state, attach, base_state, load_adapter
from hintwise.policy import Policy
from hintwise.scoring import score
from hintwise.tokens import TextEncoder
from hintwise.weights import apply, state_of

pytest.importorskip("peft", reason="needs the extra `lora`")

ACTIONS = ("push left", "push right")
TEXTS = [f"cart {n} speed {n + 7} pole 20 turn {40 - n}\naction:" for n in range(7)]
ALPHA = 12.0
TARGETS = {"gpt2": ("c_attn", "c_proj", "c_fc"), "llama": ("q_proj", "v_proj", "down_proj")}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Two architectures: one whose layers keep a matrix (in, out), one whose layers keep it (out, in)."""
    embedded = load_language_model("embedded")
    config = LlamaConfig(
        vocab_size=len(embedded.tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    directory = tmp_path_factory.mktemp("llama")
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(directory)
    embedded.tokenizer.save_pretrained(directory)
    return {"gpt2": "embedded", "llama": str(directory)}


@pytest.fixture(params=["gpt2", "llama"])
def kind(request):
    return request.param


@pytest.fixture
def make(directories):
    def make(kind, rank=4, seed=1, targets=None, alpha=ALPHA):
        model = load_language_model(directories[kind])
        policy = Policy(model, beta=2.0)
        if rank:
            chosen = TARGETS[kind] if targets is None else targets
            attach(policy, rank=rank, alpha=alpha, targets=chosen, seed=seed)
        return policy, TextEncoder(model.tokenizer, max_tokens=model.max_tokens), model

    return make


def learn(policy, seed=0):
    """Gives everything that learns other numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def scored(policy, encoder):
    return score(policy, encoder.scored(TEXTS, [policy.candidates(encoder, ACTIONS)] * len(TEXTS)))


def merged(trained, model):
    """The whole policy that a service makes of a trained one's adapters."""
    policy = Policy(model)
    metadata = lora.metadata_of(base_sha256=model.sha256, alpha=ALPHA)
    adapter = lora.check_adapter(adapter_state(trained), metadata, policy, base_sha256=model.sha256)
    apply(policy, lora.merged(adapter, state_of(policy), policy))
    return policy


def test_an_adapter_begins_as_nothing(make, kind):
    policy, encoder, _ = make(kind)
    plain, _, _ = make(kind, rank=0)
    with torch.no_grad():
        ours, theirs = scored(policy, encoder), scored(plain, encoder)
    torch.testing.assert_close(ours.log_probs, theirs.log_probs, rtol=0, atol=1e-6)


def test_the_service_scores_merged_weights_as_the_trainer_scores_adapters(make, kind):
    policy, encoder, _ = make(kind)
    learn(policy)
    plain, _, model = make(kind, rank=0)
    with torch.no_grad():
        before, ours, theirs = scored(plain, encoder), scored(policy, encoder), scored(merged(policy, model), encoder)
    assert (before.log_probs - ours.log_probs).abs().max() > 0.01
    bound = 1e-5 * 2.0 * (1 + ours.log_probs.abs())
    assert ((ours.log_probs - theirs.log_probs).abs() <= bound).all()
    torch.testing.assert_close(ours.values, theirs.values, rtol=1e-4, atol=1e-5)


def test_adapters_and_heads_learn_and_nothing_else_does(make, kind):
    policy, encoder, _ = make(kind)
    learn(policy)
    before = {name: tensor.clone() for name, tensor in state_of(policy).items()}
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    output = scored(policy, encoder)
    (output.log_probs[:, 0].sum() + output.values.sum()).backward()
    optimizer.step()
    changed = {name for name, tensor in state_of(policy).items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".default." in name or name.startswith("value_head.")}
    assert all(name in before and torch.isfinite(p).all() for name, p in policy.named_parameters() if p.requires_grad)


def test_gradients_are_those_of_the_merged_weights(make, kind):
    """d/dB of the loss is scale * dW A^T, whatever way the forward took."""
    policy, encoder, _ = make(kind)
    learn(policy)
    scored(policy, encoder).log_probs[:, 0].sum().backward()
    whole = merged(policy, make(kind, rank=0)[2])
    scored(whole, encoder).log_probs[:, 0].sum().backward()
    for layer, module in policy.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        by_weight = whole.get_submodule(layer).weight.grad
        by_weight = by_weight if isinstance(module.base_layer, nn.Linear) else by_weight.T  # (out, in)
        torch.testing.assert_close(up.grad, ALPHA / 4 * by_weight @ down.T, rtol=1e-3, atol=2e-4)
        torch.testing.assert_close(down.grad, ALPHA / 4 * up.T @ by_weight, rtol=1e-3, atol=2e-4)


def test_what_travels_is_small_and_comes_back(make, kind):
    policy, encoder, _ = make(kind)
    learn(policy)
    state = {name: tensor.clone() for name, tensor in adapter_state(policy).items()}
    other, _, _ = make(kind, seed=9)
    load_adapter(other, state)
    with torch.no_grad():
        assert torch.equal(scored(other, encoder).scores, scored(policy, encoder).scores)
    assert all(name.endswith((lora.DOWN, lora.UP)) for name in state if lora.is_of_trunk(name))
    assert {"value_head.weight", "value_head.bias", "alpha", "beta", "value_scale"} <= state.keys()


def test_the_base_has_the_names_that_a_service_knows(make, kind):
    policy, _, _ = make(kind)
    plain, _, _ = make(kind, rank=0)
    base = base_state(policy)
    assert base.keys() == {name for name in state_of(plain) if lora.is_of_trunk(name)}
    assert all(torch.equal(base[name], tensor) for name, tensor in state_of(plain).items() if name in base)


def test_adapters_of_another_rank_are_refused_by_name(make):
    policy, _, _ = make("gpt2")
    with pytest.raises(WeightsRejected) as raised:
        load_adapter(policy, adapter_state(make("gpt2", rank=2)[0]))
    assert all(offence.field.endswith((lora.DOWN, lora.UP)) for offence in raised.value.errors)


def test_the_first_matrices_derive_from_the_seed(make):
    one, same, other = (adapter_state(make("gpt2", seed=seed)[0]) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], tensor) for name, tensor in same.items())
    assert any(not torch.equal(one[name], tensor) for name, tensor in other.items())


def test_adapters_disturb_no_other_random_numbers(make):
    policy, _, _ = make("gpt2", rank=0)
    before = torch.get_rng_state()
    attach(policy, rank=2, alpha=4.0, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("kind", "layers"), [("gpt2", {"c_attn"}), ("llama", {"q_proj", "v_proj"})])
def test_without_targets_peft_chooses(make, kind, layers):
    state = adapter_state(make(kind, targets=())[0])
    assert {name.split(".")[-3] for name in state if name.endswith(lora.UP)} == layers


def test_layers_that_there_are_none_of_are_a_clear_error(make):
    with pytest.raises(ModelNotFound, match=r"--lora-targets") as raised:
        make("gpt2", targets=("q_proj",))
    assert "\n" not in str(raised.value)


def test_without_peft_one_is_told_what_to_install(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelNotFound, match=r"pip install 'hintwise\[lora\]'"):
        make("gpt2")


def test_merging_leaves_the_base_as_it_was(make):
    policy, _, model = make("gpt2")
    learn(policy)
    plain = Policy(make("gpt2", rank=0)[2])
    base = state_of(plain)
    before = {name: tensor.clone() for name, tensor in base.items()}
    metadata = lora.metadata_of(base_sha256=model.sha256, alpha=ALPHA)
    adapter = lora.check_adapter(adapter_state(policy), metadata, plain, base_sha256=model.sha256)
    whole = lora.merged(adapter, base, plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.items())
    assert whole.keys() == base.keys()


def test_a_batch_may_leave_out_a_prefix(make):
    """The prefix's keys and values go through the adapters too."""
    policy, encoder, _ = make("gpt2", targets=("c_attn",))
    learn(policy)
    candidates = [policy.candidates(encoder, ACTIONS)] * 2
    prompts = [encoder.encode("one two three four five six"), encoder.encode("one two three four nine ten")]
    shared = 4
    assert prompts[0][:shared] == prompts[1][:shared]
    with torch.no_grad():
        apart = policy(collate(prompts, candidates))
        together = policy(collate(prompts, candidates, prefix_length=shared))
    torch.testing.assert_close(together.log_probs, apart.log_probs, rtol=1e-4, atol=1e-5)
