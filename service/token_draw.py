"""One token for each of several hints: Gumbel-max at the temperature of each, the argmax at 0.

argmax(log p / T + g) = argmax(log p + T g), and no g is above `MAX_GUMBEL`. So the likeliest token is given its
number first; only tokens that could still come above it are given theirs. The token drawn is the one that
numbers for the whole vocabulary would draw, of which a good model leaves a few in question.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.action_draw import STREAM_HINT
from service.sampling import MAX_GUMBEL, gumbels_at


class TokenDraws(NamedTuple):
    """How B tokens are drawn."""

    temperatures: NDArray[np.float32]  # (B,)
    seeds: NDArray[np.int64]  # (B,)
    steps: NDArray[np.int64]  # (B,) place of each draw under its seed

    def of(self, rows: list[int]) -> TokenDraws:
        """Returns the draws of some of the tokens."""
        return TokenDraws(self.temperatures[rows], self.seeds[rows], self.steps[rows])


def draw_tokens(log_probs: Tensor, draws: TokenDraws) -> Tensor:
    """Returns (B, 1) token ids for log-probabilities (B, V); on ties the lowest."""
    drawn = log_probs.argmax(dim=-1, keepdim=True)
    if warm := draws.temperatures.nonzero()[0].tolist():
        index = torch.tensor(warm, device=drawn.device)
        drawn[index] = _sampled(log_probs[index], drawn[index], draws.of(warm))
    return drawn


def _sampled(log_probs: Tensor, likeliest: Tensor, draws: TokenDraws) -> Tensor:
    temperatures = torch.from_numpy(draws.temperatures).to(log_probs.device)[:, None]  # (B, 1)

    def scores(rows: Tensor, tokens: Tensor) -> Tensor:
        """Returns what the tokens score, each (K,)."""
        places, slots = rows.cpu().numpy(), tokens.cpu().numpy()
        noise = gumbels_at(draws.seeds[places], draws.steps[places], slots, stream=STREAM_HINT)
        return log_probs[rows, tokens] + temperatures[rows, 0] * torch.from_numpy(noise).to(log_probs.device)

    every = torch.arange(len(log_probs), device=log_probs.device)
    bar = scores(every, likeliest[:, 0])[:, None]
    rows, tokens = (log_probs + temperatures * MAX_GUMBEL >= bar).nonzero(as_tuple=True)
    table = torch.full_like(log_probs, -torch.inf)
    table[rows, tokens] = scores(rows, tokens)
    return table.argmax(dim=-1, keepdim=True)
