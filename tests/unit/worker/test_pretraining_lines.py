"""What the corpus says, and what is learned from it."""

import math
import random
import re

import pytest
import torch

from hintwise.gpt2_forward import GPT2Forward
from hintwise.tokens import TextEncoder
from worker.pretraining import lines
from worker.pretraining.batches import collate_rows
from worker.pretraining.corpus import Corpus
from worker.pretraining.hints import NONSENSE_KINDS, Hints, right_hint
from worker.pretraining.lines import NO_PROGRESS, PROGRESS_WEIGHT, RowWriter
from worker.pretraining.model import build_model
from worker.pretraining.states import collect
from worker.pretraining.tokenizer import build_tokenizer, texts_of
from worker.pretraining.train import batch_losses
from worker.pretraining.worlds import World, lake, registered

WORLDS = (
    World("CartPole", "cart pole", 1.0, registered("CartPole-v1"), progress=False),
    lake(4, 1.0),
    World("Taxi", "taxi", 1.0, registered("Taxi-v4")),
)


@pytest.fixture(scope="module")
def states():
    return [s for world in WORLDS for s in collect(world, 40, first_seed=1, generator=random.Random(1))]


@pytest.fixture(scope="module")
def hints(states):
    return Hints.of(states)


@pytest.fixture(scope="module")
def tokenizer(states):
    return build_tokenizer(texts_of(states))


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return TextEncoder(tokenizer, max_tokens=1_024)


@pytest.fixture(scope="module")
def tasks(states):
    return Corpus(states, [], Hints({}), {}).tasks


@pytest.fixture(scope="module")
def all_rows(states, hints, encoder, tasks):
    writer, generator = RowWriter(encoder, hints, tasks), random.Random(2)
    return [writer.row(state, generator) for state in states]


@pytest.fixture(scope="module")
def rows(all_rows):
    """Those of one state each."""
    return [row for row in all_rows if not row.rises]


@pytest.fixture
def one_state_a_row(monkeypatch):
    monkeypatch.setattr(lines, "RISING_SHARE", 0.0)


def texts_in(row, tokenizer):
    """Yields each continuation of a row, behind its state."""
    trunk = [token for token, branch in zip(row.token_ids, row.branches, strict=True) if branch == 0]
    for number in range(1, row.branches[-1] + 1):
        own = [token for token, branch in zip(row.token_ids, row.branches, strict=True) if branch == number]
        yield trunk + own, tokenizer.decode(trunk + own)


def test_a_continuation_has_the_tokens_of_the_whole_prompt(all_rows, tokenizer, encoder):
    for row in all_rows:
        for token_ids, text in texts_in(row, tokenizer):
            assert list(encoder.encode(text)) == token_ids


def test_nothing_is_learned_from_a_state(all_rows):
    for row in all_rows:
        # the first word of a continuation, hint: or action:, is not predicted either
        assert all(row.branches[target.column] > 0 for target in row.targets)


def test_words_of_one_hint_a_row_are_learned(rows, encoder):
    [line_end] = encoder.encode("\n")
    for row in rows:
        assert sum(target.token == line_end for target in row.targets) == 1


def test_the_learned_hint_is_the_right_one(states, hints, encoder, tokenizer, tasks, one_state_a_row):
    writer, generator = RowWriter(encoder, hints, tasks), random.Random(3)
    for state in states:
        row = writer.row(state, generator)
        first = min(target.column for target in row.targets)
        end = next(t.column for t in row.targets if tokenizer.decode([t.token]) == "\n")
        written = tokenizer.decode(row.token_ids[first + 1 : end + 1]).strip()
        assert written in {right_hint(state, action) for action in state.advised}


def test_without_a_hint_every_legal_action_is_as_likely(states, encoder, hints, tasks, one_state_a_row):
    state = next(state for state in states if state.world == "Taxi" and len(state.actions) > 2)
    row = RowWriter(encoder, hints, tasks).row(state, random.Random(5))
    firsts = {encoder.encode(f" {action}")[0] for action in state.actions}
    by_column = {}
    for target in row.targets:
        by_column.setdefault(target.column, {})[target.token] = target.weight
    spread = [odds for odds in by_column.values() if odds.keys() == firsts]
    assert spread
    for odds in spread:
        assert math.isclose(sum(odds.values()), 1)
        for token, share in odds.items():
            begun = sum(encoder.encode(f" {action}")[0] == token for action in state.actions)
            assert math.isclose(share, begun / len(state.actions))


def test_odds_sum_to_one_wherever_something_is_predicted(rows):
    for row in rows:
        sums = {}
        for target in row.targets:
            sums[target.column] = sums.get(target.column, 0.0) + target.weight
        assert all(any(math.isclose(total, whole) for whole in (1, PROGRESS_WEIGHT)) for total in sums.values())


def test_nonsense_names_no_action(states, hints):
    generator = random.Random(4)
    for state in states:
        for kind in NONSENSE_KINDS:
            hint = hints.nonsense(kind, state, generator)
            assert hint is None or not hints.books[state.family].is_well_formed(hint)


def test_any_hint_is_well_formed(states, hints):
    generator = random.Random(4)
    for state in states:
        book = hints.books[state.family]
        for action in state.actions:
            assert book.is_well_formed(book.any(action, generator))


def test_progress_is_asked_of_hints_of_the_state_s_own_purposes_and_of_nonsense(
    states, hints, encoder, tokenizer, tasks, one_state_a_row
):
    writer, generator = RowWriter(encoder, hints, tasks), random.Random(6)
    [yes] = encoder.encode(" yes")
    asked = 0
    for state in [state for state in states if state.purposes]:
        row = writer.row(state, generator)
        odds = {row.branches[t.column]: t.weight / PROGRESS_WEIGHT for t in row.targets if t.token == yes}
        for number, (_, text) in enumerate(texts_in(row, tokenizer), 1):
            if text.endswith("done:"):
                asked += 1
                hint = text.rpartition("hint: ")[2].removesuffix("\ndone:")
                own = {p.potential for p in state.purposes if hint == p.hint or (p.clause and hint.endswith(p.clause))}
                nonsense = not hints.books[state.family].is_well_formed(hint)
                assert odds[number] in own or (nonsense and odds[number] == pytest.approx(NO_PROGRESS))
    assert asked > 20


def test_a_row_reads_each_continuation_as_if_alone(rows, tokenizer):
    """The mask and positions of a whole batch against plain text, one continuation at a time."""
    model = build_model(tokenizer, layers=2, width=32, seed=0).eval()
    batch = collate_rows(rows[:12])
    with torch.inference_mode():
        hidden = GPT2Forward(model).hidden_states(batch.rows, None).flatten(0, 1)[batch.places]
        ours = (hidden @ model.transformer.wte.weight.T).log_softmax(-1)
        place = 0
        for row in rows[:12]:
            for column in sorted({target.column for target in row.targets}):
                branch = row.branches[column]
                kept = [k for k in range(column + 1) if row.branches[k] in (0, branch)]
                alone = torch.tensor([[row.token_ids[k] for k in kept]])
                theirs = model(input_ids=alone).logits[0, -1].log_softmax(-1)
                torch.testing.assert_close(ours[place], theirs, atol=1e-5, rtol=1e-4)
                place += 1
    assert place == len(batch.places)


def test_the_tokenizer_takes_any_text(tokenizer, encoder):
    for text in ("state: cart 20\nhint: go left", "päivää 日本 \x00 🦊", "zzz  q\n\n"):
        assert tokenizer.decode(encoder.encode(text)) == text
    assert len(encoder.encode(" passenger")) > 1
    assert len(encoder.encode("state: cart 20")) == 4


def test_a_row_of_two_states_reads_each_as_if_alone_and_asks_for_a_rise(all_rows, states, tokenizer):
    model = build_model(tokenizer, layers=2, width=32, seed=0).eval()
    pairs = [row for row in all_rows if row.rises]
    assert pairs
    [no, yes] = (tokenizer.encode(text, add_special_tokens=False)[0] for text in (" no", " yes"))
    with torch.inference_mode():
        predicted, rising = batch_losses(model, GPT2Forward(model), collate_rows(pairs))
        odds = []
        for row in pairs:
            for token_ids, text in texts_in(row, tokenizer):
                assert text.endswith("done:")
                logits = model(input_ids=torch.tensor([token_ids])).logits[0, -1]
                odds.append((logits[yes] - logits[no]).item())
    assert predicted == 0
    expected = sum(math.log1p(math.exp(odds[k] - odds[k + 1])) for k in range(0, len(odds), 2))
    assert rising.item() == pytest.approx(expected, rel=1e-4)
    followers = {(state.text, state.next_text) for state in states if state.next_text}
    for row in pairs:
        told = [re.search(r"state: (.*)\n", text)[1] for _, text in texts_in(row, tokenizer)]
        assert tuple(told) in followers


def test_some_rows_have_another_task_of_the_family_and_some_none(states, hints, encoder, tokenizer):
    state = states[0]
    writer = RowWriter(encoder, hints, {state.family: [state.task, "another task"]})
    told = [tokenizer.decode(writer.row(state, random.Random(k)).token_ids) for k in range(200)]
    assert any(text.startswith("task: another task\n") for text in told)
    assert any(text.startswith("state:") for text in told)
    assert sum(text.startswith(f"task: {state.task}\n") for text in told) > 100
