"""The language model's tokenizer: a token for every word of the corpus, bytes for everything else."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hintwise.describers.numbers import NUM_BINS
from hintwise.models.build_embedded import END_OF_TEXT, HINT_WORDS
from hintwise.prompts import PROGRESS_ANSWERS, action_prompt, guidance_prompt, progress_prompt
from worker.pretraining.states import State

MAX_POSITIONS = 1_024


def texts_of(states: Iterable[State]) -> Iterable[str]:
    """Yields texts that hold every word which is to be one token."""
    yield "".join(f" {number}" for number in range(NUM_BINS))
    yield "".join(f" {word}" for word in (*HINT_WORDS, *PROGRESS_ANSWERS, "should", "please", "go"))
    for state in states:
        yield action_prompt(state.text, task=state.task, hint=state.hint)
        yield guidance_prompt(state.text, task=state.task, actions=state.all_actions) + "\n"
        yield progress_prompt(state.text, " ".join(state.all_actions))


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Returns a tokenizer that spells every word of `texts` as one token, and other words byte by byte.

    It is a byte-level BPE without merges: a word that the vocabulary has is taken whole.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = dict.fromkeys([END_OF_TEXT, *alphabet, *words])
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
