"""The GPT-2 that writes gives transformers' logits, whatever the rows, and computes no more than it must."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from hintwise import gpt2_writing
from hintwise.gpt2_writing import ROOM_TOKENS, GPT2Writing
from hintwise.language_model import LanguageModel
from service.growing_rows import GrowingRows

VOCABULARY = 50
TOKENS = st.integers(1, VOCABULARY - 1)
SHARED = (3, 1, 4, 1, 5)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GPT2Config(n_layer=3, n_embd=32, n_head=2, vocab_size=VOCABULARY, n_positions=128, initializer_range=0.3)
    return LanguageModel("small", GPT2LMHeadModel(config).eval(), None, "", "", None)


@pytest.fixture(autouse=True)
def small_thresholds(monkeypatch):
    """Few and short rows are enough then for every path to be taken."""
    monkeypatch.setattr(gpt2_writing, "MIN_SHARED_TOKENS", 6)
    monkeypatch.setattr(gpt2_writing, "MIN_PADDING_SAVED", 8)


class Spied(GPT2Writing):
    """Notes the tokens of each forward, (rows, columns), and those that were read as a common beginning."""

    def __init__(self, model):
        super().__init__(model)
        self.shapes, self.prefixes = [], []

    def _through(self, hidden, *others):
        self.shapes.append(tuple(hidden.shape[:2]))
        return super()._through(hidden, *others)

    def encode_prefix(self, prefix_ids):
        self.prefixes.append(tuple(prefix_ids.tolist()))
        return super().encode_prefix(prefix_ids)


@torch.inference_mode()
def written(language_model, reader, prompts, choices, num_steps):
    """Returns the logits of every step; before step n the rows of `choices[n]` go on alone, as often as named."""
    rows, logits = GrowingRows(language_model, prompts), []
    for step in range(num_steps):
        logits.append(rows.read(reader))
        if wanted := [row % len(rows) for row in choices.get(step, ())]:
            rows.select(wanted)
        rows.append([(7 * step + row) % VOCABULARY for row in range(len(rows))])
    return logits


prompts = st.tuples(
    st.sampled_from([(), SHARED]), st.lists(st.lists(TOKENS, min_size=1, max_size=20), min_size=1, max_size=6)
).map(lambda drawn: [(*drawn[0], *own) for own in drawn[1]])
choices = st.dictionaries(st.integers(0, 5), st.lists(st.integers(0, 5), min_size=1, max_size=7), max_size=3)


@settings(max_examples=60)
@given(prompts=prompts, choices=choices, longest_first=st.booleans(), max_tokens=st.sampled_from([None, 1, 30]))
def test_every_step_gives_the_logits_that_transformers_gives(model, prompts, choices, longest_first, max_tokens):
    class Limited(GPT2Writing):
        max_forward_tokens = max_tokens

    rows = sorted(prompts, key=len, reverse=True) if longest_first else prompts
    ours = written(model, Limited(model.model), rows, choices, 8)
    theirs = written(model, model.model, rows, choices, 8)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prompts", [[SHARED * 2, SHARED], [SHARED]], ids=["with a gap", "alone"])
def test_rows_outgrow_the_room_that_was_made(model, prompts):
    num_steps = 2 * ROOM_TOKENS + 3
    ours = written(model, GPT2Writing(model.model), prompts, {ROOM_TOKENS: [0, 0]}, num_steps)
    theirs = written(model, model.model, prompts, {ROOM_TOKENS: [0, 0]}, num_steps)
    torch.testing.assert_close(ours[-1], theirs[-1], atol=1e-4, rtol=1e-4)


def test_what_stands_in_a_gap_is_never_seen_whatever_the_memory_held(model, monkeypatch):
    """Fresh memory may hold anything, also what is no number."""
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *arguments: empty(*arguments).fill_(torch.nan))
    prompts = [SHARED * 4, SHARED * 2, SHARED[:2]]
    assert all(logits.isfinite().all() for logits in written(model, GPT2Writing(model.model), prompts, {}, 4))


def test_what_prompts_begin_with_is_read_once(model):
    reader = Spied(model.model)
    written(model, reader, [(*SHARED, 9, 8), (*SHARED, 2, 8), (*SHARED, 7)], {}, 2)
    assert reader.prefixes == [SHARED]
    assert reader.shapes == [(3, 2), (3, 1)]


def test_one_token_is_each_row_s_own_though_one_prompt_begins_another(model):
    reader = Spied(model.model)
    written(model, reader, [(*SHARED, 9), SHARED, (*SHARED, 8)], {}, 1)
    assert reader.prefixes == [SHARED[:-1]]


def test_a_beginning_that_saves_too_little_is_not_read_apart(model):
    reader = Spied(model.model)
    written(model, reader, [(1, 2, 3, 5), (1, 2, 3, 4)], {}, 1)
    assert (reader.prefixes, reader.shapes) == ([], [(2, 4)])


def test_long_prompts_do_not_make_short_ones_longer(model):
    reader = Spied(model.model)
    written(model, reader, [(8,) * 20, (7,) * 19, (6,) * 5, (5,) * 4], {}, 1)
    assert reader.shapes == [(2, 20), (2, 5)]


def test_no_forward_has_more_tokens_than_are_fast(model):
    class Limited(Spied):
        max_forward_tokens = 12

    reader = Limited(model.model)
    written(model, reader, [(k, 3, 3, 3) for k in range(1, 8)], {}, 1)
    assert reader.shapes == [(3, 4), (3, 4), (1, 4)]
