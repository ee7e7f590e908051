"""The committed embedded model is what its script builds."""

import pytest
import torch
from safetensors.torch import load_file

from hintwise.describers.numbers import NUM_BINS
from hintwise.model_names import EMBEDDED_DIR
from hintwise.models.build_embedded import HINT_WORDS, build
from hintwise.prompts import continuation
from hintwise.tokens import TextEncoder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("embedded")
    build(directory)
    return directory


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_tokenizer_and_configuration_are_as_built(built, name):
    assert (built / name).read_text() == (EMBEDDED_DIR / name).read_text()


def test_weights_are_as_built(built):
    ours, committed = (load_file(directory / "model.safetensors") for directory in (built, EMBEDDED_DIR))
    assert ours.keys() == committed.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], committed[name])


def test_a_word_of_a_hint_is_one_token(embedded):
    encoder = TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)
    assert {word: len(encoder.encode(continuation(word))) for word in HINT_WORDS} == dict.fromkeys(HINT_WORDS, 1)


def test_neighbouring_numbers_start_closer_than_distant_ones(embedded):
    encoder = TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)
    tokens = [encoder.encode(continuation(str(number)))[0] for number in range(NUM_BINS)]
    numbers = embedded.model.get_input_embeddings().weight[torch.tensor(tokens)].detach()
    near = (numbers[1:] - numbers[:-1]).norm(dim=1)
    far = (numbers[20:] - numbers[:-20]).norm(dim=1)
    assert near.max() < far.min()
