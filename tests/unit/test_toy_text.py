"""FrozenLake, CliffWalking and Taxi in words, against Gymnasium itself."""

import json
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import generate_random_map
from hypothesis import given, settings
from hypothesis import strategies as st

from hintwise.describers import DESCRIBED_ENV_IDS, describer_for
from hintwise.describers.toy_text import TAXI_MAP
from hintwise.errors import InvalidRequest
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder

LAKES = ["FrozenLake-v1", "FrozenLake8x8-v1"]
CLIFFS = ["CliffWalking-v1", "CliffWalkingSlippery-v1"]
WALKS = [*LAKES, *CLIFFS]
WORLDS = [*WALKS, "Taxi-v4"]
NUM_STATES = {
    "FrozenLake-v1": 16,
    "FrozenLake8x8-v1": 64,
    "CliffWalking-v1": 48,
    "CliffWalkingSlippery-v1": 48,
    "Taxi-v4": 500,
}
SIDES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
TAXI_VARIANTS = [{}, {"is_rainy": True}, {"fickle_passenger": True}, {"is_rainy": True, "fickle_passenger": True}]
letters = st.sampled_from("SFFFHG")
boards = st.tuples(st.integers(2, 12), st.integers(2, 12)).flatmap(
    lambda shape: st.lists(
        st.lists(letters, min_size=shape[1], max_size=shape[1]).map("".join), min_size=shape[0], max_size=shape[0]
    )
)
solvable_boards = st.builds(
    generate_random_map, size=st.integers(2, 12), p=st.floats(0.5, 0.95), seed=st.integers(0, 2**32 - 1)
)


def lake(board, **more):
    """A FrozenLake of these rows; one without a start begins in the corner."""
    if not any("S" in row for row in board):
        board = ["S" + board[0][1:], *board[1:]]
    return gymnasium.make("FrozenLake-v1", desc=board, **more), board


def refusal(call, observation):
    with pytest.raises(InvalidRequest) as caught:
        call(observation)
    return caught.value.detail


def read_walk(text):
    """Returns place, whether the player fell, way to the goal and sides, from the words alone."""
    place, fell, goal, sides = re.fullmatch(
        r"at (\d+ \d+)( drop)? (no goal|goal (?:down|up) \d+ (?:right|left) \d+)((?: (?:left|down|right|up) \w+){4})",
        text,
    ).groups()
    words = sides.split()
    return tuple(map(int, place.split())), bool(fell), goal, dict(zip(words[::2], words[1::2], strict=True))


def ground(board, row, column):
    if not (0 <= row < len(board) and 0 <= column < len(board[0])):
        return "wall"
    return {"H": "drop", "G": "goal"}.get(board[row][column], "open")


# --- what the texts say


@pytest.mark.parametrize(
    ("env_id", "observation", "text"),
    [
        ("FrozenLake-v1", 0, "at 0 0 goal down 3 right 3 left wall down open right open up wall"),
        ("FrozenLake-v1", 6, "at 1 2 goal down 2 right 1 left drop down open right drop up open"),
        ("FrozenLake-v1", 14, "at 3 2 goal down 0 right 1 left open down wall right goal up open"),
        ("FrozenLake-v1", 5, "at 1 1 drop goal down 2 right 2 left open down open right open up open"),
        ("FrozenLake-v1", 15, "at 3 3 goal down 0 right 0 left open down wall right wall up drop"),
        ("FrozenLake8x8-v1", 20, "at 2 4 goal down 5 right 3 left drop down open right open up open"),
        ("CliffWalking-v1", 36, "at 3 0 goal down 0 right 11 up open right drop down wall left wall"),
        ("CliffWalkingSlippery-v1", 35, "at 2 11 goal down 1 right 0 up open right wall down goal left open"),
        ("Taxi-v4", 328, "at 3 1 pick yellow south 1 west 1 then red wall west"),
        ("Taxi-v4", 458, "at 4 2 carry yellow south 0 west 2 wall south east"),
        ("Taxi-v4", 249, "at 2 2 pick yellow south 2 west 2 then green no wall"),
        ("Taxi-v4", 13, "at 0 0 pick blue south 4 east 3 then green wall north west"),
    ],
)
def test_what_a_state_reads(env_id, observation, text):
    assert describer_for(env_id).describe(observation) == text


@pytest.mark.parametrize("env_id", WORLDS)
def test_every_state_of_a_world_has_a_text_of_its_own(env_id):
    describer, count = describer_for(env_id), NUM_STATES[env_id]
    assert gymnasium.make(env_id).observation_space.n == count
    texts = [describer.describe(state) for state in range(count)]
    assert len(set(texts)) == count
    assert texts == [describer_for(env_id).describe(state) for state in range(count)]


@pytest.mark.parametrize("env_id", WORLDS)
def test_every_word_is_one_token_and_no_action_is_longer_than_another(env_id, embedded):
    encoder, describer = TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens), describer_for(env_id)
    words = {word for state in range(NUM_STATES[env_id]) for word in describer.describe(state).split()}
    words |= {word for action in describer.actions for word in action.split()}
    words |= set(re.findall(r"\w+", describer.task))
    assert {word for word in words if len(encoder.encode(f" {word}")) != 1} == set()
    assert len({len(encoder.encode(f" {action}")) for action in describer.actions}) == 1


@pytest.mark.parametrize("env_id", WORLDS)
def test_the_environments_own_observations_are_read(env_id):
    env = gymnasium.make(env_id)
    describer = describer_for(env)
    observation, _ = env.reset(seed=4)
    generator = np.random.default_rng(0)
    for _ in range(30):
        forms = [observation, np.int64(observation), np.array(observation), float(observation)]
        forms.append(json.loads(json.dumps(int(observation))))
        assert {describer.describe(form) for form in forms} == {describer_for(env_id).describe(int(observation))}
        observation, *_ = env.step(int(generator.choice(describer.legal_actions(observation))))


@pytest.mark.parametrize("env_id", WORLDS)
def test_the_page_tells_what_they_cost(env_id, embedded):
    encoder, describer = TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens), describer_for(env_id)
    page = (Path(__file__).parents[2] / "docs" / "describers.md").read_text(encoding="utf-8")
    prompts = [action_prompt(describer.describe(state), task=describer.task) for state in range(NUM_STATES[env_id])]
    counts = [len(encoder.encode(prompt)) for prompt in prompts]
    per_action = len(encoder.encode(f" {describer.actions[0]}"))
    assert f"| `{env_id}` | {min(counts)} to {max(counts)} | {per_action} |" in page


# --- walks


@pytest.mark.parametrize("env_id", WALKS)
def test_actions_lead_where_their_words_say(env_id):
    """From each state, a move without slipping ends on the ground that its side was called."""
    env = gymnasium.make(env_id, is_slippery=False).unwrapped
    describer = describer_for(env_id)
    for state in range(NUM_STATES[env_id]):
        place, fell, _, sides = read_walk(describer.describe(state))
        if fell or "goal down 0 right 0" in describer.describe(state):
            continue
        for action, phrase in enumerate(describer.actions):
            [(_, reached, reward, terminated)] = env.P[state][action]
            moved = read_walk(describer.describe(int(reached)))
            if env_id in CLIFFS and sides[phrase] == "drop":
                assert (reached, reward, terminated) == (36, -100, False)  # back to the start
                continue
            assert moved[1] == (sides[phrase] == "drop")
            assert (moved[0] == place) == (sides[phrase] == "wall")
            assert terminated == (sides[phrase] in {"drop", "goal"})
    assert describer.legal_actions(0) == [0, 1, 2, 3]


@pytest.mark.parametrize(("env_id", "map_name"), [(LAKES[0], "4x4"), (LAKES[1], "8x8")])
def test_an_id_stands_for_its_default_map(env_id, map_name):
    states = range(NUM_STATES[env_id])
    by_id = [describer_for(env_id).describe(state) for state in states]
    assert by_id == [describer_for(gymnasium.make(env_id)).describe(state) for state in states]
    named = describer_for(gymnasium.make("FrozenLake-v1", map_name=map_name, is_slippery=False))
    assert by_id == [named.describe(state) for state in states]


@given(boards)
@settings(max_examples=50)
def test_a_lakes_text_tells_place_and_sides_of_its_own_map(board):
    env, board = lake(board)
    describer, texts = describer_for(env), []
    for state in range(len(board) * len(board[0])):
        row, column = divmod(state, len(board[0]))
        texts.append(describer.describe(state))
        place, fell, _, sides = read_walk(texts[-1])
        assert place == (row, column)
        assert fell == (board[row][column] == "H")
        assert sides == {name: ground(board, row + i, column + j) for name, (i, j) in SIDES.items()}
    assert len(set(texts)) == len(texts)
    assert texts == [describer_for(env).describe(state) for state in range(len(texts))]


@given(boards)
@settings(max_examples=50)
def test_the_goal_is_the_nearest_one(board):
    env, board = lake(board)
    goals = [(i, j) for i, row in enumerate(board) for j, letter in enumerate(row) if letter == "G"]
    for state in range(len(board) * len(board[0])):
        (row, column), _, goal, _ = read_walk(describer_for(env).describe(state))
        if not goals:
            assert goal == "no goal"
            continue
        vertical, rows, horizontal, columns = goal.split()[1:]
        meant = (
            row + int(rows) * SIDES[vertical][0],
            column + int(columns) * SIDES[horizontal][1],
        )
        assert meant in goals
        assert int(rows) + int(columns) == min(abs(i - row) + abs(j - column) for i, j in goals)


@given(solvable_boards, st.booleans())
@settings(max_examples=15)
def test_states_with_other_best_actions_read_otherwise(board, is_slippery):
    env, _ = lake(board, is_slippery=is_slippery)
    best = best_actions(env.unwrapped.P)
    describer = describer_for(env)
    called = {}
    for state, actions in best.items():
        assert called.setdefault(describer.describe(state), actions) == actions


def best_actions(transitions, gamma=0.95, sweeps=100):
    """Value iteration; returns the set of best actions of each state."""
    values = dict.fromkeys(transitions, 0.0)

    def worth(outcomes):
        return sum(p * (reward + gamma * values[after] * (not over)) for p, after, reward, over in outcomes)

    for _ in range(sweeps):
        values = {state: max(worth(outcomes) for outcomes in by.values()) for state, by in transitions.items()}
    found = {}
    for state, by in transitions.items():
        worths = [worth(outcomes) for outcomes in by.values()]
        found[state] = frozenset(k for k, each in enumerate(worths) if each > max(worths) - 1e-9)
    return found


@given(boards, st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_a_text_is_a_function_of_map_and_place_alone(board, seed):
    """Whatever has happened, and however slippery the ice is, the same place reads the same."""
    played, board = lake(board, is_slippery=True)
    states = range(len(board) * len(board[0]))
    before = [describer_for(lake(board, is_slippery=False)[0]).describe(state) for state in states]
    describer = describer_for(played)
    played.reset(seed=seed)
    played.step(seed % 4)
    assert [describer.describe(state) for state in states] == before


def test_a_map_that_changes_at_reset_is_read_anew():
    class Redrawn(gymnasium.Wrapper):
        def reset(self, *, seed=None, options=None):
            board = generate_random_map(4, seed=seed)
            self.env = gymnasium.make("FrozenLake-v1", desc=board)
            return self.env.reset(seed=seed)

    env = Redrawn(gymnasium.make("FrozenLake-v1"))
    describer, texts = describer_for(env), set()
    for seed in range(5):
        env.reset(seed=seed)
        drawn = describer_for(gymnasium.make("FrozenLake-v1", desc=generate_random_map(4, seed=seed)))
        whole = [describer.describe(state) for state in range(16)]
        assert whole == [drawn.describe(state) for state in range(16)]
        texts.add(tuple(whole))
    assert len(texts) > 1
    env.unwrapped.desc[0, 1] = b"H"  # even one letter, in place
    assert describer.describe(0).split()[-3] == "drop"
    env.unwrapped.desc = np.array([["S", "F"], ["F", "G"]])  # letters of Python, not of C
    assert describer.describe(1) == "at 0 1 goal down 1 right 0 left open down goal right wall up wall"


def test_a_wrapper_that_changes_the_spaces_takes_the_words_away():
    env = gymnasium.make("FrozenLake-v1")
    doubled = gymnasium.wrappers.TransformObservation(env, lambda state: 2 * state, gymnasium.spaces.Discrete(32))
    assert describer_for(doubled).describe(20) == "state 20"


def test_two_lakes_do_not_share_a_map():
    first, second = (describer_for(lake(board)[0]) for board in (["SH", "FG"], ["SF", "HG"]))
    assert first.describe(0).endswith("down open right drop up wall")
    assert second.describe(0).endswith("down drop right open up wall")


# --- the taxi


@pytest.mark.parametrize("variant", TAXI_VARIANTS, ids=str)
def test_legal_actions_are_the_taxis_own_mask_in_all_500_states(variant):
    env = gymnasium.make("Taxi-v4", **variant)
    describer = describer_for(env)
    masks = {state: np.flatnonzero(env.unwrapped.action_mask(state)).tolist() for state in range(500)}
    assert {state: describer.legal_actions(state) for state in masks} == masks
    assert len({tuple(mask) for mask in masks.values()}) > 10


@pytest.mark.parametrize("variant", TAXI_VARIANTS, ids=str)
def test_legal_actions_are_the_mask_that_play_hands_out(variant):
    env = gymnasium.make("Taxi-v4", **variant)
    describer, generator = describer_for(env), np.random.default_rng(1)
    for seed in range(5):
        observation, info = env.reset(seed=seed)
        over = False
        while not over:
            assert describer.legal_actions(observation) == np.flatnonzero(info["action_mask"]).tolist()
            action = int(generator.choice(describer.legal_actions(observation)))
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated


def test_a_caller_cannot_change_the_legal_actions_of_others():
    describer = describer_for("Taxi-v4")
    expected = list(describer.legal_actions(0))
    describer.legal_actions(0).clear()
    assert describer.legal_actions(0) == expected


def test_the_taxis_map_is_gymnasiums():
    desc = gymnasium.make("Taxi-v4").unwrapped.desc
    assert tuple(b"".join(row).decode() for row in desc[1:-1]) == TAXI_MAP


def test_a_taxis_text_tells_the_whole_state():
    env, describer = gymnasium.make("Taxi-v4").unwrapped, describer_for("Taxi-v4")
    colours = ["red", "green", "yellow", "blue"]
    for state in range(500):
        row, column, passenger, destination = env.decode(state)
        text = describer.describe(state)
        assert text.startswith(f"at {row} {column} ")
        aim = colours[destination if passenger == 4 else passenger]
        errand = f" carry {aim} " if passenger == 4 else f" pick {aim} "
        assert errand in text
        assert (f" then {colours[destination]} " in text) == (passenger < 4)
        vertical, rows, horizontal, columns = text.split(errand)[1].split()[:4]
        assert (
            row + int(rows) * {"south": 1, "north": -1}[vertical],
            column + int(columns) * {"east": 1, "west": -1}[horizontal],
        ) == env.locs[colours.index(aim)]
        walls = set(re.search(r"wall((?: \w+)*)$", text)[1].split())
        mask = env.action_mask(state)
        assert walls == {name for k, name in enumerate(("south", "north", "east", "west")) if not mask[k]}


# --- what is no observation


@pytest.mark.parametrize("env_id", WORLDS)
def test_what_is_no_state_is_refused(env_id):
    count = NUM_STATES[env_id]
    describe = describer_for(env_id).describe
    expected = f"expected an integer from 0 to {count - 1}"
    assert refusal(describe, count) == f"state is {count}; {expected}"
    assert refusal(describe, np.int64(count)) == f"state is {count}; {expected}"
    assert refusal(describe, -1) == f"state is -1; {expected}"
    assert refusal(describe, 3.5) == f"state is 3.5; {expected}"
    assert describe(3.0) == describe(3)
    for value in (True, np.True_, "3", None, [3], {"state": 3}, 1j):
        assert "expected a number" in refusal(describe, value)
    for value in (float("nan"), float("inf"), 10**400, -(10**400)):
        assert "observations must be finite" in refusal(describe, value)
    assert refusal(describe, np.array([3])) == f"{env_id} observations have shape (); got an array of shape (1,)"


@pytest.mark.parametrize("observation", [500, -1, 3.5, True, None, [3]])
def test_legal_actions_are_of_a_state_too(observation):
    assert refusal(describer_for("Taxi-v4").legal_actions, observation)


def test_a_state_beyond_a_map_of_ones_own_is_refused():
    env, _ = lake(["SF", "FG"])
    assert refusal(describer_for(env).describe, 4) == "state is 4; expected an integer from 0 to 3"


def test_the_worlds_are_described_from_their_ids():
    assert set(WORLDS) <= set(DESCRIBED_ENV_IDS)
