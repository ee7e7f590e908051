"""Hidden states equal transformers' own, one causal row each, on every path: GPT-2's, a mask's, a row a branch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from hintwise.gpt2_forward import GPT2Forward
from hintwise.phrases import NO_TREE, PhraseSet
from hintwise.token_rows import lay_out
from hintwise.trunk_forward import TransformersForward

VOCABULARY = 40
TOKENS = {"bos_token_id": None, "eos_token_id": None}
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}


def randomised(model):
    """A model all of whose parameters are at work: transformers begins biases at 0 and norms at 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def gpt2(**changes):
    config = {"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 16, "n_layer": 3, "n_head": 2, **TOKENS, **changes}
    return randomised(GPT2LMHeadModel(GPT2Config(**config)))


def with_adapters(model):
    """Every kind of layer has one, and each of them says something."""
    peft = pytest.importorskip("peft", reason="needs the extra `lora`")
    targets = ["c_attn", "c_proj", "c_fc"]
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, fan_in_fan_out=True, init_lora_weights=False), model
    )
    return model.eval()


def llama():
    config = LlamaConfig(**SHAPE, num_attention_heads=2, num_key_value_heads=1, **TOKENS)
    return randomised(LlamaForCausalLM(config))


def mistral():
    """Its layers see a window of the last tokens alone, which a mask of our own would lift."""
    config = MistralConfig(**SHAPE, num_attention_heads=2, num_key_value_heads=1, sliding_window=4, **TOKENS)
    return randomised(MistralForCausalLM(config))


MODELS = {
    "gpt2": (gpt2, GPT2Forward),
    "gpt2 of one layer": (lambda: gpt2(n_layer=1), GPT2Forward),
    "gpt2 with relu": (lambda: gpt2(activation_function="relu", layer_norm_epsilon=1e-3), GPT2Forward),
    "gpt2 with adapters": (lambda: with_adapters(gpt2()), GPT2Forward),
    "gpt2 as transformers runs it": (gpt2, TransformersForward),
    "llama": (llama, TransformersForward),
    "mistral": (mistral, TransformersForward),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request):
    make, kind = MODELS[request.param]
    model = make()
    return model, kind(model)


def beginnings(listed):
    """Each beginning of each phrase, and the place that it is read at."""
    return {
        (phrase[:length], place)
        for phrase, places in zip(listed.token_ids, listed.read_at, strict=True)
        for length, place in enumerate(places)
    }


def expected(model, path):
    return model.base_model(input_ids=torch.tensor([path]), use_cache=False).last_hidden_state[0, -1]


token = st.integers(0, VOCABULARY - 1)
phrases = st.lists(st.lists(token, min_size=1, max_size=4).map(tuple), min_size=1, max_size=4)
items = st.lists(st.tuples(st.lists(token, min_size=1, max_size=9).map(tuple), phrases), min_size=1, max_size=4)


@given(items=items, prefix=st.lists(token, max_size=5).map(tuple))
@settings(max_examples=30)
def test_hidden_states_are_those_of_each_path_alone(pair, items, prefix):
    model, forward = pair
    prefix = prefix if forward.takes_prefix else ()
    listed = [PhraseSet.of(each) for _, each in items]
    trees = [each.trees[0] for each in listed]
    rows = lay_out([prefix + prompt for prompt, _ in items], trees, prefix_length=len(prefix))
    with torch.no_grad():
        encoded = forward.encode_prefix(rows.prefix_ids) if prefix else None
        hidden = forward.hidden_states(rows, encoded)
        for b, (prompt, _) in enumerate(items):
            for beginning, place in beginnings(listed[b]):
                wanted = expected(model, [*prefix, *prompt, *beginning])
                torch.testing.assert_close(hidden[b, place], wanted, atol=2e-5, rtol=2e-5)


def test_a_model_that_follows_a_mask_reads_branches_in_one_row_and_one_with_a_window_does_not():
    assert TransformersForward(llama())._follows_mask
    assert not TransformersForward(mistral())._follows_mask


@pytest.mark.parametrize("name", ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"])
def test_gpt2_with_a_variation_runs_as_transformers_wrote_it(name):
    assert GPT2Forward.can_run(gpt2())
    assert not GPT2Forward.can_run(gpt2(**{name: True}))
    assert not GPT2Forward.can_run(gpt2(scale_attn_weights=False))
    assert not GPT2Forward.can_run(llama())


@pytest.mark.parametrize("prefix", [(), (3, 4, 5)])
@pytest.mark.parametrize("make", [gpt2, lambda: with_adapters(gpt2())], ids=["whole", "adapters"])
def test_gradients_are_those_of_transformers(prefix, make):
    model = make().double()  # so that what rounds is told from what is wrong, whatever weights were drawn
    forward, listed = GPT2Forward(model), PhraseSet.of([(1, 2), (7, 8)])
    prompts = [(9, 9, 1), (8,), (7, 6, 5, 4)]
    rows = lay_out([prefix + prompt for prompt in prompts], [*listed.trees] * 3, prefix_length=len(prefix))
    encoded = forward.encode_prefix(rows.prefix_ids) if prefix else None
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(3, 3, 16, generator=generator, dtype=torch.float64)
    (forward.hidden_states(rows, encoded) * weights).sum().backward()
    learning = {name: p for name, p in model.transformer.named_parameters() if p.requires_grad}
    ours = {name: parameter.grad.clone() for name, parameter in learning.items()}
    model.zero_grad()
    for b, prompt in enumerate(prompts):
        for beginning, place in beginnings(listed):
            (expected(model, [*prefix, *prompt, *beginning]) * weights[b, place]).sum().backward()
    for name, parameter in learning.items():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-9, rtol=1e-7, msg=name)


def test_weights_changed_in_place_are_seen():
    model = gpt2()
    forward, rows = GPT2Forward(model), lay_out([(1, 2, 3)], [NO_TREE])
    with torch.no_grad():
        before = forward.hidden_states(rows, None)
        model.transformer.h[0].mlp.c_fc.weight.mul_(1.5)
        after = forward.hidden_states(rows, None)
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after[0, 0], expected(model, [1, 2, 3]), atol=1e-5, rtol=1e-5)
