"""GGUF files, on a Llama of one layer that the tests write themselves."""

import json

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize

from hintwise import gguf_file
from hintwise.action_batch import collate
from hintwise.errors import ModelNotFound
from hintwise.language_model import load_language_model
from hintwise.model_names import EMBEDDED_DIR
from hintwise.policy import Policy
from hintwise.tokens import TextEncoder

WIDTH, INNER, HEADS, POSITIONS = 32, 64, 4, 96
TEXT = "state: cart 20 speed 3\naction:"


def tensors(vocabulary):
    """Random weights under llama.cpp's names, in the shapes that torch has."""
    generator = np.random.default_rng(0)

    def random(*shape):
        return generator.normal(0, 0.2, shape).astype(np.float32)

    layer = {name: random(WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    layer |= {"ffn_gate": random(INNER, WIDTH), "ffn_up": random(INNER, WIDTH), "ffn_down": random(WIDTH, INNER)}
    layer |= {name: np.ones(WIDTH, np.float32) for name in ("attn_norm", "ffn_norm")}
    named = {f"blk.0.{name}.weight": array for name, array in layer.items()}
    return named | {"token_embd.weight": random(vocabulary, WIDTH), "output_norm.weight": np.ones(WIDTH, np.float32)}


def write(path, *, leave_out=(), changed=None):
    """Writes the model with its matrices in blocks of 8 bits, and returns the path as a name."""
    tokenizer = json.loads((EMBEDDED_DIR / "tokenizer.json").read_text())["model"]
    words = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([TokenType.NORMAL] * len(words))
    writer.add_token_merges([" ".join(merge) if isinstance(merge, list) else merge for merge in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, array in (tensors(len(words)) | (changed or {})).items():
        if name in leave_out:
            continue
        if array.ndim == 1:
            writer.add_tensor(name, array)
        else:
            blocks = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(array, blocks), raw_dtype=blocks)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(path):
    return load_language_model(path)


def test_the_file_says_what_the_model_is(model, path):
    assert model.name == path
    assert model.architecture.startswith(f"llama 1x{WIDTH} vocabulary ")
    assert model.max_tokens == POSITIONS
    assert not model.model.training


def test_every_block_is_unpacked_to_fp32(model):
    state = model.model.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    embeddings = torch.from_numpy(tensors(len(model.tokenizer))["token_embd.weight"])
    assert state["model.embed_tokens.weight"].shape == embeddings.shape
    assert 0 < (state["model.embed_tokens.weight"] - embeddings).abs().max() < 0.01  # what 8 bits lose


def test_digests_repeat(model, path):
    again = load_language_model(path)
    assert (again.sha256, again.tokenizer_sha256) == (model.sha256, model.tokenizer_sha256)


@pytest.mark.parametrize("text", [TEXT, " push left", "pole  20\n\n", "żółw 41", ""])
def test_ids_are_those_of_the_files_own_tokenizer(model, text):
    encoder = TextEncoder(model.tokenizer, max_tokens=POSITIONS)
    assert list(encoder.encode(text)) == model.tokenizer.encode(text, add_special_tokens=False)
    assert model.tokenizer.decode(encoder.encode(text)) == text


def test_a_policy_scores_as_one_forward_a_phrase_does(model):
    encoder, policy = TextEncoder(model.tokenizer, max_tokens=POSITIONS), Policy(model)
    prompt, phrases = encoder.encode(TEXT), encoder.phrases(("push left", "push right", "wait"))
    with torch.no_grad():
        (scores,) = policy(collate([prompt], [phrases])).scores.tolist()
        for score, phrase in zip(scores, phrases.token_ids, strict=True):
            log_probs = model.model(input_ids=torch.tensor([[*prompt, *phrase]])).logits[0].log_softmax(-1)
            expected = sum(log_probs[len(prompt) - 1 + j, token].item() for j, token in enumerate(phrase))
            assert score == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_nothing_is_printed_while_it_is_read(path, capsys):
    load_language_model(path)
    assert capsys.readouterr() == ("", "")


def test_files_beside_it_are_not_heeded(model, path, tmp_path):
    linked = tmp_path / "tiny.gguf"
    linked.symlink_to(path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "tokenizer.json").write_text((EMBEDDED_DIR / "tokenizer.json").read_text())
    found = load_language_model(str(linked))
    assert (found.sha256, found.tokenizer_sha256) == (model.sha256, model.tokenizer_sha256)


@pytest.mark.parametrize("package", gguf_file.PACKAGES)
def test_a_missing_package_is_one_line_that_says_what_to_install(path, package, monkeypatch):
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(ModelNotFound, match=rf"install {package}: pip install 'hintwise\[gguf\]'"):
        load_language_model(path)


def test_a_file_that_is_not_there_is_not_looked_up_anywhere():
    with pytest.raises(ModelNotFound, match=r"there is no file 'tiny-models/none\.gguf'; choose 'embedded'"):
        load_language_model("tiny-models/none.gguf")


def damaged(path, how):
    data = path.read_bytes()
    match how:
        case "empty":
            return b""
        case "another kind":
            return b"PK\x03\x04" * 100
        case "cut in its header":
            return data[:1000]
        case "cut after its magic":
            return data[:10]
        case "cut in its weights":
            return data[: len(data) * 9 // 10]
        case "cut by a byte":
            return data[:-1]
        case _:  # counts of tensors and entries
            return data[:8] + b"\xff" * 16 + data[24:]


@pytest.mark.parametrize(
    "how",
    [
        "empty", "another kind", "cut after its magic", "cut in its header", "cut in its weights", "cut by a byte",
        "counts",
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line(path, tmp_path, how):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(damaged(type(broken)(path), how))
    with pytest.raises(ModelNotFound, match=r"broken\.gguf' could not be loaded: .*damaged or incomplete") as error:
        load_language_model(str(broken))
    assert "\n" not in str(error.value)


def test_a_file_that_lacks_a_tensor_is_refused_not_filled_with_random_numbers(tmp_path):
    name = write(tmp_path / "lacking.gguf", leave_out=["blk.0.attn_q.weight"])
    with pytest.raises(ModelNotFound, match=r"lacks 1 of its tensors, model\.layers\.0\.self_attn\.q_proj"):
        load_language_model(name)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    name = write(tmp_path / "nan.gguf", changed={"output_norm.weight": np.full(WIDTH, np.nan, np.float32)})
    with pytest.raises(ModelNotFound, match="not finite"):
        load_language_model(name)
