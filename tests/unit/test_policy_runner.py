"""What the service remembers between two batches: finished answers and prefixes, never under other weights."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hintwise import weights
from hintwise.language_model import load_language_model
from hintwise.prompts import action_prompt
from service.action_draw import Choice
from service.answer_cache import AnswerCache
from service.policy_runner import ActionQuestion, PolicyRunner

TASK = "Keep the pole upright."
ACTIONS = ("push left", "push right")


def runner_with(answers=None, **options):
    runner = PolicyRunner(load_language_model("embedded"), answers=answers, **options)
    with torch.no_grad():
        runner.policy.value_head.weight.fill_(0.1)
    return runner


@pytest.fixture
def lookups():
    return []


@pytest.fixture
def runner(lookups):
    return runner_with(AnswerCache(1_000, lookups.append))


@pytest.fixture(scope="module")
def plain():
    """Remembers no answer, and runs equal prompts again."""
    return runner_with(deduplicate=False)


@pytest.fixture(scope="module")
def remembering():
    return runner_with(AnswerCache(20))


def asked(runner, numbers, actions=ACTIONS, task=TASK):
    texts = [action_prompt(f"cart {number}", task=task) for number in numbers]
    return runner.encoder.scored(texts, [runner.candidates(actions)] * len(texts))


def other_weights(runner, factor=1.1):
    return {name: tensor * factor for name, tensor in weights.state_of(runner.policy).items()}


def recorded(version):
    return SimpleNamespace(policy_version=version, sha256=f"digest of {version}")


def rows_run(runner, monkeypatch):
    """Returns the number of rows of every forward from now on."""
    rows, forward = [], runner.policy.forward
    monkeypatch.setattr(
        runner.policy,
        "forward",
        lambda batch, *a, **k: rows.append(len(batch.rows.input_ids)) or forward(batch, *a, **k),
    )
    return rows


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(0, 99))
@settings(max_examples=30)
def test_answers_and_draws_are_those_of_a_service_that_remembers_nothing(plain, remembering, stream, seed):
    for numbers in stream:
        decisions = []
        for runner in (plain, remembering):
            questions = [
                ActionQuestion(each, Choice("sample", 1.0, 0.0, seed, i))
                for i, each in enumerate(asked(runner, numbers))
            ]
            decisions.append(runner.decide(questions))
        for one, other in zip(*decisions, strict=True):
            assert one.action == other.action
            assert one.log_prob == pytest.approx(other.log_prob, abs=2e-5)
            assert one.scores.log_probs == pytest.approx(other.scores.log_probs, abs=2e-5)
            assert one.scores.scores == pytest.approx(other.scores.scores, abs=2e-5)
            assert one.scores.value == pytest.approx(other.scores.value, abs=2e-5)


def test_equal_prompts_run_once_and_known_ones_not_at_all(runner, lookups, monkeypatch):
    rows = rows_run(runner, monkeypatch)
    first = runner.score(asked(runner, [1, 2, 1, 1]))
    again = runner.score(asked(runner, [2, 3, 1]))
    assert rows == [2, 1]
    assert lookups == [(0, 2, 2), (2, 0, 1)]
    assert first[0] == first[2] == first[3] == again[2]
    assert first[1] == again[0]


def test_other_actions_are_another_answer(runner, lookups):
    runner.score(asked(runner, [1]))
    [answer] = runner.score(asked(runner, [1], actions=("wait", "push left", "push right")))
    assert len(answer.scores) == 3
    assert lookups == [(0, 0, 1), (0, 0, 1)]


def test_without_deduplication_every_prompt_is_a_row(monkeypatch):
    runner = runner_with(AnswerCache(100), deduplicate=False)
    rows = rows_run(runner, monkeypatch)
    runner.score(asked(runner, [1, 1, 2]))
    runner.score(asked(runner, [1]))
    assert rows == [3, 1]


def test_a_cache_of_no_answers_keeps_none(monkeypatch, lookups):
    runner = runner_with(AnswerCache(0, lookups.append))
    rows = rows_run(runner, monkeypatch)
    for _ in range(2):
        runner.score(asked(runner, [1, 1]))
    assert rows == [1, 1]
    assert lookups == [(0, 1, 1), (0, 1, 1)]


def test_the_oldest_answers_go_first(monkeypatch):
    runner = runner_with(AnswerCache(3))
    rows = rows_run(runner, monkeypatch)
    for number in (1, 2, 3, 4, 2, 1):
        runner.score(asked(runner, [number]))
    assert len(rows) == 5  # only 2 was still there


def test_new_weights_are_asked_anew_and_old_ones_answer_again_after_a_rollback(runner, monkeypatch):
    prompts = asked(runner, [1, 2, 3])
    before = runner.score(prompts)
    state = other_weights(runner)
    runner.swap(state, lambda: recorded(2))
    rows = rows_run(runner, monkeypatch)
    assert runner.score(prompts)[0].scores != before[0].scores
    digest = runner.language_model.sha256
    runner.swap(state, lambda: SimpleNamespace(policy_version=1, sha256=digest))
    assert runner.score(prompts) == before
    assert rows == [3]


def test_what_is_scored_during_a_swap_is_neither_kept_nor_answered_from_what_was_kept(runner, monkeypatch, lookups):
    prompts = asked(runner, [1, 2])
    before = runner.score(prompts)
    during = []

    def refuse():
        during.extend(runner.score(prompts))
        raise RuntimeError("the canary disagrees")

    with pytest.raises(RuntimeError, match="canary"):
        runner.swap(other_weights(runner), refuse)
    assert during[0].scores != before[0].scores
    rows = rows_run(runner, monkeypatch)
    assert runner.score(prompts) == before
    assert rows == []
    assert lookups == [(0, 0, 2), (2, 0, 0)]


def prefixes_encoded(runner, monkeypatch):
    encoded, encode_prefix = [], runner.policy.encode_prefix
    monkeypatch.setattr(runner.policy, "encode_prefix", lambda ids: encoded.append(ids) or encode_prefix(ids))
    return encoded


def test_a_task_is_encoded_once_for_all_batches_of_the_same_weights(runner, monkeypatch):
    encoded = prefixes_encoded(runner, monkeypatch)
    for start in range(0, 30, 10):
        runner.score(asked(runner, range(start, start + 10)))
    prompt = asked(runner, [1])[0]
    assert encoded == [prompt.prompt[: prompt.num_shared_tokens]]
    runner.score(asked(runner, range(10), task="Fall over."))
    assert len(encoded) == 2


def test_a_prefix_does_not_outlive_its_weights(runner, plain):
    prompts = asked(runner, range(10))
    runner.score(prompts)
    state = other_weights(runner)
    runner.swap({name: tensor.clone() for name, tensor in state.items()}, lambda: recorded(2))
    other = runner_with(deduplicate=False)
    other.swap(state, lambda: recorded(2))
    for ours, theirs in zip(runner.score(prompts), other.score(asked(other, range(10))), strict=True):
        assert ours.scores == pytest.approx(theirs.scores, abs=2e-5)


def test_a_prefix_of_weights_that_are_refused_is_forgotten(runner):
    prompts = asked(runner, range(10))

    def refuse():
        runner.score(prompts)
        raise RuntimeError("the canary disagrees")

    with pytest.raises(RuntimeError):
        runner.swap(other_weights(runner, 3.0), refuse)
    fresh = runner_with(deduplicate=False)
    for ours, theirs in zip(runner.score(prompts), fresh.score(asked(fresh, range(10))), strict=True):
        assert ours.scores == pytest.approx(theirs.scores, abs=2e-5)


def test_an_answer_over_many_actions_counts_for_several(monkeypatch):
    runner = runner_with(AnswerCache(3))
    rows = rows_run(runner, monkeypatch)
    many = tuple(f"go {number}" for number in range(40))  # counts for three
    for actions in (ACTIONS, many, many, ACTIONS):
        runner.score(asked(runner, [1], actions))
    assert len(rows) == 3
