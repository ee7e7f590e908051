"""How far guidance is trusted: by a trial of hints shown and not shown, or by what its reward foretells."""

import numpy as np
import pytest
from pydantic import ValidationError

from worker.guidance.gate import NUM_EPISODES, Forecast, GuidedEpisode, Open, Trial, gate_of
from worker.guidance.settings import GuidanceSettings
from worker.text_env import GuidanceSnapshot


def test_a_checkpoint_from_before_the_trial_has_no_episodes_for_it():
    snapshot = {"hint": "", "age": 0, "dropped": False, "weight": 0, "memory": 0, "earned": 0, "num_steps": 8}
    assert GuidanceSnapshot(**snapshot, gate=[0.5, [[-0.1, 0.5]]]).gate == (0.5, [])
    assert GuidanceSnapshot(**snapshot, gate=[0.5, [[True, -0.1, 0.5]]]).gate == (0.5, [])
    kept = [[True, -0.1, 0.5, 0.4]]
    assert GuidanceSnapshot(**snapshot, gate=[0.5, kept]).gate == (0.5, [(True, -0.1, 0.5, 0.4)])
    with pytest.raises(ValidationError, match="gate"):
        GuidanceSnapshot(**snapshot, gate=7)


def after(episodes):
    gate = Forecast()
    for earned, episode_return in episodes:
        gate.note(GuidedEpisode(False, earned, episode_return, 0.5))
    return gate


def drawn(num, of, seed=1):
    generator = np.random.default_rng(seed)
    return [of(float(generator.random()), float(generator.random())) for _ in range(num)]


def tried(shown, hidden, running=()):
    """A trial of episodes with these returns, and of some that go on."""
    gate = Trial()
    for returns, kind in ((shown, True), (hidden, False)):
        for episode_return in returns:
            gate.note(GuidedEpisode(kind, 0.0, episode_return, 0.5))
    gate.look([GuidedEpisode(kind, 0.0, so_far, 0.5) for kind, so_far in running])
    return gate


def around(mean, num=40, seed=1):
    return np.random.default_rng(seed).normal(mean, 0.3, num).tolist()


def test_hints_that_help_are_trusted():
    assert tried(around(0.8), around(0.2)).value == 1.0


@pytest.mark.parametrize(
    ("shown", "hidden"),
    [
        (around(0.2), around(0.8)),  # wrong hints
        ([0.0] * 40, [0.0] * 40),  # nobody succeeds: nothing is known, and nothing trusted
        ([1.0] * 40, [1.0] * 40),
    ],
)
def test_hints_that_do_not_help_are_not(shown, hidden):
    assert tried(shown, hidden).value == 0.0


def test_trust_is_half_of_t():
    shown, hidden = around(0.53), around(0.5, seed=2)
    error = np.sqrt(np.var(shown, ddof=1) / 40 + np.var(hidden, ddof=1) / 40)
    expected = (np.mean(shown) - np.mean(hidden)) / error / 2
    assert 0 < expected < 1
    assert tried(shown, hidden).value == pytest.approx(expected)


def test_hints_that_never_fail_are_trusted_where_all_else_does():
    assert tried([1.0] * 3, [0.0] * 3).value == 1.0


@pytest.mark.parametrize(("t", "shows"), [(3.0, 1.0), (-0.5, 1.0), (-1.5, 0.5), (-4.0, 0.125)])
def test_hints_that_do_harm_are_shown_less_often_but_always_some(t, shows):
    hidden = np.array(around(0.5))
    gate = tried(hidden + t * np.sqrt(2 * np.var(hidden, ddof=1) / 40), hidden)  # of the same spread
    assert gate.shows == pytest.approx(shows)


def test_hints_that_always_fail_are_shown_less_often_where_all_else_succeeds():
    gate = tried([0.0] * 3, [1.0] * 3)
    assert (gate.value, gate.shows) == (0.0, 0.125)
    assert np.isfinite(gate.state()[0])  # a checkpoint holds it


def test_few_episodes_settle_nothing():
    assert tried([1.0] * 2, [0.0] * 40).value == 0.0
    assert tried([1.0] * 40, [0.0] * 2).value == 0.0
    assert tried([0.0] * 2, [1.0] * 40).shows == 1.0


def test_episodes_that_go_on_count_for_what_they_earned_so_far():
    assert tried([1.0] * 3, [], running=[(False, 0.0)] * 3).value == 1.0
    assert tried([1.0] * 3, [0.0] * 3, running=[(True, 0.0)] * 30).value < 1.0


def test_a_trial_forgets_what_was_long_ago():
    gate = tried(around(0.8), around(0.2))
    for k, episode_return in enumerate(around(0.8, 2 * NUM_EPISODES, seed=3)):
        gate.note(GuidedEpisode(k % 2 == 0, 0.0, episode_return, 0.5))
    gate.look([])
    assert gate.value < 0.7


def test_a_policy_that_learns_is_not_compared_with_its_own_past():
    """Hints that do nothing, shown in one episode of eight, while returns rise."""
    shows = []
    for seed in (1, 2, 3):
        gate = Trial()
        for k, noise in enumerate(around(0.0, 800, seed=seed)):
            gate.note(GuidedEpisode(k % 8 == 0, 0.0, k / 200 + noise, 1 / 8))
            gate.look([])
            shows.append(gate.shows)
    assert np.mean(shows) > 0.7  # 0.125 where each kind is looked back on for as many episodes


def test_showing_hints_less_often_at_some_times_does_not_compare_the_policy_with_its_past():
    """Hints that do nothing, shown as often as the trial says, while returns rise from 0 to 1."""
    ends, looks = [], []
    for seed in range(200):
        gate, generator = Trial(), np.random.default_rng(seed)
        for k in range(200):
            share = 0.5 * gate.shows
            succeeds = float(generator.random() < k / 200)
            gate.note(GuidedEpisode(bool(generator.random() < share), 0.0, succeeds, share))
            gate.look([])
            looks.append(gate.shows)
        ends.append(gate.value)
    assert np.mean(np.array(ends) == 1.0) < 0.05  # as if the share had never changed; unweighted, a tenth
    assert np.mean(np.array(looks) < 1.0) < 0.18  # t < -1; unweighted, a fifth


def test_rounding_is_no_difference():
    gate = tried([0.955] * 64, [0.955] * 63)
    assert (gate.value, gate.shows) == (0.0, 1.0)


def test_the_rarer_kind_is_not_trusted_for_having_fewer_episodes_that_go_on():
    """Hints that do nothing, shown in one episode of five, while all succeed: 8 environments, some 20 steps each."""
    gate, generator, trusted = Trial(), np.random.default_rng(1), []
    shown, left = generator.random(8) < 0.2, generator.integers(15, 26, size=8)
    for _ in range(3_000):
        left -= 1
        for i in np.flatnonzero(left == 0):
            gate.note(GuidedEpisode(bool(shown[i]), 0.0, 0.9 + 0.02 * generator.random(), 0.2))
            shown[i], left[i] = generator.random() < 0.2, generator.integers(15, 26)
        gate.look([GuidedEpisode(bool(each), 0.0, 0.0, 0.2) for each in shown])
        trusted.append(gate.value)
    assert np.mean(trusted[1_000:]) < 0.4


@pytest.mark.parametrize("shown", [around(0.53), around(0.4)])  # more is trusted, and less is shown
def test_a_trial_goes_on_where_it_was(shown):
    straight = tried(shown, around(0.5, seed=2))
    assert straight.value not in (0, 1) or straight.shows not in (0.125, 1)
    resumed = Trial()
    resumed.restore(*straight.state())
    assert (resumed.state(), resumed.value, resumed.shows) == (straight.state(), straight.value, straight.shows)
    for gate in (straight, resumed):
        gate.note(GuidedEpisode(True, 0.0, 5.0, 0.5))
        gate.look([])
    assert resumed.value == straight.value


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"guidance": "both"}, Trial),
        ({"guidance": "observation"}, Trial),
        ({"guidance": "both", "hint_dropout": 0.0}, Forecast),
        ({"guidance": "observation", "hint_dropout": 0.0}, Open),
        ({"guidance": "reward"}, Forecast),
        ({"guidance": "both", "guidance_gate": False}, Open),
    ],
)
def test_what_can_be_compared_is_compared(changed, kind):
    assert type(gate_of(GuidanceSettings(**changed))) is kind


def test_it_stays_open_while_obeying_pays():
    assert after(drawn(100, lambda x, noise: (x, x + 0.5 * noise))).value == 1.0


@pytest.mark.parametrize(
    "of",
    [
        lambda x, noise: (x, -x),  # who obeys fails: wrong hints
        lambda x, noise: (x, noise),  # no matter who obeys
        lambda x, noise: (1.0, noise),  # a flatterer, who says the same of everything
    ],
)
def test_it_closes_when_obeying_does_not_pay(of):
    assert after(drawn(100, of)).value < 0.05


def test_nothing_is_concluded_from_equal_returns_or_few_episodes():
    assert after(drawn(100, lambda x, noise: (x, 0.0))).value == 1.0
    assert after(drawn(Forecast.FEWEST_EPISODES - 1, lambda x, noise: (x, -x))).value == 1.0
    assert after(drawn(Forecast.FEWEST_EPISODES, lambda x, noise: (x, -x))).value == pytest.approx(1 - Forecast.STEP)


def test_it_opens_again_when_obeying_pays_again():
    gate = after(drawn(100, lambda x, noise: (x, -x)))
    for earned, episode_return in drawn(2 * NUM_EPISODES, lambda x, noise: (x, x)):
        gate.note(GuidedEpisode(False, earned, episode_return, 0.5))
    assert gate.value > 0.95


def test_it_goes_on_where_it_was():
    episodes = drawn(90, lambda x, noise: (x, noise))
    straight, first = after(episodes), after(episodes[:50])
    second = Forecast()
    second.restore(*first.state())
    for episode in episodes[50:]:
        second.note(GuidedEpisode(False, *episode, 0.5))
    assert second.state() == straight.state()
