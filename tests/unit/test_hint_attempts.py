"""Hints of a model that says what a script says: what is tried again, heard and kept."""

from types import SimpleNamespace

import pytest
import torch

from service.hint_cache import HintCache
from service.hint_generator import HintGenerator, HintRequest
from service.hint_reader import HintReader

SURE, UNLIKELY = 40.0, -40.0


class Rows:
    """The key-value cache of a script: nothing to remember."""

    def reorder_cache(self, index):
        pass


class Scripted:
    """Stands in for the model: its answer to the n-th reading of a prompt is the n-th text, then the end of text."""

    def __init__(self, language_model, *texts):
        tokenizer = language_model.tokenizer
        self.texts = [[*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id] for text in texts]
        self.size, self.num_readings, self.place, self.steps = len(tokenizer), 0, 0, 0

    def __call__(self, *, input_ids, past_key_values, **inputs):
        self.steps += 1
        if past_key_values is None:
            self.num_readings, self.place = self.num_readings + 1, 0
        token = self.texts[self.num_readings - 1][self.place]
        self.place += 1
        logits = torch.full((len(input_ids), 1, self.size), UNLIKELY)
        logits[:, :, token] = SURE
        return SimpleNamespace(logits=logits, past_key_values=past_key_values or Rows())


class Listener(HintReader):
    def __init__(self):
        super().__init__()
        self.heard = []

    @property
    def listens(self):
        return True

    def hear(self, tokens):
        self.heard.extend(tokens)


def written(embedded, *texts, prompt="state: cart 20 speed 21 pole 20 turn 19\nhint:", cache=None, **fields):
    """Returns the hint, the script and what a listener heard."""
    generator = HintGenerator(embedded, cache)
    generator._model = script = Scripted(embedded, *texts)
    reader = Listener()
    asked = {"max_new_tokens": 64, "temperature": 0.7, "seed": 1, "item": 0, "reader": reader, **fields}
    steps = generator.write([HintRequest(tuple(generator.encoder.encode(prompt)), **asked)])
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            [hint] = ended.value
            return hint, script, reader.heard


def heard_text(embedded, heard):
    assert [place for _, place, _ in heard] == list(range(len(heard)))  # in order, none twice
    return embedded.tokenizer.decode([token for *_, token in heard]).strip()


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (" push left", "push left"),
        (" push left. Then push right.", "push left."),
        (" push left.", "push left."),
        (" push left state: cart 20", "push left"),
        (" push left now cart 20 speed 21 pole 20 turn 19", "push left now"),
        (" push left left left left left left", "push left"),
    ],
)
def test_a_hint_ends_where_it_is_said(embedded, text, hint):
    made, script, heard = written(embedded, text)
    assert (made.text, made.finish_reason) == (hint, "stop")
    assert embedded.tokenizer.decode(list(made.token_ids)).strip() == hint
    assert script.num_readings == 1
    assert hint.startswith(heard_text(embedded, heard))


DEGENERATE = [" hint: push left", " left left left left left", " cart 20 speed 21 pole 20 turn 19", " ...", ""]


@pytest.mark.parametrize("text", DEGENERATE)
def test_what_says_nothing_is_written_once_more(embedded, text):
    made, script, heard = written(embedded, text, " push right now and then.")
    assert (made.text, made.finish_reason, script.num_readings) == ("push right now and then.", "stop", 2)
    assert made.text.startswith(heard_text(embedded, heard))


@pytest.mark.parametrize("text", DEGENERATE)
def test_twice_nothing_is_reported(embedded, text):
    made, script, heard = written(embedded, text, text, " push right")
    assert made == ("", (), 0.0, "degenerate")
    assert (script.num_readings, heard) == (2, [])


def test_temperature_0_would_say_the_same_again(embedded):
    made, script, _ = written(embedded, " ...", " push right", temperature=0)
    assert (made.finish_reason, script.num_readings) == ("degenerate", 1)


def test_a_second_attempt_draws_other_numbers(embedded):
    """The same model twice: were its draws the same, so were its words."""
    generator = HintGenerator(embedded)
    seen = []
    generator._watch = lambda prompt: (
        seen.append([])
        or SimpleNamespace(
            add=lambda token, own=seen[-1]: own.append(token) or (0 if len(own) == 6 else None),
            num_sure=0,
            ends_a_sentence=False,
        )
    )
    generator._stop_ids = frozenset()
    for _ in range(2):
        for _ in generator.write([HintRequest((5, 6), 8, 3.0, 1, 0)]):
            pass
    first, second, first_again, second_again = seen
    assert first != second
    assert (first, second) == (first_again, second_again)


# Kept hints


def test_a_kept_hint_is_not_written_again(embedded):
    lookups = []
    cache = HintCache(10, lookups.append)
    first, *_ = written(embedded, " push left", cache=cache)
    second, script, heard = written(embedded, " push right", cache=cache)
    assert second == first
    assert (script.steps, heard) == (0, [])
    assert lookups == [(0, 0, 1), (1, 0, 0)]


@pytest.mark.parametrize(
    "differs",
    [{"seed": 2}, {"item": 1}, {"temperature": 0.8}, {"max_new_tokens": 63}, {"prompt": "state: x\nhint:"}],
)
def test_other_hints_are_written(embedded, differs):
    cache = HintCache(10)
    written(embedded, " push left", cache=cache)
    assert written(embedded, " push right", cache=cache, **differs)[0].text == "push right"


def test_greedy_hints_are_kept_whatever_the_seed(embedded):
    cache = HintCache(10)
    written(embedded, " push left", cache=cache, temperature=0, seed=1, seeded=False)
    assert written(embedded, " push right", cache=cache, temperature=0, seed=2)[0].text == "push left"


def test_what_cannot_be_asked_for_again_is_not_kept(embedded):
    cache = HintCache(10)
    written(embedded, " push left", cache=cache, seeded=False)
    assert written(embedded, " push right", cache=cache)[0].text == "push right"


def test_a_hint_of_another_model_is_not_taken(embedded):
    cache = HintCache(10)
    written(embedded, " push left", cache=cache)
    names = ("tokenizer", "model", "max_tokens", "device")
    other = SimpleNamespace(sha256="other", **{name: getattr(embedded, name) for name in names})
    assert written(other, " push right", cache=cache)[0].text == "push right"


@pytest.mark.parametrize("max_hints", [0, 1])
def test_no_more_hints_are_kept_than_allowed(embedded, max_hints):
    cache = HintCache(max_hints)
    for seed in (1, 2):
        written(embedded, " push left", cache=cache, seed=seed)
    assert written(embedded, " push right", cache=cache, seed=1)[0].text == "push right"
    assert written(embedded, " push right", cache=HintCache(0))[0].text == "push right"


def test_a_hint_that_its_readers_left_is_not_kept(embedded):
    cache, gone = HintCache(10), HintReader()
    gone.left = True
    written(embedded, " push left", cache=cache, reader=gone)
    assert written(embedded, " push right", cache=cache)[0].text == "push right"


def test_nothing_is_kept_of_a_first_attempt_whose_readers_left_before_the_second(embedded):
    """Another hint of the batch is still being written when they leave; who asks later has both attempts."""
    cache, leaver = HintCache(10), HintReader()
    generator = HintGenerator(embedded, cache)
    generator._model = Scripted(embedded, "..  push left")
    prompt = tuple(generator.encoder.encode("state: cart 20 speed 21 pole 20 turn 19\nhint:"))
    short, long = HintRequest(prompt, 1, 0.7, 1, 0, leaver), HintRequest(prompt, 64, 0.7, 1, 1)
    steps = generator.write([short, long])
    next(steps)
    leaver.left = True
    for _ in steps:
        pass
    again, script, _ = written(embedded, "..", " push", cache=cache, max_new_tokens=1)
    assert (script.num_readings, again.finish_reason) == (2, "length")


@pytest.mark.parametrize(("texts", "temperature"), [([" ...", " ..."], 0.7), ([" ..."], 0)])
def test_a_hint_that_stays_degenerate_is_kept(embedded, texts, temperature):
    cache = HintCache(10)
    written(embedded, *texts, cache=cache, temperature=temperature)
    hint, script, _ = written(embedded, " push left", cache=cache, temperature=temperature)
    assert (hint.finish_reason, script.steps) == ("degenerate", 0)
