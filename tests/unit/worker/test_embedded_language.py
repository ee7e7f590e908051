"""The language model that ships: it is small, its hints help, its scores obey words, and its weights are why."""

import random

import gymnasium
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hintwise.describers import describer_for
from hintwise.language_model import load_language_model
from hintwise.model_names import LANGUAGE_DIR
from hintwise.tokens import TextEncoder
from worker.hint_words import exchanged
from worker.minigrid_levels import register_levels
from worker.pretraining.evaluate import hint_accuracy, obedience, progress_along, speechless_rewards
from worker.pretraining.model import MAX_BYTES
from worker.pretraining.reader import Reader
from worker.pretraining.run import known_hints
from worker.pretraining.settings import PretrainConfig
from worker.pretraining.states import collect, episode_states
from worker.pretraining.targets import SPEECHLESS
from worker.pretraining.worlds import CORPUS, UNSEEN

WORLDS = {world.name: world for world in (*CORPUS, *UNSEEN)}
FIRST_SEED = 700_000
"""Of validation: the seeds of the card's table are not looked at here."""


@pytest.fixture(scope="module")
def reader(language):
    return Reader(language)


@pytest.fixture(scope="module")
def hints():
    return known_hints(LANGUAGE_DIR, PretrainConfig(evaluate=LANGUAGE_DIR))


def states_of(name, count=100):
    return collect(WORLDS[name], count, first_seed=FIRST_SEED, generator=random.Random(name))


def test_it_is_small_and_no_pickle():
    assert sum(path.stat().st_size for path in LANGUAGE_DIR.iterdir()) <= MAX_BYTES
    assert {path.suffix for path in LANGUAGE_DIR.iterdir()} <= {".json", ".md", ".safetensors"}


def test_the_card_says_how_it_was_made():
    card = (LANGUAGE_DIR / "README.md").read_text()
    assert "`python -m worker pretrain --out DIR --seed 1" in card
    assert "Never in the corpus" in card


@pytest.mark.parametrize("name", ["CartPole", "Taxi", "FrozenLake 8x8", "DoorKey-6x6", "DoorKey-8x8", "GoToLocal"])
def test_its_hints_are_right_and_words_are_obeyed(reader, hints, name):
    states, generator = states_of(name), random.Random(1)
    assert hint_accuracy(reader, states, generator)["hint"] >= 0.85
    measured = obedience(reader, states, hints, generator)
    assert measured["right"] >= 0.97
    assert measured["wrong"] >= 0.97
    assert measured["swap"] is None or measured["swap"] >= 0.97


TAXI_FALLS_SHORT = pytest.mark.xfail(reason="the model's card says so: it has read Taxi's 399 texts too often")


@pytest.mark.parametrize(
    "name",
    [
        "CartPole",
        pytest.param("Taxi", marks=TAXI_FALLS_SHORT),
        "FrozenLake 8x8",
        "DoorKey-6x6",
        "DoorKey-8x8",
        "GoToLocal",
    ],
)
def test_hints_that_name_no_action_are_worth_next_to_nothing(reader, hints, name):
    rewards = speechless_rewards(reader, states_of(name), hints, random.Random(1))
    assert all(rewards[kind] < 0.1 for kind in SPEECHLESS)


def test_random_weights_of_the_same_shape_know_nothing(hints, tmp_path):
    """What is measured is learned: not the tokenizer, not the prompts, nothing around the model writes hints."""
    tokenizer = AutoTokenizer.from_pretrained(LANGUAGE_DIR)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(LANGUAGE_DIR)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reader, states = Reader(load_language_model(str(tmp_path))), states_of("Taxi")
    assert hint_accuracy(reader, states, random.Random(1))["hint"] <= 0.1  # chance: words from the whole vocabulary
    measured = obedience(reader, states, hints, random.Random(1))
    chance = np.mean([1 / len(state.actions) for state in states])
    assert abs(measured["right"] - chance) < 0.25
    assert abs(measured["wrong"] - chance) < 0.25


def test_a_doorkey_view_has_at_most_48_tokens(language):
    encoder = TextEncoder(language.tokenizer, max_tokens=language.max_tokens)
    for size in ("5x5", "6x6", "8x8", "16x16"):
        env_id = f"MiniGrid-DoorKey-{size}-v0"
        register_levels(env_id)
        env = gymnasium.make(env_id)
        describer, generator = describer_for(env), np.random.default_rng(1)
        for seed in range(20):
            observation, _ = env.reset(seed=seed)
            for _ in range(20):
                assert len(encoder.encode(describer.describe(observation))) <= 48
                observation, _, terminated, truncated, _ = env.step(int(generator.integers(7)))
                if terminated or truncated:
                    break
        env.close()


def test_progress_rises_along_a_teacher_s_steps(reader):
    world, seeds = WORLDS["DoorKey-6x6"], range(FIRST_SEED, FIRST_SEED + 10)
    row = progress_along(reader, [episode_states(world, seed, random.Random(1), max_mixed_steps=0) for seed in seeds])
    assert row["rising"] >= 0.75
    assert 0 <= row["least_potential"] < row["largest_potential"] <= 1


def test_left_and_right_in_a_hint_of_cart_pole_decide(reader):
    [state] = states_of("CartPole", 1)
    for hint in ("you should push left", "push right now"):
        [row] = reader.action_log_probs([state], [hint])
        [other] = reader.action_log_probs([state], [exchanged(hint)])
        assert (row[0] > row[1]) == ("left" in hint)
        assert (other[0] > other[1]) == ("right" in hint)
