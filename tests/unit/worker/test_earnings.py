"""What each form of reward for guidance pays, and how far it may take an episode's rewards from the environment's."""

from itertools import pairwise

import numpy as np
import pytest

from worker.envs import TextEnvs
from worker.guidance.earnings import Advice, Bonus, Move, Penalty, Potential, earnings
from worker.guidance.guided_envs import GuidedEnvs
from worker.guidance.hints import DONE, Held
from worker.guidance.progress import Progress
from worker.guidance.settings import GuidanceSettings
from worker.stopwatch import Stopwatch
from worker.text_env import State

LEFT_RIGHT = ("push left", "push right")
SAID = State("a", LEFT_RIGHT, advice="push left")


def held(*completed, goal="to go on"):
    return Held(hint="push left to go on", goal=goal, completed=completed)


def move(was, now, *, terminal=False):
    return Move(SAID, "push left", None if terminal else SAID, was, now)


def test_advice_pays_for_obedience_and_takes_from_disobedience(service):
    moves = {0: Move(SAID, "push left", SAID), 1: Move(SAID, "push right", None)}
    assert Advice(service, None).follow(moves) == {0: 1.0, 1: -1.0}
    assert Advice(service, None).follow({2: Move(SAID._replace(advice=""), "push left", SAID)}) == {2: 0.0}


def test_a_bonus_is_paid_for_what_a_move_completed():
    moves = {0: move(held(), held("to a")), 1: move(held("to a"), held("to a")), 2: move(held(), held(), terminal=True)}
    assert Bonus(4).follow(moves) == {0: 0.25, 1: 0.0, 2: 0.0}


def counting(max_hints, how_far=0.5, gamma=1.0):
    return Potential(lambda states: [how_far] * len(states), gamma=gamma, num_envs=1, max_hints=max_hints)


def test_a_potential_counts_what_was_completed():
    potential = counting(4)
    potential.begin({0: SAID})
    assert potential.memory(0) == 0.5 / 4
    potential.follow({0: move(held(), held("to a"))})
    assert potential.memory(0) == 1.5 / 4
    potential.follow({0: move(held("to a"), held("to a", "to b"), terminal=True)})
    assert potential.memory(0) == 0.0


def test_a_potential_stays_within_0_and_1_however_much_is_completed():
    potential = counting(2)
    potential.follow({0: move(held(), held("to a", "to b", "to c"))})
    assert potential.memory(0) == 1.0
    potential.follow({0: move(held(), held("to a", "to b"))})
    assert potential.memory(0) == 1.0


def test_a_goal_that_was_completed_has_no_progress_to_make():
    potential = counting(4)
    potential.follow({0: move(held(), held("to a", goal="to a"))})
    assert potential.memory(0) == 1 / 4


def test_a_potential_that_counts_nothing_is_the_progress_of_the_hint():
    potential = counting(None)
    potential.follow({0: move(held(), held("to a"))})
    assert potential.memory(0) == 0.5


@pytest.mark.parametrize("terminal", [True, False])
def test_potentials_add_up_while_goals_are_completed(terminal):
    gamma, generator = 0.9, np.random.default_rng(1)
    potential = Potential(lambda states: generator.random(len(states)), gamma=gamma, num_envs=1, max_hints=3)
    potential.begin({0: SAID})
    first, total = potential.memory(0), 0.0
    stages = [held(*[f"to {k}" for k in range(n)]) for n in (0, 0, 1, 1, 2, 4, 4)]
    for t, (was, now) in enumerate(pairwise(stages)):
        total += gamma**t * potential.follow({0: move(was, now, terminal=terminal and t == len(stages) - 2)})[0]
    assert total == pytest.approx(-first + gamma ** (len(stages) - 1) * potential.memory(0))
    assert (potential.memory(0) == 0.0) == terminal


@pytest.mark.parametrize(
    ("settings", "paying", "max_hints"),
    [
        ({"guidance_reward": "penalty"}, Penalty, None),
        ({"guidance_reward": "advice"}, Advice, None),
        ({"guidance_reward": "bonus", "hint_every": "done", "max_hints": 2}, Bonus, None),
        ({"guidance_reward": "potential"}, Potential, None),
        ({"guidance_reward": "potential", "hint_every": "done", "max_hints": 2}, Potential, 2),
    ],
)
def test_the_settings_say_who_pays(service, settings, paying, max_hints):
    settings = GuidanceSettings(guidance="both", **settings)
    pays = earnings(settings, service, None, Progress(service, None), gamma=0.9, num_envs=1)
    assert type(pays) is paying
    assert getattr(pays, "_max_hints", None) == max_hints


# --- the cap of an episode


class Pays:
    """Pays the same for every move."""

    def __init__(self, each):
        self.each = each

    def begin(self, states):
        pass

    def follow(self, moves):
        return dict.fromkeys(moves, self.each)

    def memory(self, i):
        return 0.0

    def remember(self, i, memory):
        pass


class Source:
    def hints(self, states):
        return ["push left"] * len(states)


def guided(pays, form, *, source=None, total_steps=10**9, **settings):
    envs = TextEnvs("CartPole-v1", num_envs=2, run_seed=1, env_kwargs={"max_episode_steps": 8})
    return GuidedEnvs(
        envs,
        source or Source(),
        pays,
        GuidanceSettings(guidance="both", guidance_reward=form, guidance_gate=False, **settings),
        run_seed=1,
        total_steps=total_steps,
        stopwatch=Stopwatch(),
        how_far=lambda states: [DONE] * len(states),
    )


def added(envs, num_steps):
    """Returns what guidance added to the rewards of the first environment."""
    outcomes = [envs.step([step % 2, step % 2]) for step in range(num_steps)]
    assert all(np.allclose(outcome.rewards, 1 + outcome.shaping) for outcome in outcomes)
    return [outcome.shaping[0] for outcome in outcomes]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("form", "every"), [("advice", 1), ("bonus", "done")])
def test_an_episode_is_paid_up_to_the_cap_with_weight_and_all(form, every, sign):
    envs = guided(Pays(sign * 0.2), form, hint_every=every, guidance_cap=0.5, guidance_weight=1.0)
    assert added(envs, 16) == pytest.approx([sign * each for each in [0.2, 0.2, 0.1, 0, 0, 0, 0, 0] * 2])
    heavy = guided(Pays(sign * 0.2), form, hint_every=every, guidance_cap=0.5, guidance_weight=2.0)
    assert added(heavy, 8) == pytest.approx([sign * each for each in [0.4, 0.1, 0, 0, 0, 0, 0, 0]])


def test_what_was_paid_can_be_taken_back_within_the_cap():
    pays = Pays(0.4)
    envs = guided(pays, "advice", guidance_cap=0.5, guidance_weight=1.0)
    assert added(envs, 2) == pytest.approx([0.4, 0.1])
    pays.each = -0.8
    assert added(envs, 2) == pytest.approx([-0.8, -0.2])


@pytest.mark.parametrize("form", ["penalty", "potential"])
def test_what_has_no_cap_is_paid_to_the_last_bit(form):
    envs = guided(Pays(-1 / 3), form, guidance_weight=0.7)
    assert added(envs, 8) == [0.7 * (-1 / 3)] * 8


def test_a_cap_is_below_what_success_pays_unless_it_is_given():
    assert GuidanceSettings().guidance_cap < 1


@pytest.mark.parametrize("form", ["penalty", "potential", "advice", "bonus"])
def test_the_weight_of_every_form_is_the_same_all_through_an_episode(form):
    every = "done" if form == "bonus" else 1
    envs = guided(Pays(0.01), form, hint_every=every, guidance_weight=1.0, guidance_fraction=0.5, total_steps=64)
    assert added(envs, 24) == pytest.approx([0.01] * 8 + [0.005] * 8 + [0.0] * 8)


class Goals:
    """One of two goals, whatever the state: the other one at each asking."""

    def __init__(self):
        self.num_asked = 0

    def hints(self, states):
        self.num_asked += 1
        return [f"push left to reach {self.num_asked % 2}"] * len(states)


def test_a_goal_that_is_reached_again_and_again_is_paid_once():
    envs = guided(Bonus(4), "bonus", source=Goals(), hint_every="done", guidance_cap=0.9, guidance_weight=1.0)
    assert added(envs, 8) == pytest.approx([0.25, 0.25, 0, 0, 0, 0, 0, 0])
