"""GPT-2 models of any size with random weights: their arithmetic is that of trained ones."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from hintwise.model_names import EMBEDDED_DIR

NAME = re.compile(r"random:(\d+)x(\d+)")


@contextmanager
def model_directory(name: str) -> Iterator[str]:
    """Yields what to load for a name: `random:4x256` is made of 4 layers of width 256 with the embedded tokenizer.

    Any other name is yielded as it is.
    """
    match = NAME.fullmatch(name)
    if match is None:
        yield name
        return
    layers, width = map(int, match.groups())
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=max(1, width // 64), n_positions=2_048)
    with random_gpt2(config, str(EMBEDDED_DIR)) as directory:
        yield directory


@contextmanager
def random_gpt2(config: GPT2Config, tokenizer_directory: str) -> Iterator[str]:
    """Yields a directory with a random GPT-2 and a tokenizer, whose vocabulary the model takes over."""
    whole = (Path(tokenizer_directory) / "tokenizer.json").exists()
    kind: Any = AutoTokenizer if whole else GPT2Tokenizer  # GPT-2's own vocab.json and merges.txt name no class
    tokenizer = kind.from_pretrained(tokenizer_directory)
    config.vocab_size = len(tokenizer)
    config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        GPT2LMHeadModel(config).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        yield directory
