"""Rows of tokens -> the hidden states that are needed of them.

GPT-2 has a forward of its own here (`gpt2_forward`), which does no more arithmetic than these
states need. Every other architecture runs as transformers wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hintwise.token_rows import Branches, TokenRows, right_padded


class Prefix(NamedTuple):
    """The keys and values of P tokens, one pair a layer, each (heads, P, width of a head)."""

    keys_and_values: list[tuple[Tensor, Tensor]]


class TrunkForward(Protocol):
    """The part of a language model before its output layer."""

    takes_prefix: bool
    """Whether rows may leave out a common prefix."""

    @property
    def max_forward_tokens(self) -> int | None:
        """Tokens of rows, padding included, above which several calls are faster than one; None where none are."""
        ...

    def encode_prefix(self, prefix_ids: Tensor) -> Prefix:
        """Returns what rows need of the tokens before them, (P,) at least one. With gradients, where they are on."""
        ...

    def hidden_states(self, rows: TokenRows, prefix: Prefix | None) -> Tensor:
        """Returns the last hidden states (R, K, H) at the places that are read, normalised for the output layer."""
        ...


class TransformersForward:
    """Any causal model of transformers.

    Rows with branches go in as they are where the model follows a mask of our own, which a
    probe finds out; elsewhere each branch gets a row for itself, with the prompt in it.

    Args:
        model: The whole model; its base is run.
    """

    takes_prefix = False
    max_forward_tokens = None

    def __init__(self, model: PreTrainedModel) -> None:
        self._base = cast("PreTrainedModel", model.base_model)
        self._follows_mask = not _has_window(model) and self._probe(model.device)

    def encode_prefix(self, prefix_ids: Tensor) -> Prefix:
        raise NotImplementedError("only GPT-2 takes a prefix")

    def hidden_states(self, rows: TokenRows, prefix: Prefix | None = None) -> Tensor:
        """See `TrunkForward`."""
        if rows.branches is not None and not self._follows_mask:
            return self._branch_by_branch(rows, rows.branches)
        hidden = self._run(rows.input_ids, rows.branches)
        return hidden[torch.arange(len(hidden), device=hidden.device)[:, None], rows.read_columns]

    def _run(self, input_ids: Tensor, branches: Branches | None) -> Tensor:
        """Returns hidden states (R, T, H) of every token."""
        arguments: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
        if branches is not None:
            unseen = torch.zeros(branches.sees.shape, dtype=self._base.dtype, device=input_ids.device)
            unseen = unseen.masked_fill(~branches.sees, torch.finfo(unseen.dtype).min)
            arguments |= {"attention_mask": unseen[:, None], "position_ids": branches.position_ids}
        return cast("Tensor", self._base(**arguments).last_hidden_state)

    def _branch_by_branch(self, rows: TokenRows, branches: Branches) -> Tensor:
        """Returns (R, K, H) from one causal row per place that is read, as many at a time as `rows` has tokens."""
        num_rows, num_columns = rows.input_ids.shape
        places = [(row, column) for row, columns in enumerate(rows.read_columns.tolist()) for column in columns]
        paths = [tuple(rows.input_ids[row, branches.sees[row, column]].tolist()) for row, column in places]
        read = [hidden for few in _chunks(paths, num_rows * num_columns) for hidden in self._last_of_each(few)]
        return torch.stack(read).view(num_rows, -1, read[0].shape[-1])

    def _last_of_each(self, paths: Sequence[tuple[int, ...]]) -> Tensor:
        input_ids = torch.from_numpy(right_padded(paths)[0]).to(self._base.device)
        ends = torch.tensor([len(path) - 1 for path in paths], device=input_ids.device)
        return self._run(input_ids, None)[torch.arange(len(paths), device=input_ids.device), ends]

    @torch.no_grad()
    def _probe(self, device: torch.device) -> bool:
        """Returns whether two branches in one row give what each gives in a row of its own."""
        ids = torch.arange(1, 7, device=device)
        sees = torch.ones(6, 6, dtype=torch.bool, device=device).tril()
        sees[5, 3:5] = False  # token 5 follows token 2, beside the branch of tokens 3 and 4
        positions = torch.tensor([[0, 1, 2, 3, 4, 3]], device=device)
        try:
            together = self._run(ids[None], Branches(positions, sees[None]))[0]
            one, other = self._run(ids[None, :5], None)[0, 4], self._run(ids[None, [0, 1, 2, 5]], None)[0, 3]
        except Exception:  # noqa: BLE001 (whatever an architecture makes of such a mask, it has rows then)
            return False
        tolerance = 1e-4 * float(one.abs().max())
        return bool(torch.stack([together[4] - one, together[5] - other]).abs().max() <= tolerance)


def _has_window(model: PreTrainedModel) -> bool:
    """Returns whether some layer sees only the last tokens, or none: a mask of our own would lift that."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds != {"full_attention"} or getattr(config, "sliding_window", None) is not None


def _chunks(paths: Sequence[tuple[int, ...]], max_tokens: int) -> list[Sequence[tuple[int, ...]]]:
    size = max(1, max_tokens // max(map(len, paths)))
    return [paths[start : start + size] for start in range(0, len(paths), size)]
