"""Hints written together: what is read once, what leaves the batch, and that no hint tells."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hintwise.errors import InferenceFailed
from service import hint_generator
from service.hint_generator import HintGenerator, HintRequest
from service.hint_reader import HintReader

PROMPTS = ((5, 6, 7), (5, 6), tuple(range(40, 90)), (9,), (300, 2, 300, 2, 11))


class Counting:
    """The guidance model, and how many rows of how many tokens it was given at each step."""

    def __init__(self, model):
        self.model, self.shapes, self.at_step = model, [], {}
        self.caches = []

    def __call__(self, **inputs):
        self.shapes.append(tuple(inputs["input_ids"].shape))
        if action := self.at_step.get(len(self.shapes) - 1):
            action()
        output = self.model(**inputs)
        self.caches.append(output.past_key_values)
        return output

    @property
    def rows(self):
        return [rows for rows, _ in self.shapes]


class Listener(HintReader):
    """Hears on the spot, with no event loop."""

    def __init__(self):
        super().__init__()
        self.heard = []

    @property
    def listens(self):
        return True

    def hear(self, tokens):
        self.heard.extend(tokens)


@pytest.fixture(scope="module")
def plain(embedded, unwatched):
    generator = HintGenerator(embedded)
    generator._watch = unwatched
    return generator


@pytest.fixture
def generator(embedded, unwatched, monkeypatch):
    """One that counts, and whose hints go on to their last token, whatever they say."""
    generator = HintGenerator(embedded)
    generator._model, generator._stop_ids = Counting(embedded.model), frozenset()
    generator._watch = unwatched
    monkeypatch.setattr(hint_generator, "_may_try_again", lambda line: False)
    return generator


def finished(steps):
    """Returns what a generator of steps returns, having run them all."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value


def asked(prompt=PROMPTS[0], max_new_tokens=6, temperature=0.7, seed=1, item=0, **fields):
    return HintRequest(prompt, max_new_tokens, temperature, seed, item, **fields)


def agree(hint, other):
    """Whether two hints are the same but for rounding in the log-prob."""
    return hint._replace(log_prob=0) == other._replace(log_prob=0) and abs(hint.log_prob - other.log_prob) < 1e-4


@torch.no_grad()
def recomputed_log_prob(language_model, request, hint):
    """Returns the log-prob of a hint from one plain forward over prompt and hint."""
    ids, length = [*request.prompt, *hint.token_ids], len(hint.token_ids)
    log_probs = language_model.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    before = log_probs[len(ids) - length - 1 : -1]  # (length, V): each row scores the token after it
    return before.gather(1, torch.tensor(hint.token_ids, dtype=torch.long).unsqueeze(1)).sum().item()


# Nobody can tell


requests = st.builds(
    asked,
    prompt=st.sampled_from(PROMPTS),
    max_new_tokens=st.integers(1, 12),
    temperature=st.sampled_from([0, 0.3, 1.0, 3.0, 100.0]),
    seed=st.integers(0, 2),
    item=st.integers(0, 2),
)


@settings(max_examples=80)
@given(wanted=st.lists(requests, min_size=1, max_size=12), stop_ids=st.frozensets(st.integers(0, 587), max_size=200))
def test_a_hint_is_the_same_alone_and_with_any_others(embedded, wanted, stop_ids):
    """Alone nothing is shared; frequent stops make lines leave at any step."""
    generator = HintGenerator(embedded)
    generator._stop_ids = stop_ids
    together = finished(generator.write(wanted))
    alone = [finished(generator.write([request]))[0] for request in wanted]
    assert all(agree(hint, other) for hint, other in zip(together, alone, strict=True))
    for request, hint in zip(wanted, together, strict=True):
        assert hint.log_prob == pytest.approx(recomputed_log_prob(embedded, request, hint), abs=1e-3)


@settings(max_examples=50)
@given(
    wanted=st.lists(st.tuples(requests, st.integers(0, 2)), min_size=1, max_size=10),
    leaves=st.lists(st.integers(0, 12) | st.none(), min_size=3, max_size=3),
)
def test_who_leaves_and_when_changes_nothing_for_those_who_stay(plain, embedded, unwatched, wanted, leaves):
    generator = HintGenerator(embedded)
    generator._watch = unwatched
    generator._model = Counting(embedded.model)
    readers = [Listener() for _ in leaves]
    for step in range(13):
        generator._model.at_step[step] = lambda step=step: [
            setattr(reader, "left", True) for reader, when in zip(readers, leaves, strict=True) if when == step
        ]
    for reader, when in zip(readers, leaves, strict=True):
        reader.left = when == 0
    listening = [replace(request, reader=readers[who], number=n) for n, (request, who) in enumerate(wanted)]
    together = finished(generator.write(listening))
    for number, (request, who) in enumerate(wanted):
        heard = [token for hint, _, token in readers[who].heard if hint == number]
        places = [place for hint, place, _ in readers[who].heard if hint == number]
        [alone] = finished(plain.write([request]))
        assert places == list(range(len(heard)))  # in order, none twice
        assert tuple(heard) == alone.token_ids[: len(heard)]
        if not readers[who].left:
            assert agree(together[number], alone)
            assert tuple(heard) == alone.token_ids


def test_an_ended_hint_that_stays_needs_no_position_behind_the_model_s_last(generator, plain):
    """Its row grows on with the others of the batch, unread."""
    nearly_full = asked((5, 6) * (plain.language_model.max_tokens // 2 - 2), max_new_tokens=4, temperature=0)
    wanted = [nearly_full, *(asked(item=item, max_new_tokens=12) for item in range(3))]
    together = finished(generator.write(wanted))
    assert generator._model.rows == [2] + [4] * 11
    generator._model = plain._model
    assert all(agree(hint, *finished(generator.write([each]))) for hint, each in zip(together, wanted, strict=True))


# What is read once


def test_a_prompt_is_read_once_however_many_hints_continue_it(generator):
    wanted = [asked(prompt, item=item) for prompt in PROMPTS[:3] for item in range(4)]
    finished(generator.write(wanted))
    assert generator._model.shapes == [(3, max(map(len, PROMPTS[:3])))] + [(12, 1)] * 5


def test_equal_prompts_of_several_clients_are_read_once(generator):
    finished(generator.write([asked((*PROMPTS[0],), seed=seed, reader=HintReader()) for seed in range(5)]))
    assert generator._model.rows == [1, 5, 5, 5, 5, 5]


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_a_hint_that_draws_the_same_numbers_is_written_once_and_heard_by_all(generator, temperature):
    readers = [Listener(), Listener()]
    wanted = [asked(temperature=temperature, reader=reader, number=n) for n, reader in enumerate(readers)]
    first, second = finished(generator.write(wanted))
    assert generator._model.rows == [1] * 6
    assert first == second
    for number, reader in enumerate(readers):
        assert [hint for hint, _, _ in reader.heard] == [number] * 6
        assert tuple(token for _, _, token in reader.heard) == first.token_ids


@pytest.mark.parametrize("differs", [{"seed": 2}, {"item": 1}, {"temperature": 0.8}, {"max_new_tokens": 5}])
def test_hints_that_may_differ_are_written_apart(generator, differs):
    finished(generator.write([asked(), asked(**differs)]))
    assert generator._model.rows[1] == 2


def test_greedy_hints_do_not_depend_on_seeds(generator):
    finished(generator.write([asked(temperature=0, seed=seed, item=seed) for seed in range(3)]))
    assert generator._model.rows == [1] * 6


def test_greedy_hints_of_other_lengths_are_written_apart(generator):
    short, long = finished(generator.write([asked(temperature=0, max_new_tokens=n) for n in (2, 4)]))
    assert (len(short.token_ids), len(long.token_ids)) == (2, 4)
    assert generator._model.rows == [1, 2, 1, 1]


def test_one_of_two_readers_of_a_hint_may_leave(generator):
    staying, leaving = Listener(), Listener()
    generator._model.at_step[2] = lambda: setattr(leaving, "left", True)
    first, _ = finished(generator.write([asked(reader=leaving), asked(reader=staying)]))
    assert len(first.token_ids) == 6
    assert tuple(token for _, _, token in staying.heard) == first.token_ids


# What leaves


def test_one_long_hint_does_not_drag_ended_ones_along(generator):
    wanted = [asked(item=item, max_new_tokens=8 if item == 3 else 2) for item in range(8)]
    hints = finished(generator.write(wanted))
    assert generator._model.rows == [1, 8, 1, 1, 1, 1, 1, 1]
    assert [len(hint.token_ids) for hint in hints] == [2, 2, 2, 8, 2, 2, 2, 2]


def test_a_few_ended_lines_stay_until_there_are_more(generator):
    """To leave is to copy what is remembered of all others."""
    lengths = [3, 4, 5, 6, 7, 8, 8, 8]
    finished(generator.write([asked(item=item, max_new_tokens=length) for item, length in enumerate(lengths)]))
    assert generator._model.rows == [1, 8, 8, 8, 8, 5, 5, 3]


def test_lines_that_are_full_at_once_are_not_even_spread(generator):
    finished(generator.write([asked(item=item, max_new_tokens=1 if item else 3) for item in range(6)]))
    assert generator._model.rows == [1, 1, 1]


def test_lines_whose_reader_leaves_leave_the_batch(generator):
    leaving, staying = HintReader(), HintReader()
    generator._model.at_step[2] = lambda: setattr(leaving, "left", True)
    finished(generator.write([asked(item=item, reader=leaving if item else staying) for item in range(4)]))
    assert generator._model.rows == [1, 4, 4, 1, 1, 1]


def test_a_batch_that_everybody_left_is_not_read(generator):
    reader = HintReader()
    reader.left = True
    [hint] = finished(generator.write([asked(reader=reader)]))
    assert generator._model.shapes == []
    assert hint.token_ids == ()


def test_what_is_remembered_of_ended_lines_is_freed(generator):
    wanted = [asked(PROMPTS[2], item=item, max_new_tokens=9 if item == 0 else 3) for item in range(6)]
    steps = generator.write(wanted)
    for _ in range(3):
        next(steps)
    [layer, *_] = generator._model.caches[-1].layers
    assert layer.keys.shape[0] == 6
    whole = [weakref.ref(layer.keys), weakref.ref(layer.values)]
    next(steps)
    assert layer.keys.shape[0] == 1
    gc.collect()
    assert [each() for each in whole] == [None, None]
    assert layer.keys.untyped_storage().nbytes() == layer.keys.nbytes  # no view that keeps the rest alive
    cache = weakref.ref(generator._model.caches[-1])
    generator._model.caches.clear()
    del layer
    finished(steps)
    generator._model.caches.clear()
    gc.collect()
    assert cache() is None


def test_a_batch_never_has_more_padded_tokens_than_its_requests_said(generator):
    wanted = [asked(prompt, item=item, max_new_tokens=3 + item) for prompt in PROMPTS for item in range(3)]
    budget = len(wanted) * max(request.num_tokens for request in wanted)
    seen = []
    model = generator._model
    generator._model = lambda **inputs: (seen.append(inputs["attention_mask"].numel()), model(**inputs))[1]
    finished(generator.write(wanted))
    assert max(seen) <= budget


def test_scores_that_are_not_finite_are_a_failure_at_temperature_0_too(generator):
    model = generator._model

    def broken(**inputs):
        output = model(**inputs)
        output.logits = torch.full_like(output.logits, torch.nan)
        return output

    generator._model = broken
    for temperature in (0, 1):
        with pytest.raises(InferenceFailed, match="not finite"):
            finished(generator.write([asked(temperature=temperature)]))
