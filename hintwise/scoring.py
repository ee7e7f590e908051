"""Scores of many prompts with no forward run twice: what `Policy.forward` is asked, and in which batches.

    prompts ──▶ distinct ones ──▶ by task prefix, by length ──▶ Policy.forward ──▶ answers, in the order asked

Equal prompts with the same candidates are one row. Prompts of one task leave their common
prefix out, where that saves enough; it is encoded once. Rows of very different lengths do not
share a batch. All of it is exact but for rounding, and gradients flow through it: that of a row
is the sum over those who asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional

from hintwise.action_batch import ScoredPrompt, collate
from hintwise.action_head import HeadColumns
from hintwise.phrases import PhraseSet, TokenIds
from hintwise.policy import Policy, PolicyOutput
from hintwise.trunk_forward import Prefix

MIN_SHARED_TOKENS = 32
"""Tokens of rows that a prefix must save: standing before each row costs some copying of its own."""
MIN_PADDING_SAVED = 256
"""Padded tokens that a further batch must save: each costs the fixed price of a forward."""

PrefixOf = Callable[[TokenIds], Prefix]


class Group(NamedTuple):
    """Prompts that share a batch."""

    prefix: TokenIds
    indices: list[int]


def score(policy: Policy, prompts: Sequence[ScoredPrompt], *, only_log_probs: bool = False) -> PolicyOutput:
    """Returns what `policy` says about B prompts, equal or not; (B, A) padded with -inf.

    Args:
        policy: Gradients flow into it where they are on.
        prompts: At least one.
        only_log_probs: As in `Policy.forward`.
    """
    row_of: dict[ScoredPrompt, int] = {}
    rows = [row_of.setdefault(prompt, len(row_of)) for prompt in prompts]
    output = score_distinct(policy, list(row_of), only_log_probs=only_log_probs)
    return output if len(row_of) == len(prompts) else _taken(output, rows)


def score_distinct(
    policy: Policy,
    prompts: Sequence[ScoredPrompt],
    *,
    prefix_of: PrefixOf | None = None,
    only_log_probs: bool = False,
) -> PolicyOutput:
    """Returns what `policy` says about B prompts, as `score` does, a row for each.

    Args:
        policy: Gradients flow into it where they are on.
        prompts: At least one.
        prefix_of: Remembers the prefixes of these weights; by default each is encoded once a call.
        only_log_probs: As in `Policy.forward`.
    """
    encoded: dict[TokenIds, Prefix] = {}

    def encode_once(prefix: TokenIds) -> Prefix:
        if prefix not in encoded:
            encoded[prefix] = policy.encode_prefix(prefix)
        return encoded[prefix]

    groups = group(prompts, with_prefix=policy.takes_prefix, max_tokens=policy.max_forward_tokens)
    outputs = [_forward(policy, prompts, each, prefix_of or encode_once, only_log_probs) for each in groups]
    if len(outputs) == 1 and groups[0].indices == list(range(len(prompts))):
        return outputs[0]
    places = torch.empty(len(prompts), dtype=torch.int64)
    places[torch.tensor([i for each in groups for i in each.indices])] = torch.arange(len(prompts))
    return _taken(_joined(outputs), places.tolist())


def group(prompts: Sequence[ScoredPrompt], *, with_prefix: bool, max_tokens: int | None = None) -> list[Group]:
    """Returns the batches that prompts are scored in.

    Args:
        prompts: Distinct ones.
        with_prefix: Whether what prompts share may be left out of their rows.
        max_tokens: Of a batch, padding included; a longer row has one for itself. None sets no limit.
    """
    by_prefix: dict[TokenIds, list[int]] = {}
    for i, prompt in enumerate(prompts):
        shared = prompt.num_shared_tokens if with_prefix else 0
        by_prefix.setdefault(prompt.prompt[:shared], []).append(i)
    whole: list[int] = []
    groups: list[Group] = []
    for prefix, indices in by_prefix.items():
        if prefix and len(prefix) * len(indices) >= MIN_SHARED_TOKENS:
            groups += [Group(prefix, few) for few in _by_length(prompts, indices)]
        else:
            whole += indices
    groups += [Group((), few) for few in _by_length(prompts, sorted(whole))]
    return groups if max_tokens is None else [part for each in groups for part in _parts(prompts, each, max_tokens)]


def _by_length(prompts: Sequence[ScoredPrompt], indices: list[int]) -> list[list[int]]:
    """Returns `indices` in runs of similar length; in the order given where all are similar."""
    lengths = [prompts[i].num_tokens for i in indices]
    if not indices or (max(lengths) - min(lengths)) * len(indices) < MIN_PADDING_SAVED:
        return [indices] if indices else []
    longest_first = sorted(indices, key=lambda i: prompts[i].num_tokens, reverse=True)
    runs: list[list[int]] = [[]]
    for place, i in enumerate(longest_first):
        longest = prompts[runs[-1][0]].num_tokens if runs[-1] else prompts[i].num_tokens
        if (longest - prompts[i].num_tokens) * (len(longest_first) - place) >= MIN_PADDING_SAVED:
            runs.append([])
        runs[-1].append(i)
    return runs


def _parts(prompts: Sequence[ScoredPrompt], group: Group, max_tokens: int) -> list[Group]:
    """Returns a group in parts of about equal size, as few as the limit allows."""
    longest = max(prompts[i].num_tokens for i in group.indices) - len(group.prefix)
    ends = list(accumulate(prompts[i].num_rows for i in group.indices))
    num_parts = -(-ends[-1] // max(1, max_tokens // longest))
    size = -(-ends[-1] // num_parts)  # rows of a part
    parts: dict[int, list[int]] = {}
    for i, end in zip(group.indices, ends, strict=True):
        parts.setdefault((end - 1) // size, []).append(i)
    return [Group(group.prefix, indices) for indices in parts.values()]


def _forward(
    policy: Policy, prompts: Sequence[ScoredPrompt], group: Group, prefix_of: PrefixOf, only_log_probs: bool
) -> PolicyOutput:
    chosen = [prompts[i] for i in group.indices]
    candidates = cast("list[PhraseSet] | list[HeadColumns]", [each.candidates for each in chosen])
    batch = collate([each.prompt for each in chosen], candidates, prefix_length=len(group.prefix))
    prefix = prefix_of(group.prefix) if group.prefix else None
    output: PolicyOutput = policy(batch.to(policy.device), prefix, only_log_probs=only_log_probs)
    return output


def _joined(outputs: Sequence[PolicyOutput]) -> PolicyOutput:
    num_actions = max(output.scores.shape[1] for output in outputs)

    def padded(tensor: Tensor) -> Tensor:
        return functional.pad(tensor, (0, num_actions - tensor.shape[1]), value=-torch.inf)

    return PolicyOutput(
        scores=torch.cat([padded(output.scores) for output in outputs]),
        log_probs=torch.cat([padded(output.log_probs) for output in outputs]),
        values=torch.cat([output.values for output in outputs]),
        states=torch.cat([output.states for output in outputs]),
    )


def _taken(output: PolicyOutput, rows: Sequence[int]) -> PolicyOutput:
    index = torch.tensor(rows, device=output.values.device)
    return PolicyOutput(*(tensor.index_select(0, index) for tensor in output))
