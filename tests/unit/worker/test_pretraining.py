"""`python -m worker pretrain`, on two small worlds and a tiny model."""

import json
import random
import re
import signal

import pytest
import torch

from hintwise.language_model import load_language_model
from worker.errors import CheckpointUnusable, Interrupted, UsageError
from worker.hint_words import exchanged, named_action
from worker.pretraining import obey
from worker.pretraining import run as run_module
from worker.pretraining.corpus import build_corpus
from worker.pretraining.model import build_model
from worker.pretraining.model_card import command
from worker.pretraining.obey import Outcome, play, summary
from worker.pretraining.reader import Reader
from worker.pretraining.run import run
from worker.pretraining.saved_training import TRAINING_DIR, SavedTraining
from worker.pretraining.settings import PretrainConfig
from worker.pretraining.states import collect, episode_states
from worker.pretraining.targets import OF_A_WORLD, shortfalls
from worker.pretraining.tokenizer import build_tokenizer, texts_of
from worker.pretraining.train import Plan, build_optimizer, train
from worker.pretraining.worlds import CORPUS, UNSEEN, World, lake, registered

WORLDS = (
    lake(4, 1.0),
    World("Taxi", "taxi", 1.0, registered("Taxi-v4")),
)
HELD_OUT = range(500_000, 900_000)
TINY = {"num_states": 50, "batch_tokens": 512, "layers": 1, "width": 32, "num_threads": 1, "episodes": 1}


@pytest.fixture
def small_worlds(monkeypatch):
    monkeypatch.setattr(run_module, "CORPUS", WORLDS)
    monkeypatch.setattr(run_module, "UNSEEN", ())
    monkeypatch.setattr(obey, "MAX_STEPS", 5)  # an untrained model writes long hints


def test_one_command_writes_a_model_that_loads(small_worlds, tmp_path, capsys):
    out = tmp_path / "model"
    run(PretrainConfig(out=out, num_steps=3, **TINY))
    model = load_language_model(str(out))
    assert model.max_tokens == 1_024
    card = (out / "README.md").read_text()
    assert "Held-out perplexity" in card
    assert "Acrobot" in card
    assert not (out / TRAINING_DIR).exists()
    capsys.readouterr()
    run(PretrainConfig(evaluate=out, num_threads=1, episodes=1))
    printed = json.loads(capsys.readouterr().out)
    assert [row["world"] for row in printed["worlds"]] == [world.name for world in WORLDS]
    for row in printed["worlds"]:
        assert 0 <= row["least_potential"] <= row["largest_potential"] <= 1
        assert row["empty"] == 0  # a hint without words is no hint


def test_a_directory_in_use_is_refused(small_worlds, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds a model"):
        run(PretrainConfig(out=tmp_path, num_steps=1, **TINY))


def test_the_card_has_the_command_that_makes_the_model(tmp_path):
    config = PretrainConfig(out=tmp_path, seed=3, num_steps=5, minutes=2, resume=True, num_threads=1)
    assert command(config) == "python -m worker pretrain --out DIR --seed 3 --num-steps 5 --minutes 2.0"


def test_nothing_to_resume_is_said(small_worlds, tmp_path):
    with pytest.raises(UsageError, match="no unfinished training"):
        run(PretrainConfig(out=tmp_path, resume=True, num_steps=1, **TINY))


def test_one_of_out_and_evaluate_is_needed():
    with pytest.raises(ValueError, match="--out DIR to train"):
        PretrainConfig()


@pytest.fixture(scope="module")
def corpus():
    return build_corpus(WORLDS, num_states=50, seed=1)


def trained(corpus, directory, *, stop_at=None, resume=False):
    """Returns the weights after eight steps, or raises `Interrupted` after `stop_at`."""
    config = PretrainConfig(out=directory, num_steps=8, **TINY)
    tokenizer = build_tokenizer(texts_of(corpus.states))
    model = build_model(tokenizer, layers=1, width=32, seed=1)
    batches = run_module._batches(corpus, tokenizer, config)
    whole = batches.batch

    def batch(step):
        if step == stop_at:
            signal.raise_signal(signal.SIGINT)
        return whole(step)

    batches.batch = batch
    train(
        model, batches, Plan(8, None, 1e-3), SavedTraining(directory, {"seed": 1}), resume=resume, say=lambda line: None
    )
    return model.state_dict()


def test_a_stopped_training_goes_on_to_the_same_weights(corpus, tmp_path):
    straight = trained(corpus, tmp_path / "straight")
    with pytest.raises(Interrupted, match="--resume"):
        trained(corpus, tmp_path / "stopped", stop_at=3)
    resumed = trained(corpus, tmp_path / "stopped", resume=True)
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_what_is_trained_to_the_end_is_kept_until_it_is_written(corpus, tmp_path):
    straight = trained(corpus, tmp_path)
    again = trained(corpus, tmp_path, stop_at=0, resume=True)  # no step is left, so nothing raises the signal
    for name, value in straight.items():
        assert torch.equal(value, again[name]), name


def test_a_damaged_checkpoint_is_refused(corpus, tmp_path):
    with pytest.raises(Interrupted):
        trained(corpus, tmp_path, stop_at=1)
    (tmp_path / TRAINING_DIR / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointUnusable, match="leave out --resume"):
        trained(corpus, tmp_path, resume=True)


def test_another_seed_cannot_go_on_from_a_checkpoint(corpus, tmp_path):
    with pytest.raises(Interrupted):
        trained(corpus, tmp_path, stop_at=1)
    with pytest.raises(CheckpointUnusable, match="begun with seed 1, not 2; pass --seed 1"):
        SavedTraining(tmp_path, {"seed": 2}).load(*untrained(corpus))


def test_a_checkpoint_of_another_shape_is_refused(corpus, tmp_path):
    with pytest.raises(Interrupted):
        trained(corpus, tmp_path, stop_at=1)
    with pytest.raises(CheckpointUnusable, match="leave out --resume"):
        SavedTraining(tmp_path).load(*untrained(corpus, width=64))


def untrained(corpus, *, width=32):
    model = build_model(build_tokenizer(texts_of(corpus.states)), layers=1, width=width, seed=1)
    return model, build_optimizer(model)


def test_what_falls_short_is_said():
    row = {"world": "CartPole", "hint": 0.97, "right": 1.0, "wrong": 0.5, "empty": 0.0, "shuffled": 0.1, "swap": None}
    assert shortfalls([row]) == [
        "CartPole: wrong 0.500, wanted 0.97 or more",
        "CartPole: hint 0.970, wanted 0.98 or more",
        "CartPole: shuffled 0.100, wanted less than 0.1",
    ]
    assert shortfalls([{"world": "CartPole", "hint": 0.98, "wrong": 0.97}]) == []


def test_targets_are_of_worlds_that_are_measured():
    assert set(OF_A_WORLD) <= {world.name for world in (*CORPUS, *UNSEEN)}


def test_the_corpus_keeps_to_its_seeds():
    seen = []
    spied = World("Taxi", "taxi", 1.0, lambda seed, reach: (seen.append(seed), registered("Taxi-v4")(seed, reach))[1])
    build_corpus([spied], num_states=60, seed=499_999)
    learned, held_out = (set(filter(within, seen)) for within in (range(500_000).__contains__, HELD_OUT.__contains__))
    assert learned
    assert held_out
    assert learned | held_out == set(seen)


def test_the_unseen_worlds_are_not_in_the_corpus():
    names = {world.name for world in CORPUS}
    assert not names & {world.name for world in UNSEEN}
    assert not any(
        name.startswith(("Acrobot", "KeyCorridor", "FourRooms", "DoorKey-8", "DoorKey-16")) for name in names
    )


def test_the_same_seed_gives_the_same_corpus(corpus):
    assert build_corpus(WORLDS, num_states=50, seed=1).states == corpus.states


def test_a_text_counts_once(corpus):
    for world in WORLDS:
        texts = [state.text for state in corpus.states if state.world == world.name]
        assert len(texts) == len(set(texts))


def test_steps_are_counted_to_the_end_of_each_purpose_where_the_teacher_played_alone():
    states = episode_states(WORLDS[1], 900_000, random.Random(1), max_mixed_steps=0)
    fetched = next(i for i, state in enumerate(states) if "carry" in state.text)
    assert [state.purposes[0].remaining for state in states[: fetched - 1]] == list(range(fetched - 1, 0, -1))
    assert states[fetched - 1].hint.startswith("pick up at ")
    assert (states[fetched - 1].hint, 0) in [(p.hint, p.remaining) for p in states[fetched].purposes]
    assert states[-1].purposes[-1].remaining == 1  # the passenger is dropped off


def test_steps_that_are_not_all_the_teacher_s_are_not_counted():
    states = episode_states(WORLDS[1], 900_000, random.Random(8), max_mixed_steps=30)
    known = [bool(state.purposes) for state in states]
    assert known == sorted(known)
    assert 0 < sum(known) < len(known)


def test_an_episode_with_a_memory_is_told_and_taught_with_it():
    lake_with = lake(8, 1.0)._replace(memory=1.0)
    [states, plain] = [
        episode_states(world, 900_001, random.Random(3)) for world in (lake_with, lake_with._replace(memory=0.0))
    ]
    returned = [state for state in states if re.search(r"open \d", state.text)]
    assert returned
    assert not any(re.search(r"open \d", state.text) for state in plain)


class Advisor:
    """Stands for a model that writes one hint for each text, and obeys hints."""

    def __init__(self, hint_of):
        self._hint_of = hint_of

    def hints(self, states, *, temperature, seed):
        return [self._hint_of(state) for state in states]

    def action_log_probs(self, states, hints):
        return [
            [0.0 if hint and named_action(hint, state.all_actions) == action else -1.0 for action in state.actions]
            for state, hint in zip(states, hints, strict=True)
        ]


CLIFF = World(
    "CliffWalking", "grid walk", 1.0, registered("CliffWalking-v1", max_episode_steps=60), rewards_success=False
)


def test_an_agent_that_obeys_the_teacher_wins():
    known = collect(CLIFF, 40, first_seed=1, generator=random.Random(1))
    hints = {state.text: state.hint for state in known}
    outcomes = play(Advisor(lambda state: hints[state.text]), CLIFF, [900_000, 900_001])
    assert outcomes == [Outcome(True, -13.0)] * 2
    assert summary(CLIFF, outcomes) == {"obeyed": 1.0, "mean_return": -13.0}


def test_an_agent_that_obeys_bad_advice_does_not():
    outcomes = play(Advisor(lambda state: "go left"), CLIFF, [900_000])
    assert outcomes == [Outcome(False, -60.0)]


def test_no_steps_leave_the_first_weights(corpus, tmp_path):
    tokenizer = build_tokenizer(texts_of(corpus.states))
    model, first = (build_model(tokenizer, layers=1, width=32, seed=1) for _ in range(2))
    batches = run_module._batches(corpus, tokenizer, PretrainConfig(out=tmp_path, **TINY))
    train(model, batches, Plan(0, None, 1e-3), SavedTraining(tmp_path), resume=False, say=lambda line: None)
    for name, value in first.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_a_named_action_is_the_longest_that_fits():
    [state] = collect(WORLDS[0], 1, first_seed=1, generator=random.Random(1))
    assert named_action("go left to reach the goal", state.all_actions) == "left"
    assert named_action("leftwards", state.all_actions) is None
    assert named_action("the go left", state.all_actions) is None


def test_left_and_right_are_exchanged_as_words():
    assert exchanged("go left, or right to leftmost") == "go left, or left to leftmost"


def test_written_hints_are_the_likeliest_words(small_worlds, tmp_path, corpus):
    """A greedy hint, token by token, against one forward over the whole text."""
    run(PretrainConfig(out=tmp_path / "model", num_steps=2, **TINY))
    model = load_language_model(str(tmp_path / "model"))
    states = corpus.states[:3]
    from hintwise.prompts import guidance_prompt

    for state, hint in zip(states, Reader(model).hints(states), strict=True):
        ids = model.tokenizer.encode(guidance_prompt(state.text, task=state.task), add_special_tokens=False)
        with torch.inference_mode():
            grown = list(ids)
            for _ in range(32):
                token = int(model.model(input_ids=torch.tensor([grown])).logits[0, -1].argmax())
                if model.tokenizer.decode([token]) == "\n" or token == model.tokenizer.eos_token_id:
                    break
                grown.append(token)
        assert model.tokenizer.decode(grown[len(ids) :]).strip() == hint
