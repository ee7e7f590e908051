"""The language model's tokenizer: a token for every word of the corpus, bytes for everything else."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hintwise.describers import DESCRIBED_ENV_IDS, describer_for
from hintwise.describers.minigrid_view import COLOURS, KINDS, STATES
from hintwise.describers.numbers import NUM_BINS
from hintwise.models.build_embedded import END_OF_TEXT, HINT_WORDS
from hintwise.prompts import PROGRESS_ANSWERS, action_prompt, guidance_prompt, progress_prompt
from worker.pretraining.states import State

MAX_POSITIONS = 1_024
OTHER_MISSION_WORDS = "after an another anything behind corner front look mission object objects room put".split()  # noqa: SIM905
"""Of missions that no level of the corpus has."""
GENERIC_WORDS = "state: state 0 x0 1 x1 2\naction: action 0"
"""Of environments that are described by their spaces."""


def texts_of(states: Iterable[State]) -> Iterable[str]:
    """Yields texts that hold every word which is to be one token: also of worlds that the corpus leaves out."""
    yield "".join(f" {number}" for number in range(NUM_BINS))
    yield "".join(f" {word}" for word in (*HINT_WORDS, *PROGRESS_ANSWERS, "should", "please", "go"))
    yield "".join(f" {word}" for word in (*KINDS, *COLOURS, *STATES, *OTHER_MISSION_WORDS))
    yield GENERIC_WORDS
    yield action_prompt(describer_for("Acrobot-v1").describe([1.0, 0.0, 1.0, 0.0, 0.0, 0.0]))
    for env_id in DESCRIBED_ENV_IDS:
        describer = describer_for(env_id)
        yield guidance_prompt("", task=describer.task, actions=describer.actions)
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
