"""Hints that are held until they are done: when the next is asked for, what counts, what a stopped run remembers."""

import numpy as np
import pytest

from tests.unit.worker.runs import small_config
from worker.config import EvaluateConfig
from worker.envs import TextEnvs
from worker.evaluate import play_episodes
from worker.guidance.guided_envs import GuidedEnvs
from worker.guidance.hints import DONE, MAX_HELD_STEPS, Hints
from worker.guidance.settings import GuidanceSettings
from worker.hint_words import goal_of
from worker.learner import Learner
from worker.seeds import hint_is_wrong
from worker.served_policy import ServedPolicy
from worker.stopwatch import Stopwatch
from worker.text_env import State

LEFT_RIGHT = ("push left", "push right")


class Source:
    """Asks for the goal that the state's text names, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def hints(self, states):
        self.asked.append([state.text for state in states])
        return [f"push left to {state.text}" if state.text else "" for state in states]


def done_where(*pairs):
    """Says that these are done: a goal and the text of the state where it is."""

    def how_far(states):
        return [
            DONE if any(s.advice.endswith(goal) and s.text == text for goal, text in pairs) else 0.5 for s in states
        ]

    return how_far


def held(*pairs, source=None, num_envs=1):
    return Hints(source or Source(), num_envs, "done", done_where(*pairs))


def states_of(*texts):
    return {i: State(text, LEFT_RIGHT) for i, text in enumerate(texts)}


def along(hints, texts):
    """Returns the hint in force at each state of an episode."""
    seen = []
    for text in texts:
        hints.follow(states_of(text), began=[] if seen else [0])
        seen += hints.in_force
    return seen


def test_a_hint_is_held_until_it_is_done_and_then_the_next_is_asked_for():
    source = Source()
    hints = held(("a", "c"), source=source)
    assert along(hints, "abcde") == ["push left to a"] * 2 + ["push left to c"] * 3
    assert source.asked == [["a"], ["c"]]
    assert hints.now[0].completed == ("to a",)


def test_it_is_done_at_the_threshold_and_not_before():
    for far, asked in ((DONE, 2), (np.nextafter(DONE, 0), 1)):
        source = Source()
        along(Hints(source, 1, "done", lambda states, far=far: [far] * len(states)), "ab")
        assert len(source.asked) == asked


def test_a_hint_that_is_never_done_is_replaced_and_does_not_count():
    hints = held()
    seen = along(hints, ["first", *["later"] * (MAX_HELD_STEPS + 1)])
    assert seen == ["push left to first"] * MAX_HELD_STEPS + ["push left to later"] * 2
    assert hints.now[0].completed == ()
    assert hints.now[0].held == 1


def test_where_there_is_no_hint_one_is_asked_for_at_every_step():
    source = Source()
    assert along(held(source=source), ["", "", "a"]) == ["", "", "push left to a"]


def test_a_goal_counts_once_an_episode_and_again_in_the_next():
    hints = held(("a", "b"), ("b", "a"), ("c", "a"))
    along(hints, "abababa")
    assert hints.now[0].completed == ("to a", "to b")
    along(hints, "ab")
    assert hints.now[0].completed == ("to a",)


@pytest.mark.parametrize(
    ("hint", "goal"),
    [
        ("push left to reach the end", "to reach the end"),
        ("push right, to reach the end", "to reach the end"),
        ("push left", "push left"),
        ("look around", "look around"),
        ("", ""),
    ],
)
def test_a_goal_is_what_stands_behind_the_action(hint, goal):
    assert goal_of(hint, LEFT_RIGHT) == goal


def test_another_step_towards_the_same_goal_does_not_count_again():
    assert goal_of("go left to reach the goal", ("left", "right")) == "to reach the goal"
    assert goal_of("go right to reach the goal", ("left", "right")) == "to reach the goal"


def test_the_first_state_of_an_episode_completes_nothing():
    """The hint of the episode before is not asked about there."""
    hints = held(("a", "first"))
    along(hints, "ab")
    hints.follow(states_of("first"), began=[0])
    assert hints.now[0].completed == ()


def test_a_time_limit_sees_what_the_last_step_completed():
    hints = held(("a", "b"))
    along(hints, "a")
    behind = hints.behind(states_of("b"))
    assert (behind[0].hint, behind[0].completed) == ("push left to b", ("to a",))
    assert hints.now[0].completed == ()  # the environment itself has begun another episode


def test_all_are_asked_about_together():
    asked = []

    def how_far(states):
        asked.append([(state.text, state.advice) for state in states])
        return [DONE] * len(states)

    hints = Hints(Source(), 2, "done", how_far)
    hints.follow(states_of("a", "b"), began=[0, 1])
    hints.follow(states_of("c", "d"), began=[])
    assert asked == [[("c", "push left to a"), ("d", "push left to b")]]


def test_somebody_has_to_say_when_a_hint_is_done():
    with pytest.raises(ValueError, match="nobody says when a hint is done"):
        Hints(Source(), 1, "done")


# --- among environments


class Goals:
    """Names one of three goals by the state, and says by the state how far each is."""

    def hints(self, states):
        return [
            f"push {'left' if len(state.text) % 2 else 'right'} to {sum(state.text.encode()) % 3}" for state in states
        ]

    def how_far(self, states):
        return [sum(f"{state.text}{state.advice}".encode()) % 5 / 4 for state in states]


class Counts:
    """Pays what was completed, and keeps the moves."""

    def __init__(self):
        self.moves = []

    def begin(self, states):
        pass

    def follow(self, moves):
        self.moves.append(moves)
        return {i: 0.1 * (len(move.now.completed) - len(move.was.completed)) for i, move in moves.items()}

    def memory(self, i):
        return 0.0

    def remember(self, i, memory):
        pass


def guided(earned=None, *, max_episode_steps=30, **settings):
    envs = TextEnvs("CartPole-v1", num_envs=3, run_seed=1, env_kwargs={"max_episode_steps": max_episode_steps})
    goals = Goals()
    settings = {"guidance_gate": False, **settings}  # what nobody has tried yet is paid, too
    return GuidedEnvs(
        envs,
        goals,
        earned or Counts(),
        GuidanceSettings(guidance="both", guidance_reward="bonus", hint_every="done", **settings),
        run_seed=1,
        total_steps=10_000,
        stopwatch=Stopwatch(),
        how_far=goals.how_far,
    )


CHOICES = [[step % 2, 1 - step % 2, step % 2] for step in range(60)]


def test_a_move_knows_what_it_completed():
    earned = Counts()
    envs = guided(earned, max_episode_steps=7)
    for each in CHOICES:
        envs.step(each)
    falling = guided(earned)
    for _ in range(12):
        falling.step([1, 1, 1])
    moves = [move for moves in earned.moves for move in moves.values()]
    assert all(move.now.age == move.was.age + 1 for move in moves if move.after is not None)
    terminal = [move for move in moves if move.after is None]
    assert terminal
    assert all(move.now == move.was for move in terminal)
    assert all(move.after.advice == move.now.hint for move in moves if move.after is not None)
    last = [move for move in moves if move.was.age == 6]
    assert any(len(move.now.completed) > len(move.was.completed) for move in last)  # behind a time limit, too


def test_what_is_held_and_completed_and_paid_goes_on_where_it_was():
    settings = {"guidance_cap": 0.04, "hint_dropout": 0.5, "guidance_weight": 0.5, "wrong_hints": 0.5}
    settings["max_episode_steps"] = 8  # it stops in the middle of its second episodes
    straight, stopped = (guided(**settings) for _ in range(2))
    for each in CHOICES[:11]:
        straight.step(each)
        stopped.step(each)
    episodes, num_begun = stopped.snapshot()
    told = [type(each).model_validate_json(each.model_dump_json()) for each in episodes]
    assert any(each.guidance.completed for each in told)
    assert any(each.guidance.paid for each in told)
    assert any(each.guidance.held for each in told)
    resumed = guided(**settings)
    resumed.restore(told, num_begun)
    assert resumed.snapshot() == stopped.snapshot()
    for each in CHOICES[11:]:
        assert resumed.states == straight.states
        ours, theirs = resumed.step(each), straight.step(each)
        assert np.array_equal(ours.shaping, theirs.shaping)


def test_a_wrong_hint_that_is_held_stays_the_same():
    envs = guided(wrong_hints=1.0)
    envs._hints._how_far = lambda states: [0.0] * len(states)
    said = {tuple(state.advice for state in envs.states)}
    for each in CHOICES[:5]:
        envs.step(each)
        said.add(tuple(state.advice for state in envs.states))
    assert len(said) == 1


def test_wrongness_belongs_to_the_episode_that_begins():
    """The first hint of an episode is as wrong as the others of it."""
    envs = guided(max_episode_steps=4, wrong_hints=0.5)
    right = Goals().hints
    for step, each in enumerate(CHOICES[:20]):
        if step % 4 == 0:
            for i, state in enumerate(envs.states):
                is_wrong = hint_is_wrong(1, i, step // 4, probability=0.5)
                assert (state.advice != right([state])[0]) == is_wrong
        envs.step(each)


# --- whole runs


@pytest.fixture
def config(tmp_path, model_dir):
    settings = {"guidance": "both", "hint_every": "done"}
    return small_config(tmp_path, model_dir, total_steps=5 * 32, env_workers=0, **settings)


def done_now_and_then(service):
    """Makes the scorer say of every third length of a text that its hint is done."""
    told = service.reward

    def reward(items, *, scorer="alignment", gamma=0.99):
        answer = told(items, scorer=scorer, gamma=gamma)
        if scorer == "progress":
            for item, result in zip(items, answer.results, strict=True):
                result.potential = 1.0 if len(item.observation) % 3 == 0 else 0.5
        return answer

    service.reward = reward
    return service


@pytest.mark.parametrize("form", ["potential", "bonus", "advice", "penalty"])
def test_a_run_goes_on_to_the_same_weights_in_every_form(config, make_service, form):
    config = config.model_copy(update={"guidance_reward": form})
    straight = Learner(config, ServedPolicy(done_now_and_then(make_service())))
    straight.begin()
    for _ in range(2):
        straight.run_update()
    stopped = straight.checkpoint()
    straight.run_update()
    resumed = Learner(config, ServedPolicy(done_now_and_then(make_service())))
    resumed.restore(stopped)
    resumed.run_update()
    assert resumed.served.data == straight.served.data
    completed = [episode.guidance.completed for episode in straight.checkpoint().state.episodes]
    assert any(completed)


def test_an_episode_that_is_judged_with_hints_holds_them_until_they_are_done(config, service):
    learner = Learner(config, ServedPolicy(service))
    learner.begin()
    asked = service.calls["reward"]
    play_episodes(learner.served, "CartPole-v1", num_episodes=2, hint_every="done")
    assert service.calls["reward"] > asked
    assert EvaluateConfig(run_dir="somewhere", hint_every="done").hint_every == "done"
