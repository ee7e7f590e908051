import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hintwise.errors import InvalidRequest
from hintwise.tokens import TextEncoder


class WithStart:
    """A tokenizer of words, with a start token, that counts the texts it is asked for."""

    bos_token_id = 5

    def __init__(self):
        self.num_asked = 0

    def encode(self, text, add_special_tokens=True):
        self.num_asked += 1
        return ([5] if add_special_tokens else []) + [len(word) + 10 for word in text.split()]

    def get_vocab(self):
        return {"word": 0}


@pytest.fixture(scope="module")
def encoder(embedded):
    return TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)


def test_the_embedded_tokenizer_gives_one_token_a_number_word(encoder):
    assert {len(encoder.encode(f" {number}")) for number in range(41)} == {1}


@given(st.text(max_size=60))
def test_any_text_survives_the_embedded_tokenizer(embedded, text):
    encoder = TextEncoder(embedded.tokenizer, max_tokens=2048)
    assert embedded.tokenizer.decode(encoder.encode(text)) == text


def test_a_text_too_long_to_fit_is_refused_without_tokenizing_it(encoder):
    with pytest.raises(InvalidRequest, match=r"at least \d+ tokens, but the model reads at most 2048"):
        encoder.encode("a" * 10_000_000)


def test_what_follows_the_prompt_counts(encoder):
    encoder.check_fits(2044, 4)
    with pytest.raises(InvalidRequest, match="2045 prompt tokens and 4 to follow, but the model reads at most 2048"):
        encoder.check_fits(2045, 4)


def test_a_start_token_goes_in_front_of_prompts_and_not_of_phrases():
    encoder = TextEncoder(WithStart(), max_tokens=100)
    assert encoder.encode("go on") == (5, 12, 12)
    assert encoder.phrases(("go",)).token_ids == ((12,),)


def test_phrase_sets_are_remembered(encoder):
    assert encoder.phrases(("a", "b")) is encoder.phrases(("a", "b"))
    assert np.unique([id(encoder.phrases((name,))) for name in "cd"]).size == 2


def test_the_prompts_that_are_kept_are_bounded_by_all_their_tokens():
    tokenizer = WithStart()
    encoder = TextEncoder(tokenizer, max_tokens=100, max_cached_tokens=20)
    texts = ["a" * length for length in range(1, 60)]  # two tokens each, with the start token
    for text in texts:
        encoder.encode(text)
    tokenizer.num_asked = 0
    encoder.encode_all(texts)
    assert tokenizer.num_asked == len(texts) - 10


def test_a_prompt_that_two_threads_tokenize_at_once_is_counted_once():
    tokenizer, both = WithStart(), threading.Barrier(2)
    encoder = TextEncoder(tokenizer, max_tokens=100, max_cached_tokens=20)
    tokenize = encoder._tokenize

    def together(texts):
        both.wait(30)
        return tokenize(texts)

    encoder._tokenize = together
    texts = ["a" * length for length in range(1, 11)]  # as many as are kept
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(encoder.encode_all, [texts, texts])
    assert first == second
    encoder._tokenize = tokenize
    tokenizer.num_asked = 0
    encoder.encode_all(texts)
    assert tokenizer.num_asked == 0


def test_phrases_are_remembered_by_their_tokens_not_by_their_number():
    encoder = TextEncoder(WithStart(), max_tokens=100, max_cached_tokens=2_000)
    lists = [tuple(f"{'a ' * 9}{'b' * number}{'c' * k}" for k in range(10)) for number in range(1, 31)]
    made = [encoder.phrases(phrases) for phrases in lists]  # 100 tokens each, and half of 2,000 are kept
    kept = [encoder.phrases(phrases) is before for phrases, before in zip(reversed(lists), reversed(made), strict=True)]
    assert kept == [True] * 10 + [False] * 20


@pytest.mark.parametrize(
    ("prompt", "shared"),
    [
        ("task: Stay up.\nstate: cart 20\naction:", "task: Stay up.\nstate:"),
        ("state: cart 20\naction:", "state:"),
        ("task: Stay up.\nactions: go, wait\nstate: x\nhint:", "task: Stay up.\nactions: go, wait\nstate:"),
        ("no observation at all", ""),
        ("state:", "state"),  # one token stays the prompt's own
    ],
)
def test_what_prompts_of_a_task_share_ends_where_the_observation_begins(encoder, prompt, shared):
    ids = encoder.encode(prompt)
    assert ids[: encoder.num_shared_tokens(prompt, ids)] == encoder.encode(shared)


def test_a_token_that_spans_into_the_observation_is_not_shared(embedded):
    encoder = TextEncoder(embedded.tokenizer, max_tokens=100)
    whole, part = (1, 2, 3, 4), (1, 2, 9)
    encoder._tokenize = lambda texts: [{"state: x": whole, "state:": part}[text] for text in texts]
    assert encoder.num_shared_tokens("state: x", encoder.encode("state: x")) == 2


def test_scored_prompts_know_what_they_share(encoder):
    text = "task: Stay up.\nstate: cart 20\naction:"
    phrases = encoder.phrases(("go", "wait"))
    [scored] = encoder.scored([text], [phrases])
    assert scored == (encoder.encode(text), phrases, encoder.num_shared_tokens(text, encoder.encode(text)))
