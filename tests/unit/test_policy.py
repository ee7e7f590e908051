import math

import pytest
import torch

from hintwise import weights
from hintwise.policy import Policy
from hintwise.tokens import TextEncoder, collate

ACTION_LISTS = [("push left", "push right"), ("wait", "push left", "twist right now"), ("go",)]


@pytest.fixture(scope="module")
def policy(embedded):
    policy = Policy(embedded)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # an untrained value head is zero and would hide a wrong position
        policy.value_head.weight.copy_(torch.randn(policy.value_head.weight.shape, generator=generator))
    return policy


@pytest.fixture(scope="module")
def encoder(embedded):
    return TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)


def batch_of(encoder, pairs):
    return collate([encoder.encode(text) for text, _ in pairs], [encoder.phrases(actions) for _, actions in pairs])


def naive_scores(model, prompt, phrases, alpha=0.0, beta=1.0):
    """One forward per phrase through transformers' own head: what the fast path must equal."""
    scores = []
    for phrase in phrases:
        ids = torch.tensor([[*prompt, *phrase]])
        log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
        picked = [log_probs[len(prompt) - 1 + j, token].item() for j, token in enumerate(phrase)]
        scores.append(beta * sum(picked) / len(phrase) ** alpha)
    return scores


@pytest.mark.parametrize("actions", ACTION_LISTS)
def test_scores_equal_one_forward_per_phrase(policy, encoder, embedded, actions):
    with torch.no_grad():
        output = policy(batch_of(encoder, [("state: cart 20 speed 3\naction:", actions)]))
        phrases = encoder.phrases(actions)
        expected = naive_scores(embedded.model, encoder.encode("state: cart 20 speed 3\naction:"), phrases.token_ids)
    assert output.scores[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert output.log_probs[0].exp().sum().item() == pytest.approx(1)


def test_alpha_and_beta_normalise_phrases(fresh_embedded, encoder):
    policy = Policy(fresh_embedded, alpha=1.0, beta=2.5)
    actions = ("wait", "twist right now")
    with torch.no_grad():
        output = policy(batch_of(encoder, [("state: x", actions)]))
        expected = naive_scores(
            fresh_embedded.model, encoder.encode("state: x"), encoder.phrases(actions).token_ids, 1.0, 2.5
        )
    assert output.scores[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_neighbours_length_and_place_change_nothing(policy, encoder):
    item = ("state: cart 20 speed 3\naction:", ("push left", "push right"))
    others = [(f"state: {'pole ' * n}\naction:", ACTION_LISTS[n % 3]) for n in range(1, 64)]
    with torch.no_grad():
        alone = policy(batch_of(encoder, [item]))
        for place in (0, 17, 63):
            output = policy(batch_of(encoder, [*others[:place], item, *others[place:]]))
            for k in range(2):
                expected = alone.log_probs[0, k].item()
                assert output.log_probs[place, k].item() == pytest.approx(expected, abs=1e-5 * (1 + abs(expected)))
            assert output.values[place].item() == pytest.approx(alone.values[0].item(), abs=1e-4)


def test_missing_actions_are_minus_infinity_and_harmless(policy, encoder):
    output = policy(batch_of(encoder, [("a", ("go",)), ("a", ACTION_LISTS[1])]))
    assert output.log_probs[0].tolist() == [0.0, -math.inf, -math.inf]
    output.log_probs[output.log_probs.isfinite()].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())
    policy.zero_grad()


def test_value_is_read_at_the_last_prompt_token_and_scaled(policy, encoder, embedded):
    prompt = encoder.encode("state: cart 20\naction:")
    with torch.no_grad():
        hidden = embedded.model.base_model(input_ids=torch.tensor([prompt])).last_hidden_state[0, -1]
        expected = policy.value_head(hidden).item()
        batch = batch_of(encoder, [("state: cart 20\naction:", ("push left", "push right"))])
        assert policy(batch).values.item() == pytest.approx(expected, abs=1e-5)
        policy.value_scale.fill_(3.0)
        assert policy(batch).values.item() == pytest.approx(3 * expected, abs=1e-5)
        policy.value_scale.fill_(1.0)


def test_an_untrained_critic_says_zero(fresh_embedded, encoder):
    assert Policy(fresh_embedded)(batch_of(encoder, [("a", ("go",))])).values.item() == 0


def test_dropout_is_off_from_the_start(fresh_embedded):
    assert not Policy(fresh_embedded).training


def test_alpha_beta_and_value_scale_travel_with_the_weights(fresh_embedded):
    assert {"alpha", "beta", "value_scale"} <= set(weights.state_of(Policy(fresh_embedded)))
