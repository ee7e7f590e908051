"""Guided runs: what they learn from, that they go on exactly when stopped, how they are judged."""

import json

import numpy as np
import pytest

from hintwise.errors import ScorerChanged
from tests.unit.worker.guided import NUM_ENVS, Earned, guided
from tests.unit.worker.runs import begun, small_config
from worker.checkpoint import load_checkpoint, save_checkpoint
from worker.config import EvaluateConfig
from worker.errors import CheckpointUnusable
from worker.evaluate import evaluate
from worker.guidance.settings import GuidanceSettings
from worker.learner import Learner
from worker.run_record import read_metrics, read_run
from worker.served_policy import ServedPolicy
from worker.train import train

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
    settings = {"update_epochs": 2, "seed": 2, "checkpoint_every": 1}  # its first episodes are some of both kinds
    return small_config(tmp_path, model_dir, total_steps=5 * 32, env_workers=0, guidance="both", **settings)


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
    with pytest.raises(CheckpointUnusable, match=r"hint_dropout \(was 0.5, now 0.1\); repeat the first ones, or"):
        again.restore(load_checkpoint(saved))


def test_a_guided_run_does_not_go_on_with_other_advisers(config, make_service, tmp_path):
    learner = begun(config, make_service())
    learner.run_update()
    saved = save_checkpoint(tmp_path, learner.checkpoint())
    other = make_service()
    other.adviser_sha256 = "1" * 64
    with pytest.raises(
        CheckpointUnusable, match=r"guidance_sha256 \(was 0{64}, now 1{64}\), scorer_sha256.*--guidance-model told"
    ):
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
