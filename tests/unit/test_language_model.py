import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from hintwise.action_batch import collate
from hintwise.errors import ModelNotFound
from hintwise.language_model import load_language_model
from hintwise.model_names import EMBEDDED_DIR
from hintwise.policy import Policy
from hintwise.tokens import TextEncoder

LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def saved(model, directory):
    """A directory as save_pretrained writes it, with the embedded tokenizer."""
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(EMBEDDED_DIR).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def vocabulary():
    return len(AutoTokenizer.from_pretrained(EMBEDDED_DIR))


def test_the_embedded_model_is_a_small_gpt2_with_a_long_context(embedded):
    assert embedded.architecture.startswith("gpt2 ")
    assert embedded.max_tokens >= 1024
    assert 100_000 < embedded.num_parameters < 5_000_000
    assert not embedded.model.training


def test_digests_are_the_same_for_every_load_and_differ_between_models(embedded, tmp_path, vocabulary):
    again = load_language_model("embedded")
    assert (again.sha256, again.tokenizer_sha256) == (embedded.sha256, embedded.tokenizer_sha256)
    torch.manual_seed(1)
    other = load_language_model(
        saved(GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=1, n_head=2, **ENDS)), tmp_path)
    )
    assert other.sha256 != embedded.sha256
    assert other.tokenizer_sha256 == embedded.tokenizer_sha256


ENDS = {"bos_token_id": 0, "eos_token_id": 0}


def test_a_directory_with_another_causal_architecture_acts(tmp_path, vocabulary):
    torch.manual_seed(0)
    model = load_language_model(saved(LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **LLAMA, **ENDS)), tmp_path))
    assert model.architecture == f"llama 2x32 vocabulary {vocabulary}"
    encoder = TextEncoder(model.tokenizer, max_tokens=model.max_tokens)
    batch = collate([encoder.encode("state: cart 20\naction:")], [encoder.phrases(("push left", "push right"))])
    with torch.no_grad():
        assert Policy(model)(batch).log_probs.exp().sum().item() == pytest.approx(1)


def test_an_architecture_that_caps_its_logits_is_refused_not_scored_wrongly(tmp_path, vocabulary):
    torch.manual_seed(0)
    config = Gemma2Config(vocab_size=vocabulary, head_dim=8, final_logit_softcapping=0.01, **LLAMA, **ENDS)
    directory = saved(Gemma2ForCausalLM(config), tmp_path)
    with pytest.raises(ModelNotFound, match="changes its logits after the output layer"):
        load_language_model(directory)


def test_pickled_weights_are_never_read(tmp_path, embedded):
    saved(embedded.model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(embedded.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=r"no file named model\.safetensors"):
        load_language_model(str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "~model", ""])
def test_what_is_neither_directory_nor_hub_id_is_one_line_with_the_choices(name):
    with pytest.raises(ModelNotFound) as error:
        load_language_model(name)
    assert "neither a directory nor a hub id; choose 'embedded'" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_directory_is_one_line_with_the_choices(tmp_path):
    with pytest.raises(ModelNotFound, match=r"could not be loaded: .*choose 'embedded'") as error:
        load_language_model(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_hub_id_goes_through_transformers_and_fails_clearly_without_a_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match=r"model 'openai-community/gpt2' could not be loaded: .*choose 'embedded'"):
        load_language_model("openai-community/gpt2")


def test_a_misspelt_embedded_is_not_looked_up_anywhere():
    with pytest.raises(ModelNotFound, match="did you mean 'embedded'"):
        load_language_model("embeded")
