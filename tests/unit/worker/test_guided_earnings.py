"""What following hints earns in training, and how far they are trusted."""

import numpy as np
import pytest

from tests.unit.worker.guided import LEFT_RIGHT, NUM_ENVS, Earned, guided
from worker.guidance.earnings import Move, Penalty, Potential
from worker.guidance.progress import Progress
from worker.text_env import State


def test_a_move_knows_its_states_and_their_hints():
    earned = Earned()
    envs = guided(earned=earned, max_episode_steps=2, hint_dropout=0.0)
    first = envs.states
    envs.step([0, 1, 0])
    second = envs.states
    outcome = envs.step([1, 0, 1])
    assert [earned.moves[0][i][:3] for i in range(3)] == [
        (first[i], LEFT_RIGHT[choice], second[i]) for i, choice in enumerate([0, 1, 0])
    ]
    assert [(move.was.hint, move.now.hint) for move in earned.moves[0].values()] == [
        (first[i].advice, second[i].advice) for i in range(3)
    ]
    ended = earned.moves[1][0]
    assert ended.after == outcome.final_states[0]  # of its own episode, not of the next
    assert ended.after.hint == f"about {ended.after.text}"
    assert ended.after.text != envs.states[0].text
    assert earned.begun[1] == dict(enumerate(envs.states))


def test_nothing_follows_a_terminal_state():
    earned = Earned()
    envs = guided(earned=earned, max_episode_steps=500)
    while not (outcome := envs.step([1, 1, 1])).terminated.any():
        pass
    for i in np.flatnonzero(outcome.terminated).tolist():
        assert earned.moves[-1][i].after is None


def test_the_weight_holds_for_an_episode_and_falls_from_one_to_the_next():
    settings = {"guidance_weight": 2.0, "guidance_fraction": 0.5, "guidance_gate": False}
    envs = guided(earned=Earned(), **settings, max_episode_steps=4, total_steps=96)
    added, rewards = [], []
    for step in range(20):
        outcome = envs.step([0, 1, 0] if step % 2 else [1, 0, 1])
        added.append(outcome.shaping[0])
        rewards.append(outcome.rewards[0])
    # 12 steps of all environments in an episode; guidance falls to nothing over 48
    assert added == pytest.approx([2.0] * 4 + [1.5] * 4 + [1.0] * 4 + [0.5] * 4 + [0.0] * 4)
    assert rewards == pytest.approx([1 + each for each in added])


def test_guidance_that_pays_for_the_wrong_thing_is_trusted_less_from_episode_to_episode():
    settings = {"guidance": "reward", "guidance_weight": 1.0, "total_steps": 10**9}
    envs = guided(earned=FirstPays(), **settings, max_episode_steps=500)
    generator, weights = np.random.default_rng(3), []
    for _ in range(1_000):
        outcome = envs.step(generator.integers(2, size=NUM_ENVS).tolist())
        weights.append(outcome.trust)
    assert weights[0] == 1.0
    assert weights[-1] < 0.2
    free = guided(earned=FirstPays(), **settings, guidance_gate=False)
    assert free.step([0, 0, 0]).trust == 1.0


@pytest.mark.parametrize(("does_well", "trust"), [("shown", 1.0), ("hidden", 0.0)])
def test_hints_are_trusted_as_far_as_those_who_see_them_do_better(does_well, trust):
    envs = guided(earned=Earned(), guidance_weight=1.0, max_episode_steps=500, total_steps=10**9)
    ended = []
    for step in range(400):
        shown = [state.hint is not None for state in envs.states]
        well = [is_shown == (does_well == "shown") for is_shown in shown]
        outcome = envs.step([step % 2 if each else 0 for each in well])
        ended += [(end, shown[end.env_index]) for end in outcome.finished]
    assert outcome.trust == pytest.approx(trust, abs=0.05)
    assert {end.hinted for end, _ in ended} == {True, False}
    assert all(end.hinted == was_shown for end, was_shown in ended)


@pytest.mark.parametrize(("gate", "fewest", "most"), [(True, 0.02, 0.2), (False, 0.4, 0.6)])
def test_hints_that_do_harm_are_shown_in_fewer_episodes(gate, fewest, most):
    settings = {"max_episode_steps": 500, "total_steps": 10**9, "hint_dropout": 0.5}
    envs = guided(earned=Earned(), guidance_gate=gate, **settings)
    shown_at_end = []
    for step in range(1_000):
        shown = [state.hint is not None for state in envs.states]
        outcome = envs.step([0 if is_shown else step % 2 for is_shown in shown])  # who sees hints falls at once
        shown_at_end += [end.hinted for end in outcome.finished if step >= 200]
    assert fewest < np.mean(shown_at_end) < most
    assert outcome.hint_share == (0.0625 if gate else 0.5)


class FirstPays(Earned):
    """Pays for the first step of an episode alone: the longer an episode, the less of it per step."""

    def __init__(self):
        super().__init__()
        self.fresh = set()

    def begin(self, states):
        self.fresh |= set(states)

    def follow(self, moves):
        paid = {i: float(i in self.fresh) for i in moves}
        self.fresh -= set(moves)
        return paid


def test_the_penalty_takes_from_disobedience_and_pays_nothing(service):
    penalty = Penalty(service, None)
    said = State("a", LEFT_RIGHT, advice="push left")
    moves = {0: Move(said, "push left", said), 1: Move(said, "push right", None)}
    assert penalty.follow(moves) == {0: 0.0, 1: -1.0}
    assert service.calls["reward"] == 1
    assert penalty.follow({4: Move(State("a", LEFT_RIGHT, advice=""), "push left", said)}) == {4: 0.0}
    assert service.calls["reward"] == 1  # nothing to ask about


@pytest.mark.parametrize("terminal", [True, False])
def test_potentials_of_an_episode_add_up_whatever_was_done_and_however_hints_change(service, terminal):
    gamma = 0.9
    texts = ["abc", "abcd", "a", "abcdefg"]  # the stand-in's potential is a tenth of the length
    states = [State(text, LEFT_RIGHT, advice=f"hint {i}") for i, text in enumerate(texts)]
    potential = Potential(Progress(service, None).of, gamma=gamma, num_envs=1)
    potential.begin({0: states[0]})
    following = [*states[1:], None if terminal else State("abcdefghi", LEFT_RIGHT, advice="last")]
    earned = [
        potential.follow({0: Move(before, "push left", after)})[0]
        for before, after in zip(states, following, strict=True)
    ]
    total = sum(gamma**t * each for t, each in enumerate(earned))
    assert total == pytest.approx(-0.3 + (0 if terminal else gamma**4 * 0.9))


def test_a_state_without_a_hint_has_no_potential(service):
    potential = Potential(Progress(service, None).of, gamma=0.9, num_envs=1)
    potential.begin({0: State("abc", LEFT_RIGHT, advice="")})
    assert potential.memory(0) == 0
    assert service.calls["reward"] == 0
