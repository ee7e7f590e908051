"""The language model's shape and its first weights."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hintwise.describers.numbers import NUM_BINS
from hintwise.models.build_embedded import number_embeddings
from worker.pretraining.tokenizer import MAX_POSITIONS

HEAD_WIDTH = 32
MAX_BYTES = 12_000_000
"""Of the weights file that ships with the package."""


def build_model(tokenizer: PreTrainedTokenizerFast, *, layers: int, width: int, seed: int) -> GPT2LMHeadModel:
    """Returns a GPT-2 with seeded weights; numbers begin as smooth functions of the number."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_POSITIONS,
        n_embd=width,
        n_layer=layers,
        n_head=max(1, width // HEAD_WIDTH),
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    numbers = [tokenizer.encode(f" {number}", add_special_tokens=False) for number in range(NUM_BINS)]
    with torch.no_grad():
        model.transformer.wte.weight[torch.tensor(numbers).squeeze(1)] = number_embeddings(width)
    return model
