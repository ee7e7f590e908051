"""GPT-2's forward with as little arithmetic as the answer needs.

    every layer but the last     all tokens of the rows
    the last layer               keys and values of all tokens, the rest only where a state is read
    the prefix                   once for all rows: its keys and values stand before each row's own

The weights stay transformers' own modules, so that loading, saving and generating are its
business; this reads their parameters. Works with and without gradients.

Source: Radford et al. 2019, Language models are unsupervised multitask learners; transformers' GPT2Model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias, cast

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


class _Layer(NamedTuple):
    """The parameters of one layer; matrices are (in, out)."""

    norm_1: tuple[Tensor, Tensor]
    query_key_value: tuple[Tensor, Tensor]
    project: tuple[Tensor, Tensor]
    norm_2: tuple[Tensor, Tensor]
    widen: tuple[Tensor, Tensor]
    narrow: tuple[Tensor, Tensor]


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
        widest = max(layer.query_key_value[1].nbytes, layer.widen[1].nbytes)  # a bias holds a number a column
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
        weight, bias = layer.query_key_value
        key, value = self._split(normed, (weight[:, width:], bias[width:]))
        read = normed.view(-1, width).index_select(0, places).view(num_rows, -1, width)
        (query,) = self._split(read, (weight[:, :width], bias[:width]))
        attended = _attend(query, *behind(len(self._layers) - 1, key, value), unseen)
        hidden = hidden.view(-1, width).index_select(0, places).view(num_rows, -1, width)
        return self._norm(self._add(layer, hidden, attended), self._last_norm)

    def _embed(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        positions = functional.embedding(position_ids, self._position_embedding)
        return functional.embedding(input_ids, self._token_embedding) + positions

    def _norm(self, hidden: Tensor, parameters: tuple[Tensor, Tensor]) -> Tensor:
        return functional.layer_norm(hidden, hidden.shape[-1:], *parameters, self._epsilon)

    def _split(self, hidden: Tensor, parameters: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Returns as many projections of (R, T, H) as the matrix is wide, each (R, heads, T, width of a head)."""
        num_rows, num_columns, width = hidden.shape
        projected = _linear(hidden, parameters)
        shape = num_rows, num_columns, projected.shape[-1] // width, self._num_heads, width // self._num_heads
        return projected.view(shape).permute(2, 0, 3, 1, 4).unbind(0)

    def _add(self, layer: _Layer, hidden: Tensor, attended: Tensor) -> Tensor:
        """Returns the layer's output (R, T, H) from its input and its heads' (R, heads, T, width of a head)."""
        hidden = hidden + _linear(attended.transpose(1, 2).reshape(hidden.shape), layer.project)
        widened = self._activation(_linear(self._norm(hidden, layer.norm_2), layer.widen))
        return hidden + _linear(widened, layer.narrow)


def _linear(hidden: Tensor, parameters: tuple[Tensor, Tensor]) -> Tensor:
    weight, bias = parameters
    flat = torch.addmm(bias, hidden.reshape(-1, hidden.shape[-1]), weight)
    return flat.view(*hidden.shape[:-1], -1)


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
    modules = (block.ln_1, attention.c_attn, attention.c_proj, block.ln_2, mlp.c_fc, mlp.c_proj)
    return _Layer(*(_pair(module) for module in modules))


def _pair(module: nn.LayerNorm | Conv1D) -> tuple[Tensor, Tensor]:
    return module.weight, module.bias
