import json
import re
from math import inf, nan
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from hypothesis import given
from hypothesis import strategies as st

from hintwise.describers import DESCRIBED_ENV_IDS, Describer, describer_for
from hintwise.describers.minigrid import level_ids
from hintwise.describers.numbers import MAX_BIN, MIDDLE_BIN, NUM_BINS, signed_bin, squashed_bin, uniform_bin
from hintwise.errors import InvalidRequest

PAGE = (Path(__file__).parents[2] / "docs" / "describers.md").read_text(encoding="utf-8")
CORE_ENV_IDS = [env_id for env_id in DESCRIBED_ENV_IDS if env_id not in level_ids()]
"""Those of Gymnasium itself; MiniGrid's have tests of their own."""
UPRIGHT = [0.0, 0.0, 0.0, 0.0]
EXAMPLES = [
    ("CartPole-v1", [0.0, 0.17, -0.03, 0.0], "cart 20 speed 23 pole 15 turn 20"),
    ("CartPole-v1", [2.4, -3.0, 0.2095, 3.0], "cart 40 speed 0 pole 40 turn 40"),
    ("CartPole-v1", [9, -9, 9, -9], "cart 40 speed 0 pole 40 turn 0"),
    ("MountainCar-v0", [-0.8, 0.0], "car 9 speed 20"),
    ("MountainCar-v0", [-1.2, -0.07], "car 0 speed 0"),
    ("MountainCar-v0", [0.6, 0.07], "car 40 speed 40"),
    ("Acrobot-v1", [1.0, 0.0, 1.0, 0.0, 0.0, 0.0], "upper 20 turn 20 joint 20 twist 20"),
    ("Acrobot-v1", [0.0, 1.0, 0.0, -1.0, 12.6, -28.3], "upper 32 turn 40 joint 8 twist 0"),
    ("Acrobot-v1", [-1.0, 1e-9, -1.0, -1e-9, 6.3, -14.2], "upper 40 turn 32 joint 0 twist 8"),
]
PHRASES = {
    "CartPole-v1": ("Keep the pole upright.", ["push left", "push right"]),
    "MountainCar-v0": ("Drive up the right hill.", ["push left", "wait", "push right"]),
    "Acrobot-v1": ("Swing the tip above the line.", ["twist left", "wait", "twist right"]),
    "FrozenLake-v1": ("Keep away from a drop and reach the goal.", ["left", "down", "right", "up"]),
    "FrozenLake8x8-v1": ("Keep away from a drop and reach the goal.", ["left", "down", "right", "up"]),
    "CliffWalking-v1": ("Keep away from a drop and reach the goal.", ["up", "right", "down", "left"]),
    "CliffWalkingSlippery-v1": ("Keep away from a drop and reach the goal.", ["up", "right", "down", "left"]),
    "Taxi-v4": (
        "Drive to pick up, then to drop off.",
        ["move south", "move north", "move east", "move west", "pick up", "drop off"],
    ),
}
finite = st.floats(allow_nan=False, allow_infinity=False)


class TinyEnv(gymnasium.Env):
    """An environment that is its spaces alone."""

    def __init__(self, observation_space, action_space=None, env_id=None):
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(2)
        if env_id:
            self.spec = EnvSpec(env_id)


def box(low, high, shape=None, dtype=np.float32):
    return TinyEnv(spaces.Box(low, high, shape, dtype))


def refusal(call, *arguments):
    with pytest.raises(InvalidRequest) as caught:
        call(*arguments)
    return caught.value.detail


# --- described environments


@pytest.mark.parametrize(("env_id", "observation", "text"), EXAMPLES)
def test_what_an_observation_reads(env_id, observation, text):
    assert describer_for(env_id).describe(observation) == text


@pytest.mark.parametrize(("env_id", "observation", "text"), EXAMPLES)
def test_an_array_a_list_and_a_tuple_read_the_same(env_id, observation, text):
    array = np.array(observation, dtype=np.float32)
    describer = describer_for(env_id)
    forms = [array, array.tolist(), tuple(array), list(array), json.loads(json.dumps(array.tolist())), array]
    assert {describer.describe(form) for form in forms} == {describer_for(env_id).describe(array)}


def test_whole_numbers_of_any_kind_are_numbers():
    describe = describer_for("CartPole-v1").describe
    assert describe([1, 0, 0, 0]) == describe([1.0, 0.0, 0.0, 0.0])
    assert describe(np.array([1, 0, 0, 0])) == describe([np.int64(1), np.float16(0), 0, 0]) == describe([1, 0, 0, 0])


def test_every_described_environment_has_its_phrases():
    assert set(PHRASES) == set(CORE_ENV_IDS)
    for env_id, (task, actions) in PHRASES.items():
        describer = describer_for(env_id)
        assert (describer.env_id, describer.task, describer.actions) == (env_id, task, actions)


def test_a_caller_cannot_change_the_phrases_of_others():
    describer_for("CartPole-v1").actions.clear()
    assert describer_for("CartPole-v1").actions == ["push left", "push right"]


@pytest.mark.parametrize("env_id", CORE_ENV_IDS)
def test_an_environment_and_its_id_have_the_same_describer(env_id):
    env = gymnasium.make(env_id)
    observation, info = env.reset(seed=1)
    describer = describer_for(env)
    assert describer.describe(observation) == describer_for(env_id).describe(np.asarray(observation).tolist())
    legal = np.flatnonzero(info.get("action_mask", np.ones(env.action_space.n))).tolist()
    assert describer.legal_actions(observation) == describer_for(env_id).legal_actions(observation) == legal
    assert len(describer.actions) == env.action_space.n


@pytest.mark.parametrize(
    ("env_id", "word"), [("CartPole-v1", "speed"), ("MountainCar-v0", "speed"), ("Acrobot-v1", "twist")]
)
def test_actions_do_what_their_phrases_say(env_id, word):
    env = gymnasium.make(env_id)
    describer = describer_for(env)
    reached = {}
    for action, phrase in enumerate(describer.actions):
        env.reset(seed=3)
        for _ in range(3):
            observation, *_ = env.step(action)
        text = describer.describe(observation)
        reached[phrase.split()[-1]] = int(re.search(rf"{word} (\d+)", text)[1])
    assert reached["left"] < reached.get("wait", MIDDLE_BIN) < reached["right"]


def test_wrappers_that_change_the_spaces_take_the_names_away():
    env = gymnasium.make("CartPole-v1")
    halved = gymnasium.wrappers.RescaleObservation(gymnasium.make("MountainCar-v0"), np.float32(-1), np.float32(1))
    reversed_actions = gymnasium.wrappers.TransformAction(env, lambda action: 2 - action, spaces.Discrete(3))
    assert describer_for(gymnasium.wrappers.RecordEpisodeStatistics(env)).actions == ["push left", "push right"]
    assert describer_for(halved).describe([0.0, 1.0]) == "x0 20 x1 40"
    assert describer_for(reversed_actions).actions == ["action 0", "action 1", "action 2"]


# --- bins


@given(finite, st.floats(1e-3, 1e6))
def test_a_signed_bin_is_symmetric_and_within_the_words(value, limit):
    assert signed_bin(-value, limit) == MAX_BIN - signed_bin(value, limit)
    assert 0 <= signed_bin(value, limit) < NUM_BINS


@given(finite, finite, st.floats(1e-3, 1e6))
def test_bins_never_fall_as_the_value_rises(first, second, limit):
    low, high = sorted((first, second))
    assert signed_bin(low, limit) <= signed_bin(high, limit)
    assert uniform_bin(low, -1.0, limit) <= uniform_bin(high, -1.0, limit)
    assert squashed_bin(low) <= squashed_bin(high)


@given(finite, st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_a_uniform_bin_is_within_the_words(value, low, width):
    assert 0 <= uniform_bin(value, low, low + width) < NUM_BINS


def test_every_word_is_used():
    grid = np.linspace(-1, 1, 2001).tolist()
    assert {signed_bin(value, 1.0) for value in grid} == set(range(NUM_BINS))
    assert {uniform_bin(value, -1.0, 1.0) for value in grid} == set(range(NUM_BINS))


def test_signed_bins_are_narrow_around_zero():
    assert [signed_bin(value, 1.0) for value in (0.0, 0.01, 0.05, 0.1, 0.5, 0.9, 1.0)] == [20, 21, 22, 24, 32, 39, 40]


def test_a_value_between_two_bins_goes_to_the_even_one():
    assert [uniform_bin(value, 0.0, 40.0) for value in (0.5, 1.5, 2.5, 38.5, 39.5)] == [0, 2, 2, 38, 40]


def test_values_outside_go_to_the_end_bins():
    assert [signed_bin(value, 2.0) for value in (-1e308, -2.0, 2.0, 1e308)] == [0, 0, 40, 40]
    assert [uniform_bin(value, 1.0, 2.0) for value in (-1e308, 1.0, 2.0, 1e308)] == [0, 0, 40, 40]


def test_values_without_bounds_are_squashed():
    values = (-1e308, -1.0, -0.1, 0.0, 0.1, 1.0, 1e308)
    assert [squashed_bin(value) for value in values] == [0, 8, 16, 20, 24, 32, 40]


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_not_finite_has_no_bin(value):
    expected = f"{value} has no bin; observations must be finite"
    assert refusal(signed_bin, value, 1.0) == expected
    assert refusal(uniform_bin, value, 0.0, 1.0) == expected
    assert refusal(squashed_bin, value) == expected


# --- observations that are none

EXPECTED = "CartPole-v1 observations have 4 numbers (cart position, cart velocity, pole angle, pole angular velocity)"


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([0.0, 0.0, 0.0], f"{EXPECTED}; got 3"),
        ([0.0] * 5, f"{EXPECTED}; got 5"),
        (np.zeros(3, np.float32), f"{EXPECTED}; got an array of shape (3,)"),
        ([], f"{EXPECTED}; got 0"),
        (np.zeros((2, 4)), f"{EXPECTED}; got an array of shape (2, 4)"),
        (np.array(1.0), f"{EXPECTED}; got an array of shape ()"),
        (0.5, f"{EXPECTED}; got a value of type float"),
        ("0 0 0 0", f"{EXPECTED}; got a value of type str"),
        ("abcd", f"{EXPECTED}; got a value of type str"),
        (None, f"{EXPECTED}; got a value of type NoneType"),
        ({"a": 0, "b": 0, "c": 0, "d": 0}, f"{EXPECTED}; got a value of type dict"),
        ([0.0, True, 0.0, 0.0], "number 1 (cart velocity) is of type bool; expected a number"),
        (np.array([True] * 4), "number 0 (cart position) is of type bool; expected a number"),
        ([0.0, 0.0, "0.1", 0.0], "number 2 (pole angle) is of type str; expected a number"),
        ([0.0, None, 0.0, 0.0], "number 1 (cart velocity) is of type NoneType; expected a number"),
        ([[0.0], 0.0, 0.0, 0.0], "number 0 (cart position) is of type list; expected a number"),
        (np.zeros((4, 4)), f"{EXPECTED}; got an array of shape (4, 4)"),
        ([0.0, 0.0, 1j, 0.0], "number 2 (pole angle) is of type complex; expected a number"),
        ([0.0, 0.0, nan, 0.0], "number 2 (pole angle) is nan; observations must be finite"),
        ([0.0, 0.0, 0.0, -inf], "number 3 (pole angular velocity) is -inf; observations must be finite"),
        (np.array([inf, 0, 0, 0], np.float32), "number 0 (cart position) is inf; observations must be finite"),
        ([10**400, 0, 0, 0], "number 0 (cart position) is inf; observations must be finite"),
    ],
)
def test_what_is_no_observation_is_refused(observation, message):
    assert refusal(describer_for("CartPole-v1").describe, observation) == message


@pytest.mark.parametrize("env_id", ["MountainCar-v0", "Acrobot-v1"])
def test_other_environments_name_their_numbers_too(env_id):
    count = {"MountainCar-v0": 2, "Acrobot-v1": 6}[env_id]
    assert refusal(describer_for(env_id).describe, [0.0]).startswith(f"{env_id} observations have {count} numbers (")
    assert "angular velocity 2" in refusal(describer_for("Acrobot-v1").describe, [0.0] * 5 + [nan])
    assert "car velocity" in refusal(describer_for("MountainCar-v0").describe, [0.0, nan])


# --- ids and objects that have no describer


def test_an_unknown_id_is_refused_with_the_known_ones():
    message = refusal(describer_for, "Unknown-v0")
    assert message.startswith("no describer is known for 'Unknown-v0'.")
    assert all(env_id in message for env_id in DESCRIBED_ENV_IDS)
    assert "did you mean" not in message


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("CartPole-v0", "CartPole-v1"), ("Acrobat-v1", "Acrobot-v1"), ("mountaincar-v0", "MountainCar-v0")],
)
def test_a_misspelt_id_is_refused_with_the_likely_one(wrong, right):
    assert f"; did you mean {right}? Known ids: " in refusal(describer_for, wrong)


def test_a_vector_environment_is_refused():
    envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    assert "vector environment" in refusal(describer_for, envs)


@pytest.mark.parametrize("value", [None, 7, ["CartPole-v1"]])
def test_what_is_no_environment_is_refused(value):
    kind = type(value).__name__
    assert refusal(describer_for, value) == f"expected an environment with its spaces, or an id; got a {kind}"


# --- any other environment


def test_an_unnamed_environment_is_described_by_its_spaces():
    env = TinyEnv(spaces.Box(-inf, inf, (2,)), spaces.Discrete(3), env_id="CartPole-v0")
    describer = describer_for(env)
    assert describer.describe(np.array([0.0, 1.0], np.float32)) == "x0 20 x1 32"
    assert describer.actions == ["action 0", "action 1", "action 2"]
    assert describer.legal_actions([0.0, 1.0]) == [0, 1, 2]
    assert (describer.env_id, describer.task) == ("CartPole-v0", "Collect as much reward as you can.")
    assert describer_for(gymnasium.wrappers.OrderEnforcing(box(0, 1, (1,)))).env_id == "TinyEnv"  # it has no spec


def test_a_discrete_observation_reads_as_its_integer():
    describe = describer_for(TinyEnv(spaces.Discrete(16))).describe
    assert describe(0) == "state 0"
    assert describe(np.array(4)) == describe(np.int64(4)) == describe(4.0) == describe(4) == "state 4"


def test_multi_discrete_reads_as_its_integers():
    describer = describer_for(TinyEnv(spaces.MultiDiscrete([5, 60])))
    assert describer.describe(np.array([3, 59])) == describer.describe([3, 59]) == "x0 3 x1 59"
    shifted = describer_for(TinyEnv(spaces.MultiDiscrete([5, 2], start=[10, -1])))
    assert shifted.describe([14, -1]) == "x0 14 x1 -1"
    assert refusal(shifted.describe, [15, 0]) == "x0 is 15; expected an integer from 10 to 14"


@pytest.mark.parametrize("number", [2, -1, 0.5])
def test_integers_that_cannot_be_are_refused(number):
    expected = f"is {number}; expected an integer from 0 to 1"
    assert refusal(describer_for(TinyEnv(spaces.Discrete(2))).describe, number) == f"state {expected}"
    assert refusal(describer_for(TinyEnv(spaces.MultiDiscrete([9, 2]))).describe, [0, number]) == f"x1 {expected}"


def test_a_discrete_observation_may_start_anywhere():
    describe = describer_for(TinyEnv(spaces.Discrete(3, start=5))).describe
    assert describe(7) == "state 7"
    assert refusal(describe, 8) == "state is 8; expected an integer from 5 to 7"
    assert refusal(describe, [7]) == "number 0 (state) is of type list; expected a number"
    assert refusal(describe, np.array([7])) == "TinyEnv observations have shape (); got an array of shape (1,)"


def test_a_box_is_flattened_in_c_order():
    describe = describer_for(box(0, 40, (2, 3))).describe
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert describe(array) == describe(array.tolist()) == describe(list(array)) == "x0 0 x1 1 x2 2 x3 3 x4 4 x5 5"
    expected = "TinyEnv observations have shape (2, 3); got "
    assert refusal(describe, array.T) == f"{expected}an array of shape (3, 2)"
    assert refusal(describe, array.ravel()) == f"{expected}an array of shape (6,)"
    assert refusal(describe, array.ravel().tolist()) == f"{expected}6"
    assert refusal(describe, [[0.0, 1.0, 2.0], [3.0]]) == f"{expected}1"
    assert refusal(describe, [[0.0, 1.0, 2.0], [3.0, 4.0, nan]]) == "number 5 (x5) is nan; observations must be finite"
    assert describer_for(box(0, 40, ())).describe(np.float32(7)) == "x0 7"
    assert refusal(describer_for(box(0, 40, (1,))).describe, []) == "TinyEnv observations have 1 number (x0); got 0"


def test_a_box_uses_its_own_bounds():
    lows, highs = np.array([-2.0, 0.0, 3.0, 0.0, -inf]), np.array([2.0, 4.0, 3.0, inf, 1.0])
    describe = describer_for(box(lows, highs, dtype=np.float64)).describe
    assert describe([0.5, 0.5, 3.0, 0.5, 0.5]) == "x0 28 x1 5 x2 20 x3 29 x4 29"


@pytest.mark.parametrize("infinity", [np.iinfo(np.int32).max, float(np.finfo(np.float32).max), np.finfo(float).max])
def test_bounds_that_stand_for_infinity_are_none(infinity):
    for low, high in ((-infinity, infinity), (0, infinity), (-infinity, 0)):
        assert describer_for(box(low, high, (1,), np.float64)).describe([1.0]) == "x0 32"


@pytest.mark.parametrize(
    ("env", "part"),
    [
        (TinyEnv(spaces.Dict(a=spaces.Discrete(2))), "the observation space Dict('a': Discrete(2)); Box, Discrete and"),
        (TinyEnv(spaces.Tuple([spaces.Discrete(2)])), "the observation space Tuple(Discrete(2)); Box, Discrete and"),
        (
            TinyEnv(spaces.Discrete(2), spaces.Box(-1, 1, (1,))),
            "the action space Box(-1.0, 1.0, (1,), float32); only Disc",
        ),
        (TinyEnv(spaces.Discrete(2), spaces.MultiDiscrete([2])), "the action space MultiDiscrete([2]); only Discrete"),
        (
            TinyEnv(spaces.Discrete(2), spaces.Discrete(3, start=1)),
            "actions numbered from 1; action k must be number k",
        ),
        (box(0, 1, (8, 9)), "observations of 72 numbers; 1 to 64 are supported"),
        (box(0, 1, (0,)), "observations of 0 numbers; 1 to 64 are supported"),
        (TinyEnv(spaces.MultiDiscrete([2] * 65)), "observations of 65 numbers; 1 to 64 are supported"),
    ],
)
def test_unsupported_spaces_are_refused(env, part):
    message = refusal(describer_for, env)
    assert message.startswith(f"TinyEnv has {part}")
    assert message.endswith("; write a describer of your own for it, see docs/describers.md")


def test_64_numbers_are_supported():
    assert describer_for(box(0, 1, (8, 8))).describe(np.ones((8, 8))).endswith(" x63 40")


# --- docs/describers.md


def test_the_code_on_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102
    blackjack: Describer = names["Blackjack"]()
    env = gymnasium.make("Blackjack-v1")
    total, dealer, _ = env.reset(seed=5)[0]
    assert blackjack.describe(env.reset(seed=5)[0]).startswith(f"hand {total} dealer {dealer}")
    assert blackjack.legal_actions((total, dealer, 0)) == list(range(int(env.action_space.n)))
    assert "has the observation space Tuple(" in refusal(describer_for, env)


def test_the_tables_on_the_page_are_true():
    described = re.findall(r"^\| `(\S+-v\d)` \| `(.*?)` \| `(.*?)` \| `(.*?)` \| `(.*?)` \|$", PAGE, re.MULTILINE)
    assert [row[0] for row in described] == CORE_ENV_IDS
    for env_id, observation, text, actions, task in described:
        describer = describer_for(env_id)
        assert describer.describe(json.loads(observation)) == text
        assert (", ".join(describer.actions), describer.task) == (actions, task)
    generic = re.findall(r"^\| `\w+` \| `(\w+\(.*\))`, `(.*?)` \| `(.*?)` \|$", PAGE, re.MULTILINE)
    assert len(generic) == 3
    for space, observation, text in generic:
        env = TinyEnv(eval(f"spaces.{space}"))  # noqa: S307
        assert describer_for(env).describe(json.loads(observation)) == text
