"""GPT-2's forward with as little arithmetic as the answer needs.

    every layer but the last     all tokens of the rows
    the last layer               keys and values of all tokens, the rest only where a state is read
    the prefix                   once for all rows: its keys and values stand before each row's own

The weights stay transformers' own modules, so that loading, saving and generating are its
business; this reads their parameters, and those of the low-rank adapters that peft may have put
there before. Works with and without gradients.

Source: Radford et al. 2019, Language models are unsupervised multitask learners; transformers' GPT2Model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2LMHeadModel, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.pytorch_utils import Conv1D

from hintwise.token_rows import TokenRows
from hintwise.trunk_forward import Prefix

TANH_GELUS = "gelu_new", "gelu_pytorch_tanh", "gelu_fast"
"""Names that transformers has for one function; torch computes it in a single pass."""


MAX_CPU_BYTES = 2**23
"""Of a layer's widest activations on a CPU: beyond, they leave its caches, and each allocation is fresh pages."""


Behind: TypeAlias = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""A layer's number, its new keys and values -> all keys and values that its queries look at."""


class _LowRank(NamedTuple):
    """What an adapter adds to a projection: x -> scale * B A x."""

    down: Tensor  # A, (r, in)
    up: Tensor  # B, (out, r)
    scale: float


class _Projection(NamedTuple):
    weight: Tensor  # (in, out)
    bias: Tensor
    adapter: _LowRank | None

    def columns(self, start: int, stop: int | None = None) -> _Projection:
        """Returns the part that gives the outputs from `start` to `stop`."""
        adapter = self.adapter and self.adapter._replace(up=self.adapter.up[start:stop])
        return _Projection(self.weight[:, start:stop], self.bias[start:stop], adapter)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Returns (..., out) of (..., in)."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        projected = torch.addmm(self.bias, flat, self.weight)
        if self.adapter is not None:
            down, up, scale = self.adapter
            projected = torch.addmm(projected, flat @ down.t(), up.t(), alpha=scale)
        return projected.view(*hidden.shape[:-1], -1)


class _Layer(NamedTuple):
    """The parameters of one layer."""

    norm_1: tuple[Tensor, Tensor]
    query_key_value: _Projection
    project: _Projection
    norm_2: tuple[Tensor, Tensor]
    widen: _Projection
    narrow: _Projection


class GPT2Forward:
    """Computes the hidden states of a GPT-2 as transformers does, where they are read.

    Args:
        model: `can_run` says yes to it.
    """

    takes_prefix = True

    def __init__(self, model: GPT2LMHeadModel) -> None:
        config, trunk = model.config, model.transformer
        self._token_embedding, self._position_embedding = trunk.wte.weight, trunk.wpe.weight
        self._layers = [_parameters(cast("GPT2Block", block)) for block in trunk.h]
        self._last_norm = _pair(trunk.ln_f)
        self._num_heads: int = config.n_head
        self._epsilon: float = config.layer_norm_epsilon
        tanh = config.activation_function in TANH_GELUS
        self._activation = nn.GELU(approximate="tanh") if tanh else ACT2FN[config.activation_function]

    @property
    def max_forward_tokens(self) -> int | None:
        """See `TrunkForward`."""
        if self._token_embedding.device.type != "cpu":
            return None
        layer = self._layers[0]
        widest = max(layer.query_key_value.bias.nbytes, layer.widen.bias.nbytes)  # a bias holds a number a column
        return max(1, MAX_CPU_BYTES // widest)

    @staticmethod
    def can_run(model: PreTrainedModel) -> bool:
        """Returns whether `model` is a GPT-2 without the rarely used variations of its attention."""
        if not isinstance(model, GPT2LMHeadModel):
            return False
        config = model.config
        varied = config.scale_attn_by_inverse_layer_idx or config.reorder_and_upcast_attn or config.add_cross_attention
        return bool(config.scale_attn_weights and not varied)

    def encode_prefix(self, prefix_ids: Tensor) -> Prefix:
        """See `TrunkForward`."""
        hidden = self._embed(prefix_ids[None], torch.arange(len(prefix_ids), device=prefix_ids.device))
        pairs: list[tuple[Tensor, Tensor]] = []
        for number, layer in enumerate(self._layers):
            query, key, value = self._split(self._norm(hidden, layer.norm_1), layer.query_key_value)
            pairs.append((key[0], value[0]))
            if number + 1 < len(self._layers):  # nothing reads what the last layer makes of it
                hidden = self._add(layer, hidden, _attend(query, key, value, None))
        return Prefix(pairs)

    def hidden_states(self, rows: TokenRows, prefix: Prefix | None) -> Tensor:
        """See `TrunkForward`."""
        return self.hidden_states_behind(rows, partial(_behind, prefix))

    def hidden_states_behind(self, rows: TokenRows, behind: Behind) -> Tensor:
        """Returns `hidden_states`, where `behind` knows the prefix."""
        past = rows.prefix_length
        places = torch.arange(past, past + rows.input_ids.shape[1], device=rows.input_ids.device)
        hidden = self._embed(rows.input_ids, places if rows.branches is None else rows.branches.position_ids)
        return self._through(hidden, rows.read_columns, behind, *_unseen(rows, hidden.dtype))

    def _through(
        self, hidden: Tensor, read_columns: Tensor, behind: Behind, unseen: Tensor | None, unseen_where_read: Tensor
    ) -> Tensor:
        """Returns (R, K, H) where `read_columns` says: embedded tokens (R, T, H) through all layers."""
        for number, layer in enumerate(self._layers[:-1]):
            query, key, value = self._split(self._norm(hidden, layer.norm_1), layer.query_key_value)
            attended = _attend(query, *behind(number, key, value), unseen)
            hidden = self._add(layer, hidden, attended)
        return self._read(hidden, read_columns, behind, unseen_where_read)

    def _read(self, hidden: Tensor, read_columns: Tensor, behind: Behind, unseen: Tensor) -> Tensor:
        """Returns (R, K, H): the last layer, where `read_columns` says."""
        (num_rows, num_columns, width), layer = hidden.shape, self._layers[-1]
        first = torch.arange(0, num_rows * num_columns, num_columns, device=hidden.device)
        places = (read_columns + first[:, None]).view(-1)
        normed = self._norm(hidden, layer.norm_1)
        key, value = self._split(normed, layer.query_key_value.columns(width))
        read = normed.view(-1, width).index_select(0, places).view(num_rows, -1, width)
        (query,) = self._split(read, layer.query_key_value.columns(0, width))
        attended = _attend(query, *behind(len(self._layers) - 1, key, value), unseen)
        hidden = hidden.view(-1, width).index_select(0, places).view(num_rows, -1, width)
        return self._norm(self._add(layer, hidden, attended), self._last_norm)

    def _embed(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        positions = functional.embedding(position_ids, self._position_embedding)
        return functional.embedding(input_ids, self._token_embedding) + positions

    def _norm(self, hidden: Tensor, parameters: tuple[Tensor, Tensor]) -> Tensor:
        return functional.layer_norm(hidden, hidden.shape[-1:], *parameters, self._epsilon)

    def _split(self, hidden: Tensor, project: _Projection) -> tuple[Tensor, ...]:
        """Returns as many projections of (R, T, H) as the matrix is wide, each (R, heads, T, width of a head)."""
        num_rows, num_columns, width = hidden.shape
        projected = project(hidden)
        shape = num_rows, num_columns, projected.shape[-1] // width, self._num_heads, width // self._num_heads
        return projected.view(shape).permute(2, 0, 3, 1, 4).unbind(0)

    def _add(self, layer: _Layer, hidden: Tensor, attended: Tensor) -> Tensor:
        """Returns the layer's output (R, T, H) from its input and its heads' (R, heads, T, width of a head)."""
        hidden = hidden + layer.project(attended.transpose(1, 2).reshape(hidden.shape))
        widened = self._activation(layer.widen(self._norm(hidden, layer.norm_2)))
        return hidden + layer.narrow(widened)


def _attend(query: Tensor, key: Tensor, value: Tensor, unseen: Tensor | None) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=unseen, is_causal=unseen is None)


def _behind(prefix: Prefix | None, number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Returns keys and values with the prefix's before each row's own."""
    if prefix is None:
        return key, value
    before_key, before_value = (each.expand(len(key), -1, -1, -1) for each in prefix.keys_and_values[number])
    return torch.cat([before_key, key], dim=2), torch.cat([before_value, value], dim=2)


def _unseen(rows: TokenRows, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
    """Returns what attention adds to its scores: 0 where a token is seen, -inf elsewhere.

    Returns:
        For every token, (T, P + T) or (R, 1, T, P + T), None where plain causal attention does;
        and for the places that are read, (R, 1, K, P + T).
    """
    past, num_columns, device = rows.prefix_length, rows.input_ids.shape[1], rows.input_ids.device
    if rows.branches is None:
        columns = torch.arange(-past, num_columns, device=device)
        read = columns > rows.read_columns[:, None, :, None]
        every = columns > torch.arange(num_columns, device=device)[:, None] if past else None
    else:
        every = functional.pad(~rows.branches.sees, (past, 0), value=False)[:, None]
        read = every.gather(2, rows.read_columns[:, None, :, None].expand(-1, -1, -1, past + num_columns))
    return None if every is None else added_to_scores(every, dtype), added_to_scores(read, dtype)


def added_to_scores(unseen: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns what attention adds to its scores: -inf where `unseen`, 0 elsewhere."""
    return torch.zeros(unseen.shape, dtype=dtype, device=unseen.device).masked_fill_(unseen, -torch.inf)


def _parameters(block: GPT2Block) -> _Layer:
    attention, mlp = block.attn, block.mlp
    return _Layer(
        norm_1=_pair(block.ln_1),
        query_key_value=_projection(attention.c_attn),
        project=_projection(attention.c_proj),
        norm_2=_pair(block.ln_2),
        widen=_projection(mlp.c_fc),
        narrow=_projection(mlp.c_proj),
    )


def _pair(module: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return module.weight, module.bias


def _projection(module: Any) -> _Projection:
    """Returns a Conv1D's parameters, or those of peft's layer around one."""
    if isinstance(module, Conv1D):
        return _Projection(module.weight, module.bias, None)
    (name,) = module.active_adapters
    adapter = _LowRank(module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])
    return _Projection(module.base_layer.weight, module.base_layer.bias, adapter)
