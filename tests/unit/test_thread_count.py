"""The measured thread count, without a clock: what is taken from which times."""

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from hintwise.language_model import load_language_model
from service import thread_count
from service.answer_cache import AnswerCache
from service.policy_runner import PolicyRunner
from service.settings import Settings
from service.thread_count import fewest_nearly_as_fast, measured_num_threads


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return load_language_model("embedded")


@pytest.fixture
def measured(monkeypatch, model):
    """Returns what is chosen where forwards with so many threads take so long, and the counts that were tried."""

    def measure(seconds, **head):
        monkeypatch.setattr(thread_count, "usable_cores", lambda: max(seconds))
        tried = []

        def fastest(forward):
            tried.append(torch.get_num_threads())
            forward()
            return seconds[tried[-1]]

        monkeypatch.setattr(thread_count, "_fastest", fastest)
        return measured_num_threads(PolicyRunner(model, **head)), tried

    return measure


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({1: 1.0}, 1),
        ({1: 1.3, 2: 1.0}, 1),
        ({1: 1.31, 2: 1.0}, 2),
        ({1: 4.0, 2: 2.0, 4: 1.2, 8: 1.0}, 4),
        ({1: 1.0, 2: 400.0}, 1),
    ],
)
def test_the_fewest_that_are_nearly_as_fast_as_the_fastest(times, chosen):
    assert fewest_nearly_as_fast(times) == chosen


def test_counts_double_up_to_all_cores_and_torch_keeps_the_chosen_one(measured):
    assert measured({1: 8.0, 2: 4.0, 4: 2.0, 6: 1.9}) == (4, [1, 2, 4, 6])
    assert torch.get_num_threads() == 4


def test_more_threads_are_not_tried_where_they_gained_nothing(measured):
    assert measured({1: 2.0, 2: 2.0, 4: 1.0}) == (1, [1, 2])
    assert torch.get_num_threads() == 1


def test_one_core_is_one_thread(measured):
    assert measured({1: 2.0}) == (1, [1])


def test_a_policy_with_a_head_is_measured_on_its_own_actions(measured):
    assert measured({1: 2.0, 2: 1.0}, head_actions=["go", "wait", "turn"]) == (2, [1, 2])


def test_what_is_measured_is_neither_remembered_nor_counted(monkeypatch, model):
    """A service that remembers answers would be fast with any number of threads, and its hit rate would be wrong."""
    lookups = []
    runner = PolicyRunner(model, answers=AnswerCache(100, lookups.append))
    forwards, forward = [], runner.policy.forward
    monkeypatch.setattr(runner.policy, "forward", lambda *a, **k: forwards.append(a) or forward(*a, **k))
    monkeypatch.setattr(thread_count, "usable_cores", lambda: 2)
    measured_num_threads(runner)
    assert len(forwards) > 2
    assert lookups == []


def test_an_accelerator_needs_one_and_is_not_measured():
    runner = SimpleNamespace(language_model=SimpleNamespace(device=torch.device("cuda")))
    assert measured_num_threads(runner) == 1


def test_the_setting_is_a_number_or_auto(monkeypatch):
    monkeypatch.delenv("HINTWISE_NUM_THREADS", raising=False)
    assert Settings().num_threads == "auto"
    monkeypatch.setenv("HINTWISE_NUM_THREADS", "3")
    assert Settings().num_threads == 3


@pytest.mark.parametrize("given", ["0", "-1", "2.5", "all", "", 0, True])
def test_anything_else_is_refused_with_one_message(given):
    with pytest.raises(ValidationError) as refused:
        Settings(num_threads=given)
    [fault] = refused.value.errors()
    assert fault["loc"] == ("num_threads",)
    assert "from 1, or auto" in fault["msg"]
