"""Builds the embedded model: `python -m hintwise.models.build_embedded`.

A GPT-2 of two layers with a byte-level tokenizer of its own, in which every word the prompts
and describers use is one token, and any other text falls back to bytes. The weights are
random but for the number words, whose embeddings are smooth functions of the number: a policy
that learns what 24 calls for then starts with a fair guess for 25.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hintwise.describers import describer_for
from hintwise.describers.numbers import NUM_BINS
from hintwise.model_names import EMBEDDED_DIR
from hintwise.prompts import PROGRESS_ANSWERS, action_prompt, guidance_prompt, progress_prompt

SEED = 0
MAX_TOKENS = 2048
NUM_HARMONICS = 4
NUMBER_STD = 0.1
"""Standard deviation of the number words' embeddings; GPT-2's other embeddings have 0.02."""
END_OF_TEXT = "<|endoftext|>"
SAMPLES = {"CartPole-v1": [0.0] * 4, "MountainCar-v0": [0.0] * 2, "Acrobot-v1": [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]}
"""The environments whose words the tokenizer was made of, with an observation of each.

Another word would be another tokenizer, and no policy trained before would fit: describers that came later
keep to the words that are there.
"""
HINT_WORDS = """
a again ahead and at away back ball before below between blue box carry close down drop east far fast faster first
forward from front get go goal green grey hold in into is it keep key lean leans less let locked middle more move
near next no north not now of off on open or over pick pink place pull purple put reach red room run slow slower so
south stand start stay steady stop straight take the then to toward toggle turn unlock until up wall west when with
yellow you your
""".split()  # noqa: SIM905 (reads as words)
"""What people write in hints; one token each keeps prompts short."""


def texts() -> Iterator[str]:
    """Yields texts that hold every word the tokenizer spells as one token."""
    yield from (f" {number}" for number in range(NUM_BINS))
    for env_id, sample in SAMPLES.items():
        describer = describer_for(env_id)
        observation = describer.describe(sample)
        for action in describer.actions:
            yield action_prompt(observation, task=describer.task, hint=action) + f" {action}\n"
            yield guidance_prompt(observation, task=describer.task, actions=describer.actions) + f" {action}\n"
            yield from (progress_prompt(observation, action) + f" {answer}\n" for answer in PROGRESS_ANSWERS)
    yield "state: state 0 x0 1 x1 2\naction: action 0"  # the generic describer's words
    yield "".join(f" {word}" for word in HINT_WORDS)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer that spells every word of `texts` as one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = sorted({word for text in texts() for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)})
    trainer = trainers.BpeTrainer(
        vocab_size=8_192,  # far above what the words need: merging ends when each is whole
        min_frequency=0,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    spelled = [word.replace("Ġ", " ").replace("Ċ", "\n") for word in words]
    tokenizer.train_from_iterator(spelled, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def number_embeddings(width: int) -> Tensor:
    """Returns (NUM_BINS, width) embeddings: random mixtures of a line and slow waves over the range."""
    place = torch.linspace(-1, 1, NUM_BINS)
    waves = [f(math.pi / 2 * k * place) for k in range(1, NUM_HARMONICS + 1) for f in (torch.sin, torch.cos)]
    features = torch.stack([place, *waves], dim=1)
    mixed = features @ torch.randn(features.shape[1], width)
    return mixed * NUMBER_STD / mixed.std()


def build_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Returns the model with seeded weights."""
    torch.manual_seed(SEED)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_TOKENS,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_inner=128,  # half of GPT-2's ratio: CartPole learns as well, in two thirds of the arithmetic
        activation_function="gelu_pytorch_tanh",  # GPT-2's own gelu_new as one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    numbers = [tokenizer.encode(f" {number}", add_special_tokens=False) for number in range(NUM_BINS)]
    with torch.no_grad():
        model.transformer.wte.weight[torch.tensor(numbers).squeeze(1)] = number_embeddings(config.n_embd)
    return model


def build(directory: Path = EMBEDDED_DIR) -> None:
    """Writes tokenizer, configuration and weights into `directory`."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(directory)
    build_model(tokenizer).save_pretrained(directory)


if __name__ == "__main__":
    build()
