"""Language as reward: sums that promise what they say, at every kind of end, and what happens without an answer."""

from itertools import pairwise

import gymnasium
import numpy as np
import pytest

from hintwise.describers import describer_for
from hintwise.errors import InvalidRequest, ScorerChanged, Unavailable
from hintwise.wrappers import DescribeObservation, GuidanceReward, HintObservation
from hintwise.wrappers import vector as vectors

LEFT, DOWN, RIGHT, UP = 0, 1, 2, 3
ACTIONS = ["left", "down", "right", "up"]
TO_THE_GOAL = [DOWN, DOWN, RIGHT, RIGHT, DOWN, RIGHT]
INTO_A_HOLE = [RIGHT, DOWN]
ROUND_AND_ROUND = [RIGHT, LEFT, DOWN, UP]
GAMMA = 0.9


def told(number):
    """The text of a place on the lake."""
    return describer_for("FrozenLake-v1").describe(number)


def run(env, actions, seed=None):
    """What each step of an episode earned for guidance."""
    env.reset(seed=seed)
    earned = []
    for action in actions:
        _, reward, _, _, info = env.step(action)
        assert reward == info["original_reward"] + info["guidance_reward"]
        earned.append(info["guidance_reward"])
    return earned


def discounted(rewards, gamma=GAMMA):
    return sum(gamma**t * reward for t, reward in enumerate(rewards))


# The potential


@pytest.mark.parametrize("hint", ["go right to reach the goal", None])
def test_each_step_earns_the_difference_of_potentials(answering, lake, hint):
    env = GuidanceReward(lake(), answering.client, gamma=GAMMA, weight=0.5, hint=hint)
    earned = run(env, [RIGHT, RIGHT, DOWN])
    given = hint or answering.hint(told(0))  # of the first state, for the whole episode
    potentials = [answering.potential(told(number), given) for number in (0, 1, 2, 6)]
    assert earned == pytest.approx([0.5 * (GAMMA * after - before) for before, after in pairwise(potentials)])


@pytest.mark.parametrize("every", [None, 1, 2])
@pytest.mark.parametrize("actions", [TO_THE_GOAL, INTO_A_HOLE])
def test_an_episode_that_terminates_earns_the_same_whatever_was_done(answering, lake, every, actions):
    """Discounted, -Phi of its first state, also while hints change."""
    env = GuidanceReward(lake(), answering.client, gamma=GAMMA, every=every)
    for _ in range(2):  # the second time from what is kept
        earned = run(env, actions)
        first = answering.potential(told(0), answering.hint(told(0)))
        assert discounted(earned) == pytest.approx(-first)


def test_a_terminal_state_has_no_potential_and_is_not_asked_about(answering, lake):
    env = GuidanceReward(lake(), answering.client, gamma=GAMMA)
    env.reset()
    env.step(RIGHT)
    _, _, terminated, truncated, info = env.step(DOWN)
    assert (terminated, truncated) == (True, False)
    assert info["guidance_reward"] == -answering.potential(told(1), answering.hint(told(0)))
    assert all("drop goal" not in item["observation"] for item in answering.items)


def test_a_time_limit_keeps_the_potential_of_the_last_state(answering, lake):
    env = GuidanceReward(lake(max_episode_steps=2), answering.client, gamma=GAMMA)
    env.reset()
    env.step(RIGHT)
    _, _, terminated, truncated, info = env.step(RIGHT)
    assert (terminated, truncated) == (False, True)
    hint = answering.hint(told(0))
    wanted = GAMMA * answering.potential(told(2), hint) - answering.potential(told(1), hint)
    assert info["guidance_reward"] == pytest.approx(wanted)


def test_what_is_both_is_terminal(answering, lake):
    env = GuidanceReward(lake(max_episode_steps=2), answering.client, gamma=GAMMA)
    env.reset()
    env.step(RIGHT)
    *_, terminated, truncated, info = env.step(DOWN)
    assert terminated
    assert truncated
    assert info["guidance_reward"] == -answering.potential(told(1), answering.hint(told(0)))


def test_a_potential_is_asked_for_once(answering, lake):
    env = GuidanceReward(lake(), answering.client, gamma=GAMMA, hint="go right to reach the goal")
    run(env, ROUND_AND_ROUND * 3)
    run(env, ROUND_AND_ROUND)
    assert [item["observation"] for item in answering.items] == [told(0), told(1), told(4)]
    task = describer_for("FrozenLake-v1").task
    assert answering.items[0] == {
        "hint": "go right to reach the goal",
        "observation": told(0),
        "terminated": True,
        "task": task,
    }


def test_without_a_hint_there_is_nothing_to_carry_out(answering, lake):
    answering.hint = lambda text: ""
    assert run(GuidanceReward(lake(), answering.client, gamma=GAMMA), [RIGHT, RIGHT]) == [0.0, 0.0]
    assert answering.items == []


def test_an_episode_cut_short_leaves_nothing_behind(answering, lake):
    env = GuidanceReward(lake(), answering.client, gamma=GAMMA)
    alone = run(env, [DOWN])
    run(env, [RIGHT, RIGHT])
    assert run(env, [DOWN]) == alone


def test_a_single_environment_that_begins_anew_by_itself(answering, lake):
    env = GuidanceReward(gymnasium.wrappers.Autoreset(lake()), answering.client, gamma=GAMMA)
    earned = run(env, [*INTO_A_HOLE, UP, *INTO_A_HOLE])
    assert earned[2] == 0.0  # no transition: the episode begins
    assert earned[3:] == earned[:2]


# Whose hints


def test_hints_are_those_of_the_wrapper_within_also_where_it_withholds_them(answering, lake):
    inner = HintObservation(DescribeObservation(lake(), memory=3), answering.client, dropout=1.0)
    env = GuidanceReward(inner, answering.client, gamma=GAMMA)
    env.reset(seed=1)
    text, *_, info = env.step(RIGHT)
    assert info["hint"] == ""
    assert "hint" not in text
    assert len(answering.to("/guidance")) == 2
    states = [body["observations"][0] for body in answering.to("/guidance")]
    assert [item["observation"] for item in answering.items] == states  # with their memory
    assert [item["hint"] for item in answering.items] == [answering.hint(state) for state in states]
    with pytest.raises(ValueError, match="HintObservation within"):
        GuidanceReward(inner, answering.client, gamma=GAMMA, every=2)


def test_a_hint_of_ones_own_goes_before_that_of_the_wrapper_within(answering, lake):
    inner = HintObservation(lake(), answering.client)
    env = GuidanceReward(inner, answering.client, gamma=GAMMA, hint="reach the goal")
    run(env, [RIGHT])
    assert {item["hint"] for item in answering.items} == {"reach the goal"}


# Alignment


def test_alignment_pays_for_the_action_taken_under_the_hint_in_force(answering, lake):
    env = GuidanceReward(lake(), answering.client, form="alignment", weight=2.0, every=1)
    earned = run(env, [RIGHT, DOWN])
    items = answering.items
    assert [(item["observation"], item["action"]) for item in items] == [(told(0), "right"), (told(1), "down")]
    assert [item["hint"] for item in items] == [answering.hint(told(0)), answering.hint(told(1))]
    assert items[0]["actions"] == ACTIONS
    assert earned == pytest.approx([2 * answering.alignment(item) for item in items])


def test_alignment_is_asked_for_once(answering, lake):
    env = GuidanceReward(lake(), answering.client, form="alignment", hint="go right")
    run(env, ROUND_AND_ROUND * 3)
    assert len(answering.items) == len(ROUND_AND_ROUND)


def test_an_action_that_does_nothing_is_scored_among_all(answering):
    env = GuidanceReward(gymnasium.make("Taxi-v4"), answering.client, form="alignment", hint="move south")
    env.reset(seed=1)
    legal = set(describer_for("Taxi-v4").legal_actions(env.unwrapped.s))
    within, outside = min(legal), min(set(range(6)) - legal)
    names = describer_for("Taxi-v4").actions
    env.step(outside)  # a trainer without a mask takes it, and nothing moves
    env.step(within)
    assert answering.items[0]["actions"] == names
    assert answering.items[0]["action"] == names[outside]
    assert answering.items[1]["actions"] == [names[k] for k in sorted(legal)]


def test_alignment_needs_names_for_the_actions(answering, lake):
    class Worded(gymnasium.ObservationWrapper):
        observation_space = gymnasium.spaces.Text(9)

        def observation(self, observation):
            return f"place{observation}"

    with pytest.raises(ValueError, match="pass describer="):
        GuidanceReward(Worded(lake()), answering.client, form="alignment")
    env = GuidanceReward(Worded(lake()), answering.client, gamma=GAMMA, hint="get there")  # a text is enough
    run(env, [RIGHT])
    assert [item["observation"] for item in answering.items] == ["place0", "place1"]


# Failures


def test_a_failure_is_raised_unless_said_otherwise(answering, away, lake):
    env = GuidanceReward(lake(), answering.client, gamma=GAMMA, hint="reach the goal")
    env.reset()
    answering.failure = away
    with pytest.raises(Unavailable, match="stopping"):
        env.step(RIGHT)


@pytest.mark.filterwarnings("ignore:.*stopping")
def test_without_an_answer_the_potential_stays_and_the_sum_with_it(answering, away, lake):
    env = GuidanceReward(lake(), answering.client, gamma=GAMMA, hint="reach the goal", on_failure="skip")
    env.reset()
    earned, failed = [], []
    for k, action in enumerate(TO_THE_GOAL):
        answering.failure = away if k in (1, 2) else None
        info = env.step(action)[4]
        earned.append(info["guidance_reward"])
        failed.append(info["guidance_failed"])
    assert failed == [False, True, True, False, False, False]
    assert env.num_failures == 2
    before = answering.potential(told(4), "reach the goal")
    assert earned[1:3] == pytest.approx([(GAMMA - 1) * before] * 2)
    assert discounted(earned) == pytest.approx(-answering.potential(told(0), "reach the goal"))


@pytest.mark.filterwarnings("ignore:.*stopping")
def test_a_hint_that_comes_late_changes_no_sum(answering, away, lake):
    env = GuidanceReward(lake(), answering.client, gamma=GAMMA, on_failure="skip")
    answering.failure = away
    env.reset()
    answering.failure = None
    earned = [env.step(action)[4]["guidance_reward"] for action in TO_THE_GOAL]
    assert earned[0] > 0
    assert discounted(earned) == pytest.approx(0.0)  # the first potential is unknown, and counts as 0


def test_without_an_answer_there_is_no_bonus(answering, away, lake):
    env = GuidanceReward(lake(), answering.client, form="alignment", hint="go right", on_failure="skip")
    env.reset()
    answering.failure = away
    with pytest.warns(RuntimeWarning, match=r"stopping.*without reward for guidance"):
        info = env.step(RIGHT)[4]
    assert (info["guidance_reward"], info["guidance_failed"], env.num_failures) == (0.0, True, 1)
    answering.failure = None
    assert not env.step(RIGHT)[4]["guidance_failed"]


def test_a_refusal_is_raised_even_so(answering, lake, problem):
    answering.failure = lambda: problem(422, "Invalid request", "too long")
    with pytest.raises(InvalidRequest, match="too long"):
        GuidanceReward(lake(), answering.client, gamma=GAMMA, hint="go", on_failure="skip").reset()


@pytest.mark.parametrize("form", ["potential", "alignment"])
def test_another_scorer_ends_the_run(answering, lake, form):
    env = GuidanceReward(lake(), answering.client, form=form, gamma=GAMMA, hint="go", on_failure="skip")
    env.reset()
    env.step(RIGHT)
    answering.scorer = "b" * 64
    with pytest.raises(ScorerChanged, match="bbbbbbbbbbbb"):
        env.step(RIGHT)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "gamma is None"),
        ({"gamma": 1.1}, "gamma is 1.1"),
        ({"gamma": 0.9, "form": "sparse"}, "form is 'sparse'"),
        ({"gamma": 0.9, "hint": "go", "every": 3}, "one is given"),
        ({"gamma": 0.9, "on_failure": "zero"}, "on_failure"),
    ],
)
def test_arguments_that_make_no_sense(answering, lake, arguments, told):
    with pytest.raises(ValueError, match=told):
        GuidanceReward(lake(), answering.client, **arguments)


def test_single_and_vector_forms_are_told_apart(answering, lake, lakes):
    with pytest.raises(TypeError, match=r"gymnasium\.Env"):
        GuidanceReward(lakes("NextStep"), answering.client, gamma=GAMMA)
    with pytest.raises(TypeError, match="VectorEnv"):
        vectors.GuidanceReward(lake(), answering.client, gamma=GAMMA)


# Vector environments


def together(envs, actions):
    """What each environment earned at each step, and where it was a transition: (T, N) each."""
    envs.reset(seed=1)
    earned, moved = [], []
    for each in actions:
        _, rewards, _, _, infos = envs.step(np.array(each))
        np.testing.assert_array_equal(rewards, infos["original_reward"] + infos["guidance_reward"])
        earned.append(infos["guidance_reward"])
        moved.append(infos["_guidance_reward"])
    return np.array(earned), np.array(moved)


@pytest.mark.parametrize("form", ["potential", "alignment"])
@pytest.mark.parametrize("every", [None, 1])
def test_next_step_autoreset_is_no_transition(answering, lake, lakes, form, every):
    chosen = {"gamma": GAMMA, "form": form, "every": every}
    hole, goal = (run(GuidanceReward(lake(), answering.client, **chosen), path) for path in (INTO_A_HOLE, TO_THE_GOAL))
    envs = vectors.GuidanceReward(lakes("NextStep"), answering.client, **chosen)
    earned, moved = together(envs, zip([*INTO_A_HOLE, UP, *INTO_A_HOLE, UP], TO_THE_GOAL, strict=True))
    np.testing.assert_allclose(earned[:, 0], [*hole, 0.0, *hole, 0.0])
    np.testing.assert_allclose(earned[:, 1], goal)
    np.testing.assert_array_equal(moved[:, 0], [True, True, False] * 2)
    assert moved[:, 1].all()


@pytest.mark.parametrize("form", ["potential", "alignment"])
@pytest.mark.parametrize("every", [None, 1])
def test_same_step_autoreset_counts_the_last_state(answering, lake, lakes, form, every):
    chosen = {"gamma": GAMMA, "form": form, "every": every}
    short = {"max_episode_steps": 3}  # one falls in, the other is stopped
    hole, stop = (
        run(GuidanceReward(lake(**short), answering.client, **chosen), path) for path in (INTO_A_HOLE, TO_THE_GOAL[:3])
    )
    envs = vectors.GuidanceReward(lakes("SameStep", **short), answering.client, **chosen)
    earned, moved = together(envs, zip(INTO_A_HOLE * 3, TO_THE_GOAL[:3] * 2, strict=True))
    np.testing.assert_allclose(earned[:, 0], hole * 3)
    np.testing.assert_allclose(earned[:, 1], stop * 2)
    assert moved.all()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_all_three_together(answering, lake, lakes, mode):
    def wrapped(env, wrappers):
        told = wrappers.DescribeObservation(env, memory=4)
        return wrappers.GuidanceReward(wrappers.HintObservation(told, answering.client), answering.client, gamma=GAMMA)

    from hintwise import wrappers as singles

    hole = run(wrapped(lake(), singles), INTO_A_HOLE)
    path = [*INTO_A_HOLE, UP] * 2 if mode == "NextStep" else INTO_A_HOLE * 3
    earned, _ = together(wrapped(lakes(mode), vectors), zip(path, path, strict=True))
    np.testing.assert_allclose(earned[:, 0], [*hole, 0.0] * 2 if mode == "NextStep" else hole * 3)
    np.testing.assert_allclose(earned[:, 0], earned[:, 1])


def test_a_masked_reset_leaves_the_others_alone(answering, lake, lakes):
    hole, goal = (
        run(GuidanceReward(lake(), answering.client, gamma=GAMMA), path) for path in (INTO_A_HOLE, TO_THE_GOAL)
    )
    envs = vectors.GuidanceReward(lakes("Disabled"), answering.client, gamma=GAMMA)
    earned, _ = together(envs, zip(INTO_A_HOLE, TO_THE_GOAL[:2], strict=True))
    envs.reset(options={"reset_mask": np.array([True, False])})
    more = [envs.step(np.array(each))[4]["guidance_reward"] for each in zip(INTO_A_HOLE, TO_THE_GOAL[2:4], strict=True)]
    np.testing.assert_allclose(earned[:, 0], hole)
    np.testing.assert_allclose([each[0] for each in more], hole)
    np.testing.assert_allclose([*earned[:, 1], *(each[1] for each in more)], goal[:4])


def test_one_request_scores_the_whole_vector_environment(answering, lakes):
    envs = vectors.GuidanceReward(lakes("NextStep", num_envs=4), answering.client, gamma=GAMMA, hint="reach the goal")
    envs.reset(seed=1)
    envs.step(np.array([LEFT, DOWN, RIGHT, RIGHT]))
    envs.step(np.array([LEFT, UP, LEFT, LEFT]))
    asked = [[item["observation"] for item in body["items"]] for body in answering.to("/reward")]
    assert asked == [[told(0)], [told(4), told(1)]]


def test_cartpoles_own_vector_environment(answering):
    envs = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point")
    envs = vectors.GuidanceReward(envs, answering.client, gamma=GAMMA, hint="keep still")
    envs.action_space.seed(1)
    envs.reset(seed=1)
    over = np.zeros(3, dtype=bool)
    for _ in range(60):
        _, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
        np.testing.assert_array_equal(infos["_guidance_reward"], ~over)
        assert (infos["guidance_reward"][over] == 0).all()
        over = terminated | truncated
    assert rewards.shape == (3,)
