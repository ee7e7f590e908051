"""Guidance that fails on purpose: a source that dies in the middle of the run, and a scorer that flatters."""

import numpy as np
import pytest

from hintwise.schemas import RewardResponse, RewardResult
from tests.unit.worker.runs import begun, small_config
from worker.checkpoint import load_checkpoint, save_checkpoint
from worker.config import TrainConfig
from worker.envs import TextEnvs
from worker.guidance.earnings import Penalty, Potential
from worker.guidance.guided_envs import GuidedEnvs, guided
from worker.guidance.progress import Progress
from worker.guidance.settings import GuidanceSettings
from worker.learner import Learner
from worker.served_policy import ServedPolicy
from worker.stopwatch import Stopwatch

NUM_ENVS, TOTAL_STEPS, GAMMA = 3, 60, 0.9
LAST_STEPS = 10
"""Steps of each environment in the half in which a source that dies is dead."""


class Source:
    """Advises the same always, and counts how often it is asked."""

    def __init__(self):
        self.num_asked = 0

    def hints(self, states):
        self.num_asked += 1
        return ["push left"] * len(states)


def dying(service, form, *, max_episode_steps=4, **settings):
    """Environments whose guidance dies after 30 steps, 10 of each; what the stand-in scores is never 0."""
    envs = TextEnvs("CartPole-v1", num_envs=NUM_ENVS, run_seed=1, env_kwargs={"max_episode_steps": max_episode_steps})
    pays = {
        "penalty": lambda: Penalty(service, None),
        "potential": lambda: Potential(Progress(service, None).of, gamma=GAMMA, num_envs=NUM_ENVS),
    }[form]()
    settings = {"hint_dropout": 0.0, "guidance_weight": 1.0, "faulty_guidance": "dies", **settings}
    source = Source()
    made = GuidedEnvs(
        envs,
        source,
        pays,
        GuidanceSettings(guidance="both", **settings),
        run_seed=1,
        total_steps=TOTAL_STEPS,
        stopwatch=Stopwatch(),
    )
    return made, source


def choices(step):
    return [step % 2, 1 - step % 2, step % 2]


def test_a_source_that_died_advises_nothing_and_is_not_asked(service):
    envs, source = dying(service, "penalty")
    for step in range(9):
        assert {state.advice for state in envs.states} == {"push left"}
        envs.step(choices(step))
    asked, scored = source.num_asked, service.calls["reward"]
    for step in range(9, 9 + LAST_STEPS):
        outcome = envs.step(choices(step))
        assert {(state.advice, state.hint) for state in envs.states} == {("", None)}
        assert {(state.advice, state.hint) for state in outcome.final_states.values()} <= {("", None)}
        assert not outcome.shaping.any()
    assert (source.num_asked, service.calls["reward"]) == (asked, scored)


def test_a_hint_outlives_its_source_for_as_long_as_it_is_held_and_nothing_is_scored_by_it(service):
    envs, _ = dying(service, "penalty", hint_every=4, max_episode_steps=500)
    shown, added = [], []
    for step in range(14):
        shown.append(envs.states[0].hint)
        added.append(envs.step([1, 1, 0] if step % 2 else [0, 0, 1]).shaping[0])
    assert shown == ["push left"] * 12 + [None] * 2
    assert any(added[:9])
    assert not any(added[9:])


class HalfWay:
    """A scorer that says 0.5 of everything."""

    def reward(self, items, *, scorer, gamma=0.99):
        results = [RewardResult(reward=0.0, potential=0.5) for _ in items]
        return RewardResponse(scorer=scorer, model="half way", model_sha256="0" * 64, results=results)


@pytest.mark.parametrize("max_episode_steps", [4, 500])
def test_a_potential_is_taken_back_when_its_source_dies(max_episode_steps):
    envs, _ = dying(HalfWay(), "potential", max_episode_steps=max_episode_steps, guidance_gate=False, hint_every=0)
    added, weights = [], []
    for step in range(14):
        weights.append(envs._weights[0])  # settled when an episode begins
        added.append(envs.step(choices(step)).shaping[0])
    assert min(weights) > 0
    told = [0.5 * GAMMA - 0.5] * 9 + [-0.5] + [0.0] * 4
    assert added == pytest.approx([weight * each for weight, each in zip(weights, told, strict=True)])


@pytest.mark.parametrize("form", ["penalty", "potential"])
@pytest.mark.parametrize("num_before", [7, 11])  # alive, dead
def test_environments_whose_source_dies_go_on_exactly(service, form, num_before):
    settings = {"hint_every": 3, "hint_dropout": 0.5, "wrong_hints": 0.5, "guidance_gate": False}
    (straight, _), (stopped, _), (resumed, _) = (dying(service, form, **settings) for _ in range(3))
    for step in range(num_before):
        straight.step(choices(step))
        stopped.step(choices(step))
    resumed.restore(*stopped.snapshot())
    for step in range(num_before, 19):
        assert resumed.states == straight.states
        ours, theirs = resumed.step(choices(step)), straight.step(choices(step))
        assert np.array_equal(ours.shaping, theirs.shaping)
        assert ours.trust == theirs.trust


def flattered(service, form, *, max_episode_steps=5, **settings):
    config = TrainConfig(
        env_id="CartPole-v1",
        guidance="both",
        guidance_reward=form,
        guidance_weight=1.0,
        faulty_guidance="flatters",
        gamma=GAMMA,
        env_kwargs={"max_episode_steps": max_episode_steps},
        **settings,
    )
    envs = TextEnvs("CartPole-v1", num_envs=NUM_ENVS, run_seed=1, env_kwargs=config.env_kwargs)
    return guided(envs, config, ServedPolicy(service))


def test_the_most_that_a_penalty_can_flatter_with_is_nothing_for_whatever_was_done(service):
    envs = flattered(service, "penalty")
    assert {state.advice for state in envs.states} <= {"push left", "push right"}  # hints are the service's own
    for step in range(10):
        assert not envs.step(choices(step)).shaping.any()
    assert service.calls["reward"] == 0
    assert service.calls["guidance"] > 0


def test_a_potential_that_flatters_is_1_everywhere(service):
    envs = flattered(service, "potential", guidance_gate=False)
    added = [envs.step(choices(step)).shaping[0] for step in range(8)]
    weights = 1 - np.array([0] * 5 + [15] * 3) / 100_000  # of an episode, settled when it begins
    assert added == pytest.approx((GAMMA - 1) * weights)


def test_a_flatterer_loses_its_say(service):
    envs = flattered(service, "penalty", max_episode_steps=500, hint_dropout=0.0)  # nothing to compare hints with
    generator = np.random.default_rng(3)
    for _ in range(600):
        outcome = envs.step(generator.integers(2, size=NUM_ENVS).tolist())
    assert outcome.trust < 0.5


# --- whole runs


@pytest.fixture
def config(tmp_path, model_dir):
    settings = {"update_epochs": 2, "seed": 2, "hint_every": 3, "guidance": "both"}
    settings["guidance_gate"] = False  # or nothing is paid before hints have helped
    return small_config(tmp_path, model_dir, total_steps=5 * 32, env_workers=0, **settings)


@pytest.mark.parametrize("form", ["penalty", "potential"])
@pytest.mark.parametrize("faulty", ["dies", "flatters"])
def test_a_run_whose_guidance_fails_ends_and_is_the_same_when_it_was_stopped(
    config, make_service, tmp_path, faulty, form
):
    config = config.model_copy(update={"faulty_guidance": faulty, "guidance_reward": form})
    straight, stopped = begun(config, make_service()), begun(config, make_service())
    rollouts, update = [], straight.algorithm.update
    straight.algorithm.update = lambda rollout, **given: rollouts.append(rollout) or update(rollout, **given)
    reports = [straight.run_update() for _ in range(5)]
    for _ in range(2):
        stopped.run_update()
    saved = save_checkpoint(tmp_path, stopped.checkpoint())
    resumed = Learner(config, ServedPolicy(make_service()))
    resumed.restore(load_checkpoint(saved))
    for _ in range(3):
        resumed.run_update()
    assert resumed.served.data == straight.served.data
    if faulty == "dies":
        assert reports[0].mean_shaping != 0
        assert rollouts[0].hinted_prompts != rollouts[0].bare_prompts
        assert reports[-1].mean_shaping == 0
        assert rollouts[-1].hinted_prompts == rollouts[-1].bare_prompts
