"""The promise of a potential, in worlds small enough to solve: the optimal actions are the unshaped ones.

A plan is worked out backwards over (state, time), so that hints may change with time, as they do in training; where
they are held until they are done, over (state, time, what is held and completed). What a transition earns is what the
forms themselves say, asked of a scorer that says anything.
"""

from functools import cache

import gymnasium
import numpy as np
import pytest

from hintwise.schemas import RewardResponse, RewardResult
from worker.guidance import hints as held_hints
from worker.guidance.earnings import Advice, Bonus, Move, Penalty, Potential
from worker.guidance.hints import Hints
from worker.guidance.progress import Progress
from worker.text_env import State

GAMMA, HORIZON, WALK = 0.9, 12, 8


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


# --- hints that are held until they are done


class Goals:
    """Asks for one of two goals, by the state."""

    def hints(self, states):
        return [f"1 to reach {int(state.text.split()[1]) % 2}" for state in states]


class Walk:
    """The optimal actions of a world whose hints are held until they are done, wherever its steps may lead.

    Args:
        world: It.
        how_far: Says how far hints have been carried out.
        pays: A form of reward for following them.
        horizon: Steps of an episode.
    """

    def __init__(self, world, how_far, pays, horizon):
        self._world, self._pays, self._horizon = world, pays, horizon
        self._hints = Hints(Goals(), 1, "done", how_far)
        self.best, self.completed = {}, set()
        self.value = cache(self.value)

    def optimal(self):
        """Returns the optimal actions wherever a walk may come to, by state, time and all that is held there."""
        for s in self._world:
            self._hints.follow({0: told_by(s)}, began=[0])
            held = self._hints.now[0]
            self._pays.begin({0: told_by(s, held)})
            self.value(s, 0, held, self._pays.memory(0))
        return self.best

    def value(self, s, t, held, memory):
        if t == self._horizon:
            return -memory  # nothing is bootstrapped where the plan ends: so does the potential
        worth = {a: self._worth(s, a, t, held, memory) for a in self._world[s]}
        largest = max(worth.values())
        self.best[s, t, held] = {a for a, value in worth.items() if value > largest - 1e-6}
        self.completed.add(len(held.completed))
        return largest

    def _worth(self, s, a, t, held, memory):
        there, reward, ended = self._world[s][a]
        now = held
        if not ended:
            self._hints.now[0] = held
            self._hints.follow({0: told_by(there)}, began=[])
            now = self._hints.now[0]
        self._pays.remember(0, memory)
        after = None if ended else told_by(there, now)
        earned = self._pays.follow({0: Move(told_by(s, held), str(a), after, held, now)})[0]
        later = 0.0 if ended else GAMMA * self.value(there, t + 1, now, self._pays.memory(0))
        return reward + earned + later


class PaysNothing:
    def begin(self, states):
        pass

    def follow(self, moves):
        return dict.fromkeys(moves, 0.0)

    def memory(self, i):
        return 0.0

    def remember(self, i, memory):
        pass


def told_by(s, held=None):
    return State(f"place {s}", ("0", "1", "2", "3"), advice=held.hint if held else None)


@pytest.fixture
def often_done(monkeypatch):
    """Random progress is enough now and then, and no hint is held for long."""
    monkeypatch.setattr(held_hints, "DONE", 0.6)
    monkeypatch.setattr(held_hints, "MAX_HELD_STEPS", 3)


@pytest.mark.usefixtures("often_done")
@pytest.mark.parametrize("max_hints", [1, 3])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("world", WORLDS)
def test_a_potential_that_counts_completed_hints_leaves_every_optimal_action_what_it_is(world, seed, max_hints):
    world, how_far = WORLDS[world](), Progress(AnyScorer(seed, 0.0), None).of
    plain = Walk(world, how_far, PaysNothing(), WALK)
    shaped = Walk(world, how_far, Potential(how_far, gamma=GAMMA, num_envs=1, max_hints=max_hints), WALK)
    assert shaped.optimal() == plain.optimal()
    assert len(plain.completed) > 1  # somewhere a hint was completed


@pytest.mark.usefixtures("often_done")
def test_a_bonus_changes_the_optimum_even_though_each_goal_is_paid_once():
    """So that the test above can fail, and because the bonus promises nothing."""
    world = tempting_loop()
    changed = []
    for seed in range(5):
        how_far = Progress(AnyScorer(seed, 0.0), None).of
        plain, paid = (Walk(world, how_far, pays, WALK).optimal() for pays in (PaysNothing(), Bonus(1)))
        changed.append(paid != plain)
    assert any(changed)


# --- what promises nothing


@pytest.mark.parametrize("world", WORLDS)
def test_the_same_numbers_paid_as_they_are_change_the_optimum(world):
    """So that the tests above can fail: neither advice nor a bonus per step nor a penalty is a potential."""
    world = WORLDS[world]()
    plain = best_actions(world, lambda *_: 0.0)
    for pays in (by_advice, by_bonus, by_penalty):
        assert any(best_actions(world, pays(AnyScorer(seed, -1.0))) != plain for seed in range(5))


def by_advice(scorer):
    return by_form(Advice(scorer, None))


def by_penalty(scorer):
    return by_form(Penalty(scorer, None))


def by_bonus(scorer):
    """What advice says at each step, never less than nothing."""
    earned = by_advice(scorer)
    return lambda *move: abs(earned(*move))


def by_form(form):
    def earned(s, a, t, there, ended):
        return 2 * form.follow({0: Move(told(s, t, changing=False), str(a), None)})[0]

    return earned


def test_a_loop_is_walked_for_ever_for_a_bonus_and_never_for_a_potential():
    world = tempting_loop()

    def bonus(s, a, t, there, ended):
        return 0.5 if a == 0 else 0.0

    assert best_actions(world, bonus)[0, 0] == {0}
    assert best_actions(world, by_potential(AnyScorer(3, 0.0), changing=True))[0, 0] == {1}
