"""The fastest loop we can write by hand in plain torch for prompts of one length and candidates of two tokens.

Each prompt is read once, the first tokens of its candidates stand behind it in the same row, and a mask keeps them
from seeing each other; each takes the position after the prompt:

                      p1 p2 p3 a b c          p1 to p3 causal; a, b and c see p1 to p3 and themselves
    position           0  1  2 3 3 3
    logits needed            *  * * *         p3 -> a | b | c,  a -> second token of a, ...

In the last layer keys and values are computed everywhere, all else where logits are needed. There are no requests,
no other lengths, no choice of readout: it is what an engine is measured against, and serves nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (everybody calls it so)


class BareGpt2:
    """Scores candidates of two tokens behind prompts of one length; equal first tokens are read once.

    Args:
        model: A transformers GPT-2.
        candidates: (A, 2) token ids.
        num_prompt_tokens: Length of every prompt.
        part: Prompts that go through the layers together, so that what they leave stays in the cache.
    """

    def __init__(self, model: Any, candidates: Sequence[Sequence[int]], num_prompt_tokens: int, *, part: int) -> None:
        self._model = model.transformer
        self._config = model.config
        self._part = part
        self._prompt = num_prompt_tokens
        self._first_of_each, self._second = torch.tensor(candidates).unbind(1)  # (A,) each
        self._first, self._place = self._first_of_each.unique(return_inverse=True)  # (N,) and (A,)
        num_first = len(self._first)
        num_tokens = num_prompt_tokens + num_first
        self._positions = torch.arange(num_tokens).clamp(max=num_prompt_tokens)
        seen = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()
        seen[num_prompt_tokens:, num_prompt_tokens:] = torch.eye(num_first, dtype=torch.bool)
        self._mask = torch.zeros(num_tokens, num_tokens).masked_fill(~seen, -torch.inf)  # (T, T)
        self._output = self._model.wte.weight.t()  # (H, V)

    @torch.inference_mode()
    def scores(self, prompts: Tensor) -> Tensor:
        """Returns the log-probability of each candidate given its prompt, (B, A), from prompts (B, P)."""
        hidden = torch.cat([self._layers(part) for part in prompts.split(self._part)])  # (B, 1 + N, H)
        logits = torch.mm(hidden.flatten(0, 1), self._output).unflatten(0, hidden.shape[:2])  # (B, 1 + N, V)
        normalizers = logits.logsumexp(-1)  # (B, 1 + N)
        first = logits[:, 0, self._first_of_each] - normalizers[:, :1]
        second = logits[:, 1 + self._place, self._second] - normalizers[:, 1 + self._place]
        scores: Tensor = first + second
        return scores

    def _layers(self, prompts: Tensor) -> Tensor:
        """Returns the last hidden state where logits are needed, (B, 1 + N, H)."""
        ids = torch.cat([prompts, self._first.expand(len(prompts), -1)], dim=1)  # (B, T)
        hidden = (F.embedding(ids, self._model.wte.weight) + self._model.wpe.weight[self._positions]).flatten(0, 1)
        *layers, last = self._model.h
        for layer in layers:
            hidden = self._layer(layer, hidden, ids.shape)
        needed = self._norm(self._model.ln_f, self._last_layer(last, hidden, ids.shape))
        states: Tensor = needed.unflatten(0, (len(prompts), -1))
        return states

    def _layer(self, layer: Any, hidden: Tensor, shape: torch.Size) -> Tensor:
        """Returns (B * T, H) from the same."""
        normed = self._norm(layer.ln_1, hidden)
        mixed = torch.addmm(layer.attn.c_attn.bias, normed, layer.attn.c_attn.weight)  # (B * T, 3 H)
        query, key, value = (self._heads(part, shape[0]) for part in mixed.chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=self._mask)
        return self._rest(layer, hidden, attended)

    def _last_layer(self, layer: Any, hidden: Tensor, shape: torch.Size) -> Tensor:
        """Returns (B * (1 + N), H) from (B * T, H)."""
        width = hidden.shape[1]
        weight, bias = layer.attn.c_attn.weight, layer.attn.c_attn.bias
        normed = self._norm(layer.ln_1, hidden)
        mixed = torch.addmm(bias[width:], normed, weight[:, width:])  # (B * T, 2 H)
        key, value = (self._heads(part, shape[0]) for part in mixed.chunk(2, dim=-1))
        needed = normed.unflatten(0, shape)[:, self._prompt - 1 :].flatten(0, 1)  # (B * (1 + N), H)
        query = self._heads(torch.addmm(bias[:width], needed, weight[:, :width]), shape[0])
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=self._mask[self._prompt - 1 :])
        return self._rest(layer, hidden.unflatten(0, shape)[:, self._prompt - 1 :].flatten(0, 1), attended)

    def _rest(self, layer: Any, hidden: Tensor, attended: Tensor) -> Tensor:
        """Returns a layer's output from its input and what its heads attended to."""
        joined = attended.transpose(1, 2).flatten(2).flatten(0, 1)
        hidden = hidden + torch.addmm(layer.attn.c_proj.bias, joined, layer.attn.c_proj.weight)
        inner = torch.addmm(layer.mlp.c_fc.bias, self._norm(layer.ln_2, hidden), layer.mlp.c_fc.weight)
        inner = F.gelu(inner, approximate="tanh")
        return hidden.add_(torch.addmm(layer.mlp.c_proj.bias, inner, layer.mlp.c_proj.weight))

    def _heads(self, flat: Tensor, num_rows: int) -> Tensor:
        """Returns (B, heads, T, H / heads) from (B * T, H)."""
        heads: Tensor = flat.unflatten(0, (num_rows, -1)).unflatten(-1, (self._config.n_head, -1)).transpose(1, 2)
        return heads

    def _norm(self, layer: Any, hidden: Tensor) -> Tensor:
        return F.layer_norm(hidden, hidden.shape[-1:], layer.weight, layer.bias, self._config.layer_norm_epsilon)
