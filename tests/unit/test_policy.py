import math

import pytest
import torch

from hintwise import weights
from hintwise.action_batch import collate
from hintwise.action_head import HeadActions
from hintwise.errors import InvalidRequest
from hintwise.policy import Policy
from hintwise.tokens import TextEncoder

ACTION_LISTS = [("push left", "push right"), ("wait", "push left", "twist right now"), ("go",)]


ALL_ACTIONS = tuple(dict.fromkeys(action for actions in ACTION_LISTS for action in actions))
HEADS = {"phrase": None, "head": ALL_ACTIONS}


def trained(embedded, head_actions=None):
    """A policy whose heads are not zero: untrained ones would hide a wrong position or column."""
    policy = Policy(embedded, head_actions=head_actions)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in (policy.value_head, *([policy.action_head] if head_actions else [])):
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
    return policy


@pytest.fixture(scope="module")
def policy(embedded):
    return trained(embedded)


@pytest.fixture(scope="module")
def head_policy(embedded):
    return trained(embedded, ALL_ACTIONS)


@pytest.fixture(scope="module", params=HEADS)
def either(request, embedded):
    """A policy of each readout."""
    return trained(embedded, HEADS[request.param])


@pytest.fixture(scope="module")
def encoder(embedded):
    return TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)


def batch_of(policy, encoder, pairs):
    prompts = [encoder.encode(text) for text, _ in pairs]
    return collate(prompts, [policy.candidates(encoder, actions) for _, actions in pairs])


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
        output = policy(batch_of(policy, encoder, [("state: cart 20 speed 3\naction:", actions)]))
        phrases = encoder.phrases(actions)
        expected = naive_scores(embedded.model, encoder.encode("state: cart 20 speed 3\naction:"), phrases.token_ids)
    assert output.scores[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert output.log_probs[0].exp().sum().item() == pytest.approx(1)


def test_alpha_and_beta_normalise_phrases(fresh_embedded, encoder):
    policy = Policy(fresh_embedded, alpha=1.0, beta=2.5)
    actions = ("wait", "twist right now")
    with torch.no_grad():
        output = policy(batch_of(policy, encoder, [("state: x", actions)]))
        expected = naive_scores(
            fresh_embedded.model, encoder.encode("state: x"), encoder.phrases(actions).token_ids, 1.0, 2.5
        )
    assert output.scores[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_neighbours_length_and_place_change_nothing(either, encoder):
    policy = either
    item = ("state: cart 20 speed 3\naction:", ("push left", "push right"))
    others = [(f"state: {'pole ' * n}\naction:", ACTION_LISTS[n % 3]) for n in range(1, 64)]
    with torch.no_grad():
        alone = policy(batch_of(policy, encoder, [item]))
        for place in (0, 17, 63):
            output = policy(batch_of(policy, encoder, [*others[:place], item, *others[place:]]))
            for k in range(2):
                expected = alone.log_probs[0, k].item()
                assert output.log_probs[place, k].item() == pytest.approx(expected, abs=1e-5 * (1 + abs(expected)))
            assert output.values[place].item() == pytest.approx(alone.values[0].item(), abs=1e-4)


def test_missing_actions_are_minus_infinity_and_harmless(either, encoder):
    policy = either
    output = policy(batch_of(policy, encoder, [("a", ("go",)), ("a", ACTION_LISTS[1])]))
    assert output.log_probs[0].tolist() == [0.0, -math.inf, -math.inf]
    output.log_probs[output.log_probs.isfinite()].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())
    policy.zero_grad()


def test_value_is_read_at_the_last_prompt_token_and_scaled(either, encoder, embedded):
    policy = either
    prompt = encoder.encode("state: cart 20\naction:")
    with torch.no_grad():
        hidden = embedded.model.base_model(input_ids=torch.tensor([prompt])).last_hidden_state[0, -1]
        expected = policy.value_head(hidden).item()
        batch = batch_of(policy, encoder, [("state: cart 20\naction:", ("push left", "push right"))])
        assert policy(batch).values.item() == pytest.approx(expected, abs=1e-5)
        policy.value_scale.fill_(3.0)
        assert policy(batch).values.item() == pytest.approx(3 * expected, abs=1e-5)
        policy.value_scale.fill_(1.0)


@pytest.mark.parametrize("head_actions", HEADS.values(), ids=HEADS)
def test_an_untrained_critic_says_zero(fresh_embedded, encoder, head_actions):
    policy = Policy(fresh_embedded, head_actions=head_actions)
    assert policy(batch_of(policy, encoder, [("a", ("go",))])).values.item() == 0


@pytest.mark.parametrize("head_actions", HEADS.values(), ids=HEADS)
def test_dropout_is_off_from_the_start(fresh_embedded, head_actions):
    assert not Policy(fresh_embedded, head_actions=head_actions).training


def own_names(policy):
    """What the policy adds to its trunk's weights."""
    return {name for name in weights.state_of(policy) if not name.startswith("trunk.")}


def test_the_names_of_phrase_weights_are_those_of_weights_written_earlier(policy):
    assert own_names(policy) == {"alpha", "beta", "value_scale", "q_scale", "value_head.weight", "value_head.bias"}


def test_the_head_travels_with_the_weights(head_policy):
    assert own_names(head_policy) == {
        "action_head.weight", "action_head.bias", "value_scale", "q_scale", "value_head.weight", "value_head.bias"
    }  # fmt: skip


def test_head_scores_are_a_linear_layer_on_the_last_prompt_token(head_policy, encoder, embedded):
    prompt, asked = encoder.encode("state: cart 20\naction:"), ("twist right now", "push left")
    with torch.no_grad():
        hidden = embedded.model.base_model(input_ids=torch.tensor([prompt])).last_hidden_state[0, -1]
        expected = head_policy.action_head(hidden)[[ALL_ACTIONS.index(action) for action in asked]]
        output = head_policy(batch_of(head_policy, encoder, [("state: cart 20\naction:", asked)]))
    assert output.scores[0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert output.log_probs[0].exp().sum().item() == pytest.approx(1)


def test_an_untrained_head_prefers_nothing_and_can_learn(fresh_embedded, encoder):
    policy = Policy(fresh_embedded, head_actions=ALL_ACTIONS)
    output = policy(batch_of(policy, encoder, [("state: cart 20\naction:", ("go", "wait", "push left"))]))
    assert output.log_probs[0].exp().tolist() == pytest.approx([1 / 3] * 3)
    output.log_probs[0, 1].backward()
    assert policy.action_head.weight.grad[ALL_ACTIONS.index("wait")].abs().max() > 0


def test_a_head_refuses_an_action_it_was_not_built_for(head_policy, encoder):
    with pytest.raises(InvalidRequest, match="'jump' is not among"):
        head_policy.candidates(encoder, ("go", "jump"))


def test_the_architecture_of_a_head_names_its_list(policy, head_policy, embedded):
    assert (policy.readout, policy.architecture) == ("phrase", embedded.architecture)
    assert head_policy.readout == "head"
    assert head_policy.architecture == f"{embedded.architecture} {HeadActions(ALL_ACTIONS).identity}"
