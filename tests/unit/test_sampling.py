import numpy as np
import pytest

from service.action_draw import Choice, draw_actions, item_seeds, log_softmax
from service.sampling import gumbels, philox, uniforms


def words(*values):
    return np.array(values, dtype=np.uint64)[:, None, None]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123's known answers for philox4x32-10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    assert tuple(philox(words(*counter), words(*key)).ravel().tolist()) == expected


def test_a_draw_depends_on_its_own_keys_alone():
    seeds, items = np.array([7, 8, 2**53 - 1]), np.array([0, 5, 3])
    together = uniforms(seeds, items, 6, stream=0)
    for i in range(3):
        alone = uniforms(seeds[i : i + 1], items[i : i + 1], 2, stream=0)
        assert (alone[0] == together[i, :2]).all()


def test_seed_item_slot_and_stream_all_matter():
    base = uniforms(np.array([7]), np.array([1]), 2, stream=0)[0]
    assert base[0] != base[1]
    for seed, item, stream in [(8, 1, 0), (7 + 2**32, 1, 0), (7, 2, 0), (7, 1 + 2**32, 0), (7, 1, 1)]:
        assert uniforms(np.array([seed]), np.array([item]), 1, stream=stream)[0, 0] != base[0]


def test_gumbel_argmax_samples_the_softmax():
    scores = np.log(np.array([0.1, 0.2, 0.7], dtype=np.float32))
    count = 20_000
    noise = gumbels(np.full(count, 3), np.arange(count), 3, stream=0)
    shares = np.bincount((scores + noise).argmax(axis=1), minlength=3) / count
    assert shares == pytest.approx([0.1, 0.2, 0.7], abs=0.015)  # four standard deviations of the largest share


def draw(scores, mode="sample", temperature=1.0, epsilon=0.0, seed=1):
    scores = np.array(scores, dtype=np.float32)
    counts = np.isfinite(scores).sum(axis=1)
    keys = zip(*item_seeds(seed, len(scores)), strict=True)
    return draw_actions(scores, counts, [Choice(mode, temperature, epsilon, *key) for key in keys])


def test_greedy_takes_the_lowest_index_on_ties_and_is_certain():
    drawn = draw([[1, 5, 5], [2, 2, 2]], mode="greedy")
    assert drawn.actions.tolist() == [1, 0]
    assert drawn.log_probs.tolist() == [0, 0]


def test_temperature_zero_is_greedy():
    drawn = draw([[1, 5, 5]], temperature=0.0)
    assert (drawn.actions[0], drawn.log_probs[0]) == (1, 0)


def test_sample_reports_the_log_prob_of_the_distribution_it_drew_from():
    scores = [[0.0, 1.0, 2.0]] * 400
    drawn = draw(scores, temperature=2.0)
    expected = log_softmax(np.array(scores, dtype=np.float32) / 2)
    assert drawn.log_probs == pytest.approx(expected[np.arange(400), drawn.actions])
    assert set(drawn.actions) == {0, 1, 2}


def test_illegal_slots_are_never_drawn():
    scores = [[0.0, -np.inf, -np.inf]] * 500
    for settings in ({}, {"temperature": 100.0}, {"mode": "epsilon", "epsilon": 1.0}, {"mode": "greedy"}):
        assert set(draw(scores, **settings).actions) == {0}


def test_epsilon_mixes_uniform_into_the_best():
    count = 20_000
    drawn = draw([[0.0, 3.0, 1.0]] * count, mode="epsilon", epsilon=0.3)
    shares = np.bincount(drawn.actions, minlength=3) / count
    assert shares == pytest.approx([0.1, 0.8, 0.1], abs=0.015)
    assert np.exp(drawn.log_probs[drawn.actions == 1][0]) == pytest.approx(0.8)
    assert np.exp(drawn.log_probs[drawn.actions == 0][0]) == pytest.approx(0.1)


def test_scalar_seed_counts_items_and_a_list_does_not():
    assert [part.tolist() for part in item_seeds(5, 3)] == [[5, 5, 5], [0, 1, 2]]
    assert [part.tolist() for part in item_seeds([5, 6, 7], 3)] == [[5, 6, 7], [0, 0, 0]]
    assert item_seeds(None, 2)[0][0] != item_seeds(None, 2)[0][0]


def test_requests_of_every_mode_share_a_batch_and_each_is_drawn_as_alone():
    scores = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    counts = np.full(60, 4)
    ways = [("sample", 1.0, 0.0), ("greedy", 1.0, 0.0), ("epsilon", 1.0, 0.7), ("sample", 5.0, 0.0), ("sample", 0.0, 0)]
    choices = [Choice(*ways[i % len(ways)], 11, i) for i in range(60)]
    together = draw_actions(scores, counts, choices)
    for i, choice in enumerate(choices):
        alone = draw_actions(scores[i : i + 1], counts[i : i + 1], [choice])
        assert together.actions[i] == alone.actions[0]
        assert together.log_probs[i] == pytest.approx(alone.log_probs[0])
    assert len(set(zip(together.actions.tolist(), scores.argmax(axis=1).tolist(), strict=True))) > 4  # not all greedy
