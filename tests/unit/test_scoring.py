"""Deduplication, prefix sharing and sorting by length change no answer and no gradient, whatever the batch."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hintwise import scoring
from hintwise.action_batch import ScoredPrompt, collate
from hintwise.policy import Policy
from hintwise.scoring import MIN_PADDING_SAVED, Group, group, score, score_distinct
from hintwise.tokens import TextEncoder

ACTION_LISTS = [
    ("push left", "push right"),
    ("left", "right", "wait"),
    ("wait", "push left", "twist right now", "twist right then"),
    ("go",),
    ("pick up the red key", "pick up the blue key", "toggle"),
]
ALL_ACTIONS = tuple(dict.fromkeys(action for actions in ACTION_LISTS for action in actions))
TASKS = ["task: Keep the pole upright.\n", "task: Keep the pole upright. Slowly.\n", ""]

number = st.integers(0, 40)
question = st.tuples(st.sampled_from(TASKS), st.lists(number, min_size=1, max_size=5), st.sampled_from(ACTION_LISTS))
questions = st.lists(question, min_size=1, max_size=24)


@pytest.fixture(autouse=True)
def small_thresholds(monkeypatch):
    """Few prompts and short phrases are enough then for every path to be taken."""
    monkeypatch.setattr(scoring, "MIN_SHARED_TOKENS", 8)
    monkeypatch.setattr(scoring, "MIN_PADDING_SAVED", 4)
    monkeypatch.setattr("hintwise.phrases.MAX_TREE_NODES", 4)


@pytest.fixture(scope="module", params=[None, (0.0, 1.0), (1.0, 3.0)], ids=["head", "alpha 0", "alpha 1, beta 3"])
def policy(request, embedded):
    alpha, beta = request.param or (0.0, 1.0)
    made = Policy(embedded, alpha=alpha, beta=beta, head_actions=None if request.param else ALL_ACTIONS)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in (made.value_head, *([] if request.param else [made.action_head])):
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def encoder(embedded):
    return TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)


def scored(policy, encoder, asked):
    texts = [f"{task}state: {' '.join(f'cart {n}' for n in numbers)}\naction:" for task, numbers, _ in asked]
    return encoder.scored(texts, [policy.candidates(encoder, actions) for _, _, actions in asked])


def one_by_one(policy, prompts, **options):
    """Returns each prompt's output from a forward of its own, without a prefix."""
    return [policy(collate([each.prompt], [each.candidates]), **options) for each in prompts]


@given(questions)
@settings(max_examples=40)
def test_every_prompt_is_scored_as_if_alone(policy, encoder, asked):
    prompts = scored(policy, encoder, asked)
    with torch.no_grad():
        output, alone = score(policy, prompts), one_by_one(policy, prompts)
        only_log_probs = score(policy, prompts, only_log_probs=True)
    for b, (each, wanted) in enumerate(zip(prompts, alone, strict=True)):
        count = each.candidates.num_actions
        torch.testing.assert_close(output.scores[b, :count], wanted.scores[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output.log_probs[b, :count], wanted.log_probs[0], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(only_log_probs.log_probs[b, :count], wanted.log_probs[0], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(output.values[b], wanted.values[0], atol=1e-5, rtol=1e-5)
        assert (output.scores[b, count:] == -torch.inf).all()
        assert (output.log_probs[b, count:] == -torch.inf).all()


@given(questions, st.integers(0, 2**31))
@settings(max_examples=25)
def test_gradients_are_the_sum_over_all_who_ask(policy, encoder, asked, seed):
    """With deduplication and prefix sharing and without; in double precision, where 1e-6 is no matter of rounding."""
    policy = copy.deepcopy(policy).double()
    prompts = scored(policy, encoder, asked)
    weights = torch.randn(len(prompts), 2, generator=torch.Generator().manual_seed(seed)).double()

    def gradients(output_of):
        policy.zero_grad()
        output_of().backward()
        return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}

    def loss(log_probs, values):
        return (weights * torch.stack([log_probs[:, 0], values], dim=1)).mean()

    def shared():
        output = score(policy, prompts)
        return loss(output.log_probs, output.values)

    def apart():
        outputs = one_by_one(policy, prompts)
        return loss(torch.cat([o.log_probs[:, :1] for o in outputs]), torch.cat([o.values for o in outputs]))

    ours, theirs = gradients(shared), gradients(apart)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=0, msg=name)


def counted(policy, monkeypatch):
    """Returns the shapes of all rows that the policy's trunk runs from now on, and the prefixes it encodes."""
    rows, prefixes = [], []
    trunk = policy._trunk_forward
    hidden_states, encode_prefix = trunk.hidden_states, trunk.encode_prefix
    monkeypatch.setattr(
        trunk, "hidden_states", lambda r, p: rows.append(tuple(r.input_ids.shape)) or hidden_states(r, p)
    )
    monkeypatch.setattr(trunk, "encode_prefix", lambda ids: prefixes.append(len(ids)) or encode_prefix(ids))
    return rows, prefixes


def test_equal_prompts_are_one_row_and_a_prefix_is_encoded_once(policy, encoder, monkeypatch):
    rows, prefixes = counted(policy, monkeypatch)
    asked = [(TASKS[0], [n % 3], ACTION_LISTS[0]) for n in range(12)]
    prompts = scored(policy, encoder, asked)
    with torch.no_grad():
        score(policy, prompts)
    [(num_rows, num_columns)] = rows
    [prefix_length] = prefixes
    assert num_rows == 3
    assert num_columns == prompts[0].num_tokens - prefix_length
    assert prefix_length == prompts[0].num_shared_tokens > 0


def test_equal_prompts_with_other_actions_are_rows_of_their_own(policy, encoder, monkeypatch):
    rows, _ = counted(policy, monkeypatch)
    prompts = scored(policy, encoder, [("", [1], actions) for actions in ACTION_LISTS * 2])
    with torch.no_grad():
        score(policy, prompts)
    assert sum(num_rows for num_rows, _ in rows) == sum(prompt.num_rows for prompt in prompts) // 2


def test_a_prefix_given_is_not_encoded_again(policy, encoder, monkeypatch):
    prompts = scored(policy, encoder, [(TASKS[0], [n], ACTION_LISTS[0]) for n in range(6)])
    with torch.no_grad():
        kept = policy.encode_prefix(prompts[0].prompt[: prompts[0].num_shared_tokens])
        wanted = score_distinct(policy, prompts)
        _, prefixes = counted(policy, monkeypatch)
        output = score_distinct(policy, prompts, prefix_of=lambda ids: kept)
    assert prefixes == []
    torch.testing.assert_close(output.log_probs, wanted.log_probs)


def prompts_of(lengths, *, shared=0, embedded_phrases):
    return [
        ScoredPrompt((5,) * shared + (k,) + (7,) * (n - shared - 1), embedded_phrases, shared)
        for k, n in enumerate(lengths)
    ]


@pytest.fixture
def phrases(encoder):
    return encoder.phrases(("left", "right"))  # one token each: rows are as long as their prompts


def test_rows_of_one_length_stay_together_and_in_order(phrases):
    assert group(prompts_of([9] * 500, embedded_phrases=phrases), with_prefix=True) == [Group((), list(range(500)))]


def test_long_rows_do_not_make_many_short_ones_longer(phrases, monkeypatch):
    monkeypatch.setattr(scoring, "MIN_PADDING_SAVED", MIN_PADDING_SAVED)
    lengths = [10] * 40 + [500] + [12] * 40
    long, short = group(prompts_of(lengths, embedded_phrases=phrases), with_prefix=True)
    assert long.indices == [40]
    assert sorted(short.indices) == [i for i in range(81) if i != 40]


def test_a_difference_too_small_for_a_batch_of_its_own_is_padded(phrases, monkeypatch):
    monkeypatch.setattr(scoring, "MIN_PADDING_SAVED", MIN_PADDING_SAVED)
    [only] = group(prompts_of([10, 60, 20, 30], embedded_phrases=phrases), with_prefix=True)
    assert only.indices == [0, 1, 2, 3]


def test_no_group_pads_more_than_it_may(phrases):
    lengths = [3 + (7 * k) % 29 for k in range(60)]
    groups = group(prompts_of(lengths, embedded_phrases=phrases), with_prefix=True)
    assert sorted(i for each in groups for i in each.indices) == list(range(60))
    for each in groups:
        longest = max(lengths[i] for i in each.indices)
        assert all((longest - lengths[i]) * 60 < 60 * 4 for i in each.indices)


def test_a_group_is_cut_into_equal_parts_below_the_limit(phrases):
    prompts = prompts_of([10] * 25 + [4000], shared=2, embedded_phrases=phrases)
    long, *parts = group(prompts, with_prefix=True, max_tokens=100)
    assert long.indices == [25]  # longer than the limit: one for itself
    assert [len(part.indices) for part in parts] == [9, 9, 7]  # 12 rows of 8 tokens would fit
    assert [i for part in parts for i in part.indices] == list(range(25))


def test_few_rows_of_a_task_read_its_prefix_themselves(phrases, monkeypatch):
    monkeypatch.setattr(scoring, "MIN_SHARED_TOKENS", 32)
    few, many = (
        prompts_of([9] * 7, shared=4, embedded_phrases=phrases),
        prompts_of([9] * 8, shared=4, embedded_phrases=phrases),
    )
    assert group(few, with_prefix=True) == [Group((), list(range(7)))]
    assert group(many, with_prefix=True) == [Group((5,) * 4, list(range(8)))]
    assert group(many, with_prefix=False) == [Group((), list(range(8)))]
