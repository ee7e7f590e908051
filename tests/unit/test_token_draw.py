"""Tokens drawn with few random numbers are those that all of them would draw."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service import sampling, token_draw
from service.action_draw import STREAM_HINT
from service.sampling import MAX_GUMBEL, gumbels, gumbels_at
from service.token_draw import TokenDraws, draw_tokens


def draws(temperatures, seed=0):
    count = len(temperatures)
    seeds = np.arange(seed, seed + count, dtype=np.int64)
    return TokenDraws(np.array(temperatures, dtype=np.float32), seeds, seeds * 3)


def drawn_with_every_number(log_probs, how):
    noise = torch.from_numpy(gumbels(how.seeds, how.steps, log_probs.shape[1], stream=STREAM_HINT))
    return (log_probs + torch.from_numpy(how.temperatures)[:, None] * noise).argmax(dim=-1, keepdim=True)


@settings(max_examples=200)
@given(
    temperatures=st.lists(st.sampled_from([0, 1e-3, 0.3, 0.7, 1.0, 3.0, 100.0]), min_size=1, max_size=6),
    spread=st.sampled_from([0.0, 1.0, 5.0, 30.0]),
    seed=st.integers(0, 2**32),
)
def test_the_token_is_the_one_that_numbers_for_all_would_draw(temperatures, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(len(temperatures), 60, generator=generator)
    how = draws(temperatures, seed)
    log_probs = logits.log_softmax(-1)
    assert draw_tokens(log_probs, how).tolist() == drawn_with_every_number(log_probs, how).tolist()


def test_at_temperature_0_the_lowest_of_the_likeliest_is_drawn():
    log_probs = torch.tensor([[0.1, 0.4, 0.4, 0.1]]).log()
    assert draw_tokens(log_probs, draws([0.0])).tolist() == [[1]]


def test_a_number_is_made_for_those_tokens_alone_that_may_win(monkeypatch):
    made = []
    monkeypatch.setattr(
        token_draw,
        "gumbels_at",
        lambda *keys, stream: made.append(keys[2].tolist()) or gumbels_at(*keys, stream=stream),
    )
    log_probs = torch.tensor([[0.0, -40.0, -1.0, -40.0], [0.0, -1.0, -40.0, -40.0]]).log_softmax(-1)
    draw_tokens(log_probs, draws([0.7, 0.0]))
    assert made == [[0], [0, 2]]  # none for the second row


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 600)])
def test_single_numbers_are_those_of_the_whole_table(shape):
    seeds, items = np.array([5, 2**53 - 1, 7, 1][: shape[0]]), np.array([2**40, 0, 3, 1][: shape[0]])
    table = gumbels(seeds, items, shape[1], stream=3)
    rows, slots = np.indices(shape).reshape(2, -1)
    assert gumbels_at(seeds[rows], items[rows], slots, stream=3).tolist() == table.reshape(-1).tolist()


def test_no_number_is_above_the_largest():
    words = np.array([0, 2**31, 2**32 - 2**8 - 1, 2**32 - 1], dtype=np.uint64)
    numbers = sampling._gumbels_of(sampling._between_0_and_1(words))
    assert numbers.tolist() == sorted(numbers.tolist())
    assert float(numbers[-1]) == MAX_GUMBEL > float(numbers[-2])
