"""Hints in training: which is in force, who is shown it, which are wrong on purpose."""

from collections import Counter

import numpy as np
import pytest

from tests.unit.worker.guided import NUM_ENVS, Earned, Source, guided, states_of
from worker.envs import TextEnvs
from worker.guidance import guided_envs
from worker.guidance.gate import Open
from worker.guidance.guided_envs import GuidedEnvs
from worker.guidance.hints import Hints, service_hints
from worker.guidance.settings import GuidanceSettings
from worker.guidance.wrong_hints import wrong_hint
from worker.seeds import hint_is_dropped, hint_is_wrong
from worker.stopwatch import Stopwatch
from worker.text_env import EpisodeSnapshot

# --- which hint is in force


@pytest.mark.parametrize(
    ("every", "expected"),
    [(1, ["about a", "about b", "about c"]), (2, ["about a", "about a", "about c"]), (0, ["about a"] * 3)],
)
def test_a_hint_is_held_for_some_steps_or_the_episode(every, expected):
    hints, seen = Hints(Source(), 1, every), []
    for text in "abc":
        hints.follow(states_of(text), began=[0] if text == "a" else [])
        seen += hints.in_force
    assert seen == expected
    hints.follow(states_of("new"), began=[0])
    assert (hints.in_force, hints.now[0].age) == (["about new"], 0)


def test_all_that_are_due_are_asked_for_together_and_nobody_else():
    source = Source()
    hints = Hints(source, 3, 2)
    hints.follow(states_of("a", "b", "c"), began=[0, 1, 2])
    hints.follow(states_of("d", "e", "f"), began=[1])
    assert source.asked == [["a", "b", "c"], ["e"]]
    assert hints.in_force == ["about a", "about e", "about c"]


def test_the_state_behind_a_time_limit_has_the_hint_that_would_be_in_force_there():
    hints = Hints(Source(), 2, 2)
    hints.follow(states_of("a", "b"), began=[0, 1])
    assert hints.behind(states_of("c"))[0].hint == "about a"  # age 1
    hints.follow(states_of("c", "d"), began=[])
    assert hints.behind(states_of("e"))[0].hint == "about e"  # age 2
    assert hints.in_force == ["about a", "about b"]


def test_the_service_is_asked_for_its_likeliest_hint_once(service):
    source = service_hints(service, "a task")
    hints = Hints(source, 2, 1)
    for _ in range(3):
        hints.follow(states_of("same", "same"), began=[0, 1])
    assert service.calls["guidance"] == 1
    assert hints.in_force == [service.hint_for("same")] * 2


# --- who is shown it


def test_episodes_are_drawn_whose_hints_are_not_shown():
    drawn = [hint_is_dropped(1, i, k, probability=0.3) for i in range(40) for k in range(50)]
    assert 0.25 < np.mean(drawn) < 0.35
    assert drawn == [hint_is_dropped(1, i, k, probability=0.3) for i in range(40) for k in range(50)]
    assert drawn != [hint_is_dropped(2, i, k, probability=0.3) for i in range(40) for k in range(50)]
    assert not any(hint_is_dropped(1, 0, k, probability=0.0) for k in range(50))
    assert all(hint_is_dropped(1, 0, k, probability=1.0) for k in range(50))


def test_a_hint_is_shown_or_hidden_for_a_whole_episode():
    envs = guided(hint_dropout=0.5, max_episode_steps=4)
    by_episode = {}
    for step in range(24):
        for i, state in enumerate(envs.states):
            assert state.advice == f"about {state.text}"
            assert state.hint in (None, state.advice)
            by_episode.setdefault((i, step // 4), set()).add(state.hint is None)
        envs.step([0, 1, 0] if step % 2 else [1, 0, 1])
    assert all(len(found) == 1 for found in by_episode.values())
    assert {True} in by_episode.values()
    assert {False} in by_episode.values()


class Noting(Open):
    """A gate that notes what it is told, and shows as many as a test says."""

    def __init__(self):
        super().__init__()
        self.ended, self.on = [], []

    def note(self, episode):
        self.ended.append(episode.propensity)

    def look(self, running):
        self.on = [episode.propensity for episode in running]


def test_the_gate_hears_how_likely_an_episode_was_to_show_its_hints_when_it_began(monkeypatch):
    gates = [Noting(), Noting()]
    ones = iter(gates)
    monkeypatch.setattr(guided_envs, "gate_of", lambda settings: next(ones))
    envs, resumed = (guided(hint_dropout=0.2, max_episode_steps=2) for _ in range(2))
    for gate in gates:
        gate.shows = 0.5
    envs.step([0] * NUM_ENVS)
    assert gates[0].on == [0.8] * NUM_ENVS
    envs.step([1] * NUM_ENVS)
    envs.step([0] * NUM_ENVS)
    assert gates[0].ended == [0.8] * NUM_ENVS
    assert gates[0].on == [0.4] * NUM_ENVS
    resumed.restore(*envs.snapshot())
    for each in (envs, resumed):
        each.step([1] * NUM_ENVS)
    assert gates[0].ended[NUM_ENVS:] == gates[1].ended == [0.4] * NUM_ENVS


def test_an_episode_of_which_nobody_noted_how_likely_it_was_had_the_share_of_a_fresh_run(monkeypatch):
    gate = Noting()
    envs = guided(hint_dropout=0.2, max_episode_steps=2)
    episodes, num_begun = envs.snapshot()
    told = [each.model_dump(mode="json") for each in episodes]
    for each in told:
        del each["guidance"]["propensity"]
    monkeypatch.setattr(guided_envs, "gate_of", lambda settings: gate)
    resumed = guided(hint_dropout=0.2, max_episode_steps=2)
    resumed.restore([EpisodeSnapshot.model_validate(each) for each in told], num_begun)
    resumed.step([0] * NUM_ENVS)
    assert gate.on == [0.8] * NUM_ENVS


def test_reward_alone_shows_nothing():
    envs = TextEnvs("CartPole-v1", num_envs=1, run_seed=1)
    settings = GuidanceSettings(guidance="reward", hint_dropout=0.0)
    only = GuidedEnvs(envs, Source(), Earned(), settings, run_seed=1, total_steps=10, stopwatch=Stopwatch())
    assert only.states[0].hint is None
    assert only.states[0].advice


# --- hints that are wrong on purpose

GRID = ("turn left", "turn right", "go forward", "toggle")


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        ("turn left to pick up the key", "turn right to pick up the key"),
        ("turn right", "turn left"),
        ("look around", "look around"),  # names no action
        ("", ""),
    ],
)
def test_a_wrong_hint_names_another_action(hint, expected):
    assert wrong_hint(hint, "a state", GRID) == expected


def test_a_wrong_hint_is_plausible_and_steady():
    said = {wrong_hint("go forward to reach the goal", f"state {i}", GRID) for i in range(60)}
    assert said == {f"{action} to reach the goal" for action in ("turn left", "turn right", "toggle")}
    assert len({wrong_hint("go forward", "one", GRID) for _ in range(5)}) == 1
    assert wrong_hint("go left to reach the goal", "one", ("left", "right")) == "go right to reach the goal"
    assert wrong_hint("go up to reach the goal", "one", ("up", "down")) == "go down to reach the goal"
    assert wrong_hint("wait", "one", ("wait",)) == "wait"


def test_a_share_of_the_episodes_has_wrong_hints_whether_or_not_they_are_shown():
    drawn = [
        (hint_is_wrong(1, i, k, probability=0.5), hint_is_dropped(1, i, k, probability=0.5))
        for i in range(40)
        for k in range(50)
    ]
    counts = Counter(drawn)
    assert len(counts) == 4
    assert min(counts.values()) > 0.2 * len(drawn)


def test_wrong_hints_last_an_episode_and_are_what_is_shown_and_paid_for():
    class Right:
        def hints(self, states):
            return ["push left"] * len(states)

    earned = Earned()
    envs = guided(Right(), earned, wrong_hints=0.5, hint_dropout=0.0, max_episode_steps=4)
    by_episode = {}
    for step in range(24):
        for i, state in enumerate(envs.states):
            assert state.hint == state.advice
            by_episode.setdefault((i, step // 4), set()).add(state.advice)
        envs.step([0, 1, 0] if step % 2 else [1, 0, 1])
        assert {move.before.advice for move in earned.moves[-1].values()} <= {"push left", "push right"}
    assert all(len(found) == 1 for found in by_episode.values())
    assert {"push right"} in by_episode.values()
    assert {"push left"} in by_episode.values()
