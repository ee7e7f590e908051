import dataclasses
import math

import numpy as np
import pytest
import torch

from hintwise.action_batch import collate
from hintwise.language_model import load_language_model
from hintwise.policy import Policy
from hintwise.scoring import score
from worker.algorithms import ppo as ppo_page
from worker.algorithms.actor_critic import Estimates
from worker.algorithms.hyperparameters import PPOHyperparameters
from worker.algorithms.ppo import PPO
from worker.buffers import Rollout
from worker.seeds import minibatch_generator

PHRASES = ("push left", "push right")
THREE = ("push left", "push right", "wait")


@pytest.fixture
def policy(language_model):
    return Policy(language_model)


@pytest.fixture(params=["phrase", "head"])
def either(request, language_model):
    """A policy of each readout."""
    return Policy(language_model, head_actions=THREE if request.param == "head" else None)


def make_ppo(policy, encoder, **changed):
    hyperparameters = PPOHyperparameters(minibatch_size=32, update_epochs=4, learning_rate=3e-3, **changed)
    return PPO(policy, encoder, hyperparameters, minibatch_generator(1))


def play(policy, encoder, *, num_steps=16, seed=0, phrase_lists=(PHRASES, PHRASES), num_envs=8):
    """One-step episodes in which action k is right in state k."""
    generator = np.random.default_rng(seed)
    rollout = Rollout.empty(num_steps, num_envs)
    wanted = generator.integers(2, size=(num_steps, num_envs))
    rollout.prompts = [f"state: {number}\naction:" for number in wanted.reshape(-1)]
    rollout.action_phrases = [phrase_lists[number] for number in wanted.reshape(-1)]
    batch = collate(
        [encoder.encode(prompt) for prompt in rollout.prompts],
        [policy.candidates(encoder, phrases) for phrases in rollout.action_phrases],
    )
    with torch.no_grad():
        output = policy(batch)
    drawn = torch.multinomial(output.log_probs.exp(), 1, generator=torch.Generator().manual_seed(seed))
    shape = num_steps, num_envs
    rollout.actions[:] = drawn.reshape(shape)
    rollout.log_probs[:] = output.log_probs.gather(1, drawn).reshape(shape)
    rollout.values[:] = output.values.reshape(shape)
    rollout.rewards[:] = rollout.actions == wanted
    rollout.terminated[:] = True
    return rollout


def estimates_of(rollout, advantages):
    return Estimates(advantages, advantages + rollout.values, math.nan, math.nan)


def state_of(policy):
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_ppo_learns_which_action_each_state_wants(either, encoder):
    policy = either
    ppo = make_ppo(policy, encoder)
    for update in range(12):
        ppo.update(play(policy, encoder, seed=update), learning_rate=3e-3)
    assert play(policy, encoder, seed=99, num_steps=32).rewards.mean() > 0.95


def test_the_first_ratio_is_one(either, encoder):
    policy = either
    ppo = make_ppo(policy, encoder)
    for update in range(3):
        metrics = ppo.update(play(policy, encoder, seed=update), learning_rate=3e-3)
        assert metrics.first_ratio_error < 1e-5


def test_a_wrong_behaviour_log_prob_shows_in_the_first_ratio(policy, encoder):
    rollout = play(policy, encoder)
    rollout.log_probs += 0.1
    metrics = make_ppo(policy, encoder).update(rollout, learning_rate=1e-4)
    assert metrics.first_ratio_error == pytest.approx(1 - math.exp(-0.1), abs=1e-5)


def test_stale_transitions_do_not_move_the_weights(policy, encoder):
    rollout, start = play(policy, encoder), state_of(policy)
    rollout.stale[3, 2] = True
    make_ppo(policy, encoder).update(rollout, learning_rate=1e-3)
    once = state_of(policy)
    policy.load_state_dict(start)
    rollout.log_probs[3, 2] -= 5.0  # would be a ratio of 148
    make_ppo(policy, encoder).update(rollout, learning_rate=1e-3)
    assert same(state_of(policy), once)
    assert not same(once, start)


def test_a_rollout_that_is_all_stale_changes_nothing(policy, encoder):
    rollout, start = play(policy, encoder), state_of(policy)
    rollout.stale[:] = True
    metrics = make_ppo(policy, encoder).update(rollout, learning_rate=1e-3)
    assert metrics.num_minibatches == 0
    assert math.isnan(metrics.policy_loss)
    assert same(state_of(policy), start)


@pytest.mark.parametrize("floor", [0.0, 0.5, 10.0])
def test_advantages_are_divided_by_no_less_than_the_floor(floor):
    advantages = torch.tensor([-1.0, 0.0, 1.0, 2.0]) + 5  # a standard deviation of 1.29
    normalised = ppo_page._normalised(advantages, floor)
    assert normalised.mean().item() == pytest.approx(0, abs=1e-6)
    assert normalised.max().item() == pytest.approx(1.5 / max(1.29099, floor), rel=1e-4)


def test_the_floor_is_in_units_of_the_value_scale(policy, encoder):
    start, moved = state_of(policy), []
    for floor, scale in ((0.0, 1.0), (100.0, 1.0), (100.0, 1e-6)):
        policy.load_state_dict(start)
        policy.value_scale.fill_(scale)
        ppo = make_ppo(policy, encoder, advantage_floor=floor, vf_coef=0.0)
        ppo.optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)  # Adam's steps do not know how large a gradient is
        ppo.update(play(policy, encoder), learning_rate=0.1)
        moved.append(
            max((policy.state_dict()[name] - start[name]).abs().max().item() for name in start if "scale" not in name)
        )
    assert moved[1] < 0.1 * moved[0]
    assert moved[2] == pytest.approx(moved[0], rel=0.1)


# --- doing without hints


def lessons(policy, encoder, distill_share):
    """A rollout of advised states, in which hint k asks for action k, and the bare state says no less."""
    rollout = play(policy, encoder)
    rollout.bare_prompts = list(rollout.prompts)
    rollout.hinted_prompts = [
        prompt.replace("action:", f"hint: {PHRASES[int('1' in prompt)]}\naction:") for prompt in rollout.prompts
    ]
    rollout.distill_share = distill_share
    return rollout


def log_probs_of(policy, encoder, prompts):
    with torch.no_grad():
        batch = collate([encoder.encode(p) for p in prompts], [policy.candidates(encoder, PHRASES)] * len(prompts))
        return policy(batch).log_probs


def test_the_bare_policy_learns_what_the_hinted_one_does(either, encoder):
    policy = either
    ppo = make_ppo(policy, encoder, distill_coef=1.0, vf_coef=0.0)
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():  # so that hints make a difference
        torch.nn.init.normal_(parameter, std=0.1 if name == "action_head.bias" else 0.3)
    rollout = lessons(policy, encoder, 1.0)
    rollout.rewards[:], rollout.values[:] = 0.0, 0.0  # nothing else teaches
    divergences = [ppo.update(rollout, learning_rate=3e-3).distill_kl for _ in range(6)]
    assert divergences[-1] < 0.3 * divergences[0]


def encoded(policy, encoder, rollout):
    """An algorithm, the rollout as it learns from it, and the places of all its transitions."""
    ppo = make_ppo(policy, encoder)
    experience = ppo._encode(rollout, estimates_of(rollout, np.zeros_like(rollout.rewards)))
    return ppo, experience, np.arange(len(rollout.prompts))


def test_what_is_taught_is_the_divergence_from_the_hinted_policy(policy, encoder):
    rollout = lessons(policy, encoder, 1.0)
    ppo, experience, everything = encoded(policy, encoder, rollout)
    acted, loss = ppo._score(experience, everything)
    loss.backward()
    hinted, bare = (
        log_probs_of(policy, encoder, prompts) for prompts in (rollout.hinted_prompts, rollout.bare_prompts)
    )
    assert loss.item() == pytest.approx((hinted.exp() * (hinted - bare)).sum(-1).mean().item(), abs=1e-5)
    assert any(parameter.grad.any() for parameter in policy.parameters() if parameter.grad is not None)
    assert torch.allclose(acted.log_probs, log_probs_of(policy, encoder, rollout.prompts), atol=1e-5)


def test_what_a_hinted_policy_does_is_not_changed_by_teaching(policy, encoder):
    rollout = lessons(policy, encoder, 1.0)
    rollout.bare_prompts = list(rollout.hinted_prompts)
    ppo, experience, everything = encoded(policy, encoder, rollout)
    _, loss = ppo._score(experience, everything)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    assert all(gradient.abs().max() < 1e-5 for gradient in gradients)


def test_states_with_fewer_legal_actions_teach_too(policy, encoder):
    """The hinted numbers of all states stand side by side, padded; a minibatch may need fewer columns."""
    rollout = lessons(policy, encoder, 1.0)
    rollout.action_phrases = [phrases[:1] if i % 2 else phrases for i, phrases in enumerate(rollout.action_phrases)]
    rollout.actions = np.zeros_like(rollout.actions)
    ppo, experience, everything = encoded(policy, encoder, rollout)
    assert ppo._score(experience, everything[1::2])[1].item() == pytest.approx(0, abs=1e-6)
    whole = ppo._score(experience, everything)[1]
    whole.backward()
    assert whole.item() > 0
    assert all(parameter.grad.isfinite().all() for parameter in policy.parameters() if parameter.grad is not None)


def test_a_state_that_was_acted_on_without_its_hint_is_read_once(policy, encoder, monkeypatch):
    rollout = lessons(policy, encoder, 1.0)  # all of it was
    ppo, experience, everything = encoded(policy, encoder, rollout)
    asked = []

    def noting_score(policy, prompts, **how):
        asked.append(prompts)
        return score(policy, prompts, **how)

    monkeypatch.setattr(ppo_page, "score", noting_score)
    ppo._score(experience, everything)
    assert len(asked) == 1
    assert len(set(asked[0])) == len(set(rollout.prompts))


@pytest.mark.parametrize(("share", "coefficient"), [(0.0, 1.0), (1.0, 0.0)])
def test_without_a_weight_nothing_is_distilled(policy, encoder, share, coefficient):
    metrics = make_ppo(policy, encoder, distill_coef=coefficient).update(
        lessons(policy, encoder, share), learning_rate=1e-3
    )
    assert metrics.distill_kl == 0


def test_distillation_counts_by_its_share(policy, encoder):
    start, moved = state_of(policy), []
    for share in (0.0, 1e-9, 1.0):
        policy.load_state_dict(start)
        make_ppo(policy, encoder).update(lessons(policy, encoder, share), learning_rate=1e-3)
        moved.append(state_of(policy))
    far = [
        max((a[name] - b[name]).abs().max().item() for name in a)
        for a, b in ((moved[0], moved[1]), (moved[0], moved[2]))
    ]
    assert far[0] < 0.01 * far[1]


def test_target_kl_ends_the_update_before_the_step_that_goes_too_far(policy, encoder):
    rollout = play(policy, encoder)
    free = make_ppo(policy, encoder).update(rollout, learning_rate=1e-2)
    assert free.num_minibatches == 16
    held = make_ppo(policy, encoder, target_kl=1e-3).update(play(policy, encoder), learning_rate=1e-2)
    assert 1 <= held.num_minibatches < 16


def test_different_numbers_of_legal_actions_give_no_nan(either, encoder):
    policy = either
    rollout = play(policy, encoder, phrase_lists=(THREE, PHRASES))
    metrics = make_ppo(policy, encoder, ent_coef=0.01).update(rollout, learning_rate=1e-3)
    undefined = {name for name, value in dataclasses.asdict(metrics).items() if not math.isfinite(value)}
    assert undefined == {"shaping_explained_variance"}  # nothing was paid
    assert all(torch.isfinite(tensor).all() for tensor in policy.state_dict().values())
    assert 0 < metrics.entropy < math.log(3)


def test_the_entropy_bonus_keeps_the_policy_undecided(policy, encoder, language_model):
    entropies = []
    start = state_of(policy)
    for ent_coef in (0.0, 1.0):
        policy.load_state_dict(start)
        ppo = make_ppo(policy, encoder, ent_coef=ent_coef)
        for update in range(6):
            metrics = ppo.update(play(policy, encoder, seed=update), learning_rate=3e-3)
        entropies.append(metrics.entropy)
    assert entropies[0] < entropies[1]


def test_the_value_loss_is_in_units_of_the_value_scale(policy, encoder):
    rollout = play(policy, encoder)
    plain = make_ppo(policy, encoder).update(rollout, learning_rate=1e-9).value_loss
    policy.value_scale.fill_(10.0)  # the head is zero, so that every value stays 0
    assert make_ppo(policy, encoder).update(rollout, learning_rate=1e-9).value_loss == pytest.approx(
        plain / 100, rel=1e-3
    )


def test_values_move_towards_the_returns(policy, encoder):
    policy.value_scale.fill_(5.0)
    ppo = make_ppo(policy, encoder, vf_coef=1.0)
    losses = [ppo.update(play(policy, encoder, seed=update), learning_rate=3e-3).value_loss for update in range(8)]
    assert losses[-1] < losses[0] / 2


def test_gradients_are_clipped(policy, encoder):
    rollout, start = play(policy, encoder), state_of(policy)
    ppo = make_ppo(policy, encoder, max_grad_norm=1e-12)  # far below Adam's epsilon: no step worth the name
    metrics = ppo.update(rollout, learning_rate=1e-3)
    assert metrics.grad_norm > 1e-3  # as it was before clipping
    assert all(torch.allclose(tensor, start[name], atol=1e-6) for name, tensor in policy.state_dict().items())


def test_the_clip_range_stops_the_pull(policy, encoder):
    rollout = play(policy, encoder)
    metrics = make_ppo(policy, encoder, clip_coef=1e-6).update(rollout, learning_rate=3e-3)
    assert metrics.clip_fraction > 0.5


@pytest.mark.parametrize(
    ("ratio", "gained", "lost"),
    [(math.e, 1.2, math.e), (1 / math.e, 1 / math.e, 0.8)],  # what counts of the ratio where A > 0 and where A < 0
)
def test_the_clip_range_bounds_the_gain_but_never_the_loss(policy, encoder, ratio, gained, lost):
    rollout = play(policy, encoder, num_steps=1, num_envs=2)
    rollout.log_probs -= math.log(ratio)
    ppo = make_ppo(policy, encoder)
    experience = ppo._encode(rollout, estimates_of(rollout, np.array([[1.0, -1.0]])))
    measured = ppo._accumulate(experience, np.array([0, 1]))
    advantage = 1 / math.sqrt(2)  # 1 and -1, divided by their standard deviation
    assert measured["policy_loss"] == pytest.approx(-advantage * (gained - lost) / 2, rel=1e-4)


def test_every_transition_is_used_once_an_epoch(policy, encoder, monkeypatch):
    seen = []
    ppo = make_ppo(policy, encoder)
    loss = ppo._loss
    monkeypatch.setattr(
        ppo, "_loss", lambda experience, chosen, advantages: seen.append(chosen) or loss(experience, chosen, advantages)
    )
    ppo.update(play(policy, encoder), learning_rate=1e-3)
    for epoch in range(4):
        assert sorted(np.concatenate(seen[4 * epoch : 4 * epoch + 4])) == list(range(128))


def test_a_lone_transition_is_learnt_from_without_nan(policy, encoder):
    rollout = play(policy, encoder, num_steps=1, num_envs=1)
    metrics = make_ppo(policy, encoder).update(rollout, learning_rate=1e-3)
    assert math.isfinite(metrics.policy_loss)
    assert all(torch.isfinite(tensor).all() for tensor in policy.state_dict().values())


def largest_difference(one, other):
    return max((one[name] - tensor).abs().max().item() for name, tensor in other.items())


def gradient_of(ppo, experience, chosen):
    measured = ppo._accumulate(experience, chosen)
    return {name: p.grad.clone() for name, p in ppo.policy.named_parameters() if p.grad is not None}, measured


@pytest.mark.parametrize("num_parts", [2, 3, 32, 500])
def test_a_minibatch_in_parts_has_the_gradient_of_the_whole(either, encoder, num_parts):
    rollout = play(either, encoder, num_steps=4)
    rollout.log_probs -= np.linspace(-0.4, 0.4, 32).reshape(4, 8)  # some ratios beyond the clip range
    options = {"ent_coef": 0.02, "vf_coef": 0.7}
    whole = make_ppo(either, encoder, **options)
    parts = make_ppo(either, encoder, **options, gradient_accumulation=num_parts)
    advantages = np.random.default_rng(2).normal(size=(4, 8))
    experience = whole._encode(rollout, estimates_of(rollout, advantages))
    chosen = np.random.default_rng(3).permutation(32)[:31]
    wanted, measured_whole = gradient_of(whole, experience, chosen)
    found, measured = gradient_of(parts, experience, chosen)
    assert found.keys() == wanted.keys()
    assert largest_difference(found, wanted) <= 1e-6 * max(1.0, *(g.abs().max().item() for g in wanted.values()))
    assert measured == pytest.approx(measured_whole, rel=1e-4, abs=1e-6)


def test_an_update_in_parts_ends_where_the_whole_one_does(model_dir, encoder):
    ends = []
    for num_parts in (1, 4):
        policy = Policy(load_language_model(str(model_dir)))
        rollout = play(policy, encoder, num_steps=4)
        make_ppo(policy, encoder, gradient_accumulation=num_parts).update(rollout, learning_rate=1e-3)
        ends.append(state_of(policy))
    assert largest_difference(*ends) < 1e-3


def test_parts_are_as_many_and_as_equal_as_can_be(policy, encoder, monkeypatch):
    sizes = []
    ppo = make_ppo(policy, encoder, gradient_accumulation=3)
    loss = ppo._loss
    monkeypatch.setattr(ppo, "_loss", lambda *given: sizes.append(len(given[1])) or loss(*given))
    ppo.update(play(policy, encoder, num_steps=4), learning_rate=1e-3)
    assert sizes == [11, 11, 10] * 4


def test_the_kl_limit_is_of_the_whole_minibatch_and_spares_the_step(policy, encoder):
    rollout, start = play(policy, encoder, num_steps=4), state_of(policy)
    rollout.log_probs -= 1.0
    metrics = make_ppo(policy, encoder, target_kl=0.1, gradient_accumulation=4).update(rollout, learning_rate=1e-3)
    assert metrics.num_minibatches == 0
    assert largest_difference(state_of(policy), start) == 0
