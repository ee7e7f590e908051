"""Hints in training: which is in force, who is shown it, what following it earns."""

import json
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

from hintwise.errors import ScorerChanged
from worker.checkpoint import load_checkpoint, save_checkpoint
from worker.config import EvaluateConfig, TrainConfig
from worker.envs import TextEnvs
from worker.errors import CheckpointUnusable
from worker.evaluate import evaluate
from worker.guidance.earnings import Move, Penalty, Potential
from worker.guidance.guided_envs import GuidedEnvs
from worker.guidance.hints import Hints, service_hints
from worker.guidance.progress import Progress
from worker.guidance.settings import GuidanceSettings
from worker.guidance.wrong_hints import wrong_hint
from worker.learner import Learner
from worker.run_record import read_metrics, read_run
from worker.seeds import hint_is_dropped, hint_is_wrong
from worker.served_policy import ServedPolicy
from worker.stopwatch import Stopwatch
from worker.text_env import State
from worker.train import train

NUM_ENVS = 3
LEFT_RIGHT = ("push left", "push right")


class Source:
    """Says what state it was asked about, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def hints(self, states):
        self.asked.append([state.text for state in states])
        return [f"about {state.text}" for state in states]


class Earned:
    """Pays 1 for every move, and keeps them."""

    def __init__(self):
        self.begun, self.moves, self.remembered = [], [], {}

    def begin(self, states):
        self.begun.append(dict(states))

    def follow(self, moves):
        self.moves.append(dict(moves))
        return dict.fromkeys(moves, 1.0)

    def memory(self, i):
        return 10.0 + i

    def remember(self, i, memory):
        self.remembered[i] = memory


def guided(source=None, earned=None, *, max_episode_steps=5, total_steps=100, run_seed=1, **settings):
    envs = TextEnvs(
        "CartPole-v1", num_envs=NUM_ENVS, run_seed=run_seed, env_kwargs={"max_episode_steps": max_episode_steps}
    )
    return GuidedEnvs(
        envs,
        source or Source(),
        earned,
        GuidanceSettings(**{"guidance": "both", **settings}),
        run_seed=run_seed,
        total_steps=total_steps,
        stopwatch=Stopwatch(),
    )


def states_of(*texts):
    return {i: State(text, LEFT_RIGHT) for i, text in enumerate(texts)}


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


# --- what following it earns


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


# --- checkpoints


def test_guided_environments_go_on_exactly():
    settings = {
        "hint_every": 3,
        "hint_dropout": 0.5,
        "guidance_weight": 1.0,
        "max_episode_steps": 30,
        "wrong_hints": 0.5,
        "total_steps": 10**9,
    }
    straight, stopped = (guided(earned=Earned(), **settings) for _ in range(2))
    choices = np.random.default_rng(1).integers(2, size=(300, NUM_ENVS)).tolist()
    for each in choices[:150]:
        straight.step(each)
        stopped.step(each)
    episodes, num_begun = stopped.snapshot()
    earned = Earned()
    resumed = guided(earned=earned, **settings)
    resumed.restore([type(each).model_validate_json(each.model_dump_json()) for each in episodes], num_begun)
    assert earned.remembered == {0: 10.0, 1: 11.0, 2: 12.0}
    trusted = []
    for each in choices[150:]:
        assert resumed.states == straight.states
        ours, theirs = resumed.step(each), straight.step(each)
        assert np.array_equal(ours.shaping, theirs.shaping)
        assert (ours.trust, ours.hint_share) == (theirs.trust, theirs.hint_share)
        trusted.append(ours.trust)
    assert 0 < np.mean(trusted) < 1


# --- whole runs


@pytest.fixture
def config(tmp_path, model_dir):
    return TrainConfig(
        env_id="CartPole-v1",
        total_steps=5 * 32,
        num_envs=4,
        num_steps=8,
        minibatch_size=16,
        update_epochs=2,
        env_workers=0,
        seed=2,  # whose first episodes are some of both kinds
        guidance="both",
        checkpoint_every=1,
        model=str(model_dir),
        run_dir=tmp_path / "run",
    )


def begun(config, service):
    learner = Learner(config, ServedPolicy(service))
    learner.begin()
    return learner


def numbers(report):
    return repr({name: value for name, value in report.record().items() if not name.endswith("_s")})


def test_the_policy_learns_from_the_prompts_that_it_acted_on(config, service):
    # Its weight holds from the first step, and nobody knows yet whether hints help.
    learner, seen = begun(config.model_copy(update={"guidance_gate": False}), service), []
    update = learner.algorithm.update

    def spy(rollout, *, learning_rate):
        seen.append(rollout)
        return update(rollout, learning_rate=learning_rate)

    learner.algorithm.update = spy
    report = learner.run_update()
    [rollout] = seen
    shown = ["hint: push" in prompt for prompt in rollout.prompts]
    assert any(shown)
    assert not all(shown)
    for prompt, hinted, bare, is_shown in zip(
        rollout.prompts, rollout.hinted_prompts, rollout.bare_prompts, shown, strict=True
    ):
        assert prompt == (hinted if is_shown else bare)
        assert "hint: push" in hinted
        assert "hint:" not in bare
    assert report.mean_shaping == pytest.approx(rollout.shaping.mean())
    assert report.mean_shaping < 0
    assert report.guidance_trust == 1.0
    assert report.hint_share == 1 - config.hint_dropout
    np.testing.assert_allclose(rollout.rewards - rollout.shaping, 1.0)
    assert report.metrics.first_ratio_error < 1e-4


def test_returns_are_the_environment_s_own(config, service):
    learner = begun(config, service)
    for _ in range(5):
        learner.run_update()
    assert all(episode.episode_return == episode.length for episode in learner.recent)


@pytest.mark.parametrize("max_staleness", [0, 1])
@pytest.mark.parametrize("guidance", ["observation", "reward", "both"])
def test_a_guided_run_is_the_same_run_when_it_was_stopped(config, make_service, tmp_path, guidance, max_staleness):
    config = config.model_copy(update={"guidance": guidance, "hint_every": 3, "max_staleness": max_staleness})
    straight = begun(config, make_service())
    reports = [numbers(straight.run_update()) for _ in range(5)]
    stopped = begun(config, make_service())
    assert [numbers(stopped.run_update()) for _ in range(2)] == reports[:2]
    saved = save_checkpoint(tmp_path, stopped.checkpoint())
    resumed = Learner(config, ServedPolicy(make_service()))
    resumed.restore(load_checkpoint(saved))
    for _ in range(3):
        resumed.run_update()
    assert resumed.served.data == straight.served.data


def test_a_run_does_not_go_on_with_other_guidance(config, make_service, tmp_path):
    learner = begun(config, make_service())
    learner.run_update()
    saved = save_checkpoint(tmp_path, learner.checkpoint())
    again = Learner(config.model_copy(update={"hint_dropout": 0.1}), ServedPolicy(make_service()))
    with pytest.raises(CheckpointUnusable, match=r"hint_dropout \(was 0.5, now 0.1\)"):
        again.restore(load_checkpoint(saved))


def test_a_guided_run_does_not_go_on_with_other_advisers(config, make_service, tmp_path):
    learner = begun(config, make_service())
    learner.run_update()
    saved = save_checkpoint(tmp_path, learner.checkpoint())
    other = make_service()
    other.adviser_sha256 = "1" * 64
    with pytest.raises(CheckpointUnusable, match=r"guidance_sha256 \(was 0{64}, now 1{64}\), scorer_sha256"):
        Learner(config, ServedPolicy(other)).restore(load_checkpoint(saved))


def test_a_scorer_that_changes_under_a_run_ends_it_with_a_checkpoint(config, connect, service):
    def change():
        service.adviser_sha256 = "1" * 64
        service.hint_for = lambda text: "push nowhere"  # so that something is asked anew

    service.before_act[20] = change
    with pytest.raises(ScorerChanged, match="saved in"):
        train(config, connect=connect)
    assert read_run(config.directory)["status"] == "stopped"


def test_a_run_from_before_there_was_guidance_goes_on_without(config, make_service, tmp_path):
    config = config.model_copy(update={"guidance": "none"})
    learner = begun(config, make_service())
    learner.run_update()
    saved = save_checkpoint(tmp_path, learner.checkpoint())
    state = json.loads((saved / "state.json").read_text())
    for name in GuidanceSettings.model_fields:
        del state["config"][name]
    del state["guidance_sha256"], state["scorer_sha256"]
    for episode in state["episodes"]:
        del episode["guidance"]
    (saved / "state.json").write_text(json.dumps(state))
    again = Learner(config, ServedPolicy(make_service()))
    again.restore(load_checkpoint(saved))
    assert again.run_update().mean_shaping == 0


@pytest.fixture
def connect(service):
    @contextmanager
    def connected(settings, **_):
        yield service

    return connected


def test_a_guided_run_is_judged_without_hints_and_with_them(config, connect, service, capsys):
    train(config, connect=connect)
    run = read_run(config.directory)
    assert (run["evaluation"]["guidance"], run["evaluation_with_hints"]["guidance"]) == ("none", "observation")
    out = capsys.readouterr().out
    assert "without hints" in out
    assert "with hints" in out
    lines = list(read_metrics(config.directory))
    assert all(line["guide_s"] > 0 for line in lines)
    assert any(line["distill_kl"] > 0 for line in lines)
    asked = service.calls["guidance"]
    evaluate(EvaluateConfig(run_dir=config.directory, episodes=2), connect=connect)
    assert service.calls["guidance"] == asked
    evaluate(EvaluateConfig(run_dir=config.directory, episodes=2, guidance="observation"), connect=connect)
    assert service.calls["guidance"] > asked
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["guidance"] for answer in answers] == ["none", "observation"]


def test_an_unguided_run_asks_for_no_hints(config, connect, service):
    train(config.model_copy(update={"guidance": "none"}), connect=connect)
    assert service.calls["guidance"] == service.calls["reward"] == 0
    assert "evaluation_with_hints" not in read_run(config.directory)
