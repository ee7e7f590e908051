"""A canary fits what a service takes, and its tolerance is DESIGN section 4's."""

import json

import pytest
import torch

from hintwise import canary
from hintwise.errors import WeightsRejected
from hintwise.policy import Policy
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder

ACTIONS = ("push left", "push right")


@pytest.fixture
def policy(embedded):
    return Policy(embedded)


@pytest.fixture
def encoder(embedded):
    return TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)


def test_what_the_trainer_sends_the_service_reads(policy, encoder):
    prompts = [action_prompt("cart 3"), action_prompt("cart 4", task="Go.")]
    lists = [ACTIONS, ("wait",)]
    sent = canary.parse(canary.canary_of(policy, encoder, prompts, lists))
    assert (sent.prompts, sent.phrases) == (prompts, lists)
    assert sent.log_probs[1] == [0.0]  # of a single action
    assert [len(each.prompt) for each in canary.encode(sent, policy, encoder)] == [
        len(encoder.encode(p)) for p in prompts
    ]
    canary.check(sent, sent.log_probs, beta=1.0, num_parameters=1)


def test_prompts_beyond_the_limits_are_left_out(policy, encoder):
    short = action_prompt("cart 3")
    assert len(canary.parse(canary.canary_of(policy, encoder, [short] * 99, [ACTIONS] * 99)).prompts) == 64
    long = action_prompt("cart 1 " * 150)
    sent = canary.parse(canary.canary_of(policy, encoder, [long] * 40, [ACTIONS] * 40))
    assert 1 <= len(sent.prompts) < 40
    canary.encode(sent, policy, encoder)  # raises where a service would refuse it


def test_no_canary_where_not_one_prompt_is_small_enough(policy, encoder):
    long = tuple(f"{n} " * 14 for n in range(1, 256))  # fourteen nodes each, in several rows behind one prompt
    assert canary.canary_of(policy, encoder, [action_prompt("cart 1 " * 400)], [long]) is None


@pytest.mark.parametrize(
    ("log_prob", "beta", "num_parameters", "expected"),
    [
        (-1.0, 1.0, 1, 2e-5),
        (-1.0, 0.1, 1, 2e-5),
        (-1.0, 7.0, 1, 14e-5),
        (-3.0, 1.0, 100_000_000, 4e-5),
        (-3.0, 1.0, 100_000_001, 4e-4),
    ],
)
def test_the_tolerance(log_prob, beta, num_parameters, expected):
    found = canary.tolerance(log_prob, beta=beta, num_parameters=num_parameters)
    assert found == pytest.approx(expected, rel=1e-9)


def test_nan_never_agrees():
    sent = canary.Canary(prompts=["x"], actions=["go", "wait"], log_probs=[[-1.0, -2.0]])
    with pytest.raises(canary.WeightsRejected, match=r"log_probs\[0\]\[1\]"):
        canary.check(sent, [[-1.0, float("nan")]], beta=1.0, num_parameters=1)


def test_numbers_travel_exactly(policy, encoder):
    text = canary.canary_of(policy, encoder, [action_prompt("cart 3")], [ACTIONS])
    assert json.loads(text)["log_probs"] == canary.parse(text).log_probs


def test_a_policy_with_a_head_has_a_canary_of_its_own(embedded, encoder):
    policy = Policy(embedded, head_actions=ACTIONS)
    torch.nn.init.normal_(policy.action_head.weight)
    prompts, lists = [action_prompt("cart 3"), action_prompt("cart 4")], [ACTIONS, ACTIONS[:1]]
    sent = canary.parse(canary.canary_of(policy, encoder, prompts, lists))
    assert sent.log_probs[0][0] != pytest.approx(sent.log_probs[0][1])
    assert [each.num_tokens for each in canary.encode(sent, policy, encoder)] == [
        len(encoder.encode(prompt)) for prompt in prompts
    ]
    other = Policy(embedded, head_actions=("jump", "wait"))
    with pytest.raises(WeightsRejected, match=r"prompts\[0\]: .*'push left'"):
        canary.encode(sent, other, encoder)
