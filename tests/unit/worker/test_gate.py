"""A gate that closes when what hints pay does not foretell what the environment pays."""

import numpy as np
import pytest

from worker.guidance.gate import FEWEST_EPISODES, NUM_EPISODES, STEP, Gate


def after(episodes):
    gate = Gate()
    for earned, episode_return in episodes:
        gate.note(earned, episode_return)
    return gate


def drawn(num, of, seed=1):
    generator = np.random.default_rng(seed)
    return [of(float(generator.random()), float(generator.random())) for _ in range(num)]


def test_it_stays_open_while_obeying_pays():
    assert after(drawn(100, lambda x, noise: (x, x + 0.5 * noise))).value == 1.0


@pytest.mark.parametrize(
    "of",
    [
        lambda x, noise: (x, -x),  # who obeys fails: wrong hints
        lambda x, noise: (x, noise),  # no matter who obeys
        lambda x, noise: (1.0, noise),  # a flatterer, who says the same of everything
    ],
)
def test_it_closes_when_obeying_does_not_pay(of):
    assert after(drawn(100, of)).value < 0.05


def test_nothing_is_concluded_from_equal_returns_or_few_episodes():
    assert after(drawn(100, lambda x, noise: (x, 0.0))).value == 1.0
    assert after(drawn(FEWEST_EPISODES - 1, lambda x, noise: (x, -x))).value == 1.0
    assert after(drawn(FEWEST_EPISODES, lambda x, noise: (x, -x))).value == pytest.approx(1 - STEP)


def test_it_opens_again_when_obeying_pays_again():
    gate = after(drawn(100, lambda x, noise: (x, -x)))
    for earned, episode_return in drawn(2 * NUM_EPISODES, lambda x, noise: (x, x)):
        gate.note(earned, episode_return)
    assert gate.value > 0.95


def test_it_goes_on_where_it_was():
    episodes = drawn(90, lambda x, noise: (x, noise))
    straight, first = after(episodes), after(episodes[:50])
    second = Gate()
    second.restore(*first.state())
    for episode in episodes[50:]:
        second.note(*episode)
    assert second.state() == straight.state()
