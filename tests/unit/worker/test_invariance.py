"""The promise of a potential, in worlds small enough to solve: the optimal actions are the unshaped ones.

A plan is worked out backwards over (state, time), so that hints may change with time, as they do in training. What a
transition earns is what `Potential` and `Penalty` say, asked of a scorer that says anything.
"""

import gymnasium
import numpy as np
import pytest

from hintwise.schemas import RewardResponse, RewardResult
from worker.guidance.earnings import Move, Penalty, Potential
from worker.guidance.progress import Progress
from worker.text_env import State

GAMMA, HORIZON = 0.9, 12


class AnyScorer:
    """Says a number that is drawn for each question, the same each time it is asked."""

    def __init__(self, seed, low):
        self._generator, self._low, self._said = np.random.default_rng(seed), low, {}

    def reward(self, items, *, scorer, gamma=0.99):
        return RewardResponse(
            scorer=scorer, model="any", model_sha256="0" * 64, results=[self._result(item) for item in items]
        )

    def _result(self, item):
        key = item.hint, item.observation, item.action
        if key not in self._said:
            self._said[key] = float(self._generator.uniform(self._low, 1))
        return RewardResult(reward=self._said[key], potential=abs(self._said[key]))


def frozen_lake():
    table = gymnasium.make("FrozenLake-v1", is_slippery=False).unwrapped.P
    return {s: {a: outcomes[0][1:] for a, outcomes in actions.items()} for s, actions in table.items()}


def chain():
    """Five places in a row; the right end pays and ends, left is a step back."""
    return {s: {0: (max(s - 1, 0), 0.0, False), 1: (s + 1, float(s == 3), s == 3)} for s in range(4)}


def tempting_loop():
    """Two places that one can change between for ever, and a way out of each that pays and ends."""
    return {s: {0: (1 - s, 0.0, False), 1: (2, 1.0, True)} for s in range(2)}


WORLDS = {"frozen lake": frozen_lake, "chain": chain, "loop": tempting_loop}


def told(s, t, changing):
    """A state with the hint in force at time t."""
    return State(f"place {s}", ("0", "1", "2", "3"), advice=f"hint {t // 3}" if changing else "hint")


def best_actions(world, earned):
    """Returns the optimal actions of each (state, time), for what transitions earn besides their reward."""
    values, best = dict.fromkeys(world, 0.0), {}
    for t in reversed(range(HORIZON)):
        worth = {
            s: {
                a: reward + earned(s, a, t, there, ended) + (0.0 if ended else GAMMA * values[there])
                for a, (there, reward, ended) in actions.items()
            }
            for s, actions in world.items()
        }
        values = {s: max(of_actions.values()) for s, of_actions in worth.items()}
        for s, of_actions in worth.items():
            best[s, t] = {a for a, value in of_actions.items() if value > values[s] - 1e-6}
    return best


def by_potential(scorer, changing):
    potential = Potential(Progress(scorer, None).of, gamma=GAMMA, num_envs=1)

    def earned(s, a, t, there, ended):
        before, after = told(s, t, changing), told(there, t + 1, changing)
        potential.begin({0: before})
        found = potential.follow({0: Move(before, str(a), None if ended else after)})[0]
        if t == HORIZON - 1 and not ended:  # the plan ends here and nothing is bootstrapped: so does the potential
            found -= GAMMA * potential.memory(0)
        return found

    return earned


@pytest.mark.parametrize("changing", [False, True], ids=["one hint", "changing hints"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("world", WORLDS)
def test_a_potential_leaves_every_optimal_action_what_it_is(world, seed, changing):
    world = WORLDS[world]()
    plain = best_actions(world, lambda *_: 0.0)
    assert best_actions(world, by_potential(AnyScorer(seed, 0.0), changing)) == plain


@pytest.mark.parametrize("world", WORLDS)
def test_the_same_numbers_paid_as_they_are_change_the_optimum(world):
    """So that the test above can fail: neither a bonus nor a penalty, which wrong hints earn too, is a potential."""
    world = WORLDS[world]()
    plain = best_actions(world, lambda *_: 0.0)
    bonus, fine = (
        [best_actions(world, pays(AnyScorer(seed, -1.0))) for seed in range(5)] for pays in (by_bonus, by_penalty)
    )
    assert any(best != plain for best in bonus)
    assert any(best != plain for best in fine)


def by_penalty(scorer):
    penalty = Penalty(scorer, None)

    def earned(s, a, t, there, ended):
        return 2 * penalty.follow({0: Move(told(s, t, changing=False), str(a), None)})[0]

    return earned


def by_bonus(scorer):
    penalty = Penalty(scorer, None)

    def earned(s, a, t, there, ended):
        item = penalty._obedience._item(told(s, t, changing=False), str(a))
        return 2 * abs(scorer.reward([item], scorer="alignment").results[0].reward)

    return earned


def test_a_loop_is_walked_for_ever_for_a_bonus_and_never_for_a_potential():
    world = tempting_loop()

    def bonus(s, a, t, there, ended):
        return 0.5 if a == 0 else 0.0

    assert best_actions(world, bonus)[0, 0] == {0}
    assert best_actions(world, by_potential(AnyScorer(3, 0.0), changing=True))[0, 0] == {1}
