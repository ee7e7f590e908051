import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hintwise.errors import InvalidRequest
from hintwise.tokens import PhraseSet, TextEncoder, collate


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


phrase = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@pytest.fixture(scope="module")
def encoder(embedded):
    return TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)


def test_phrases_with_a_common_beginning_share_one_row():
    plan = PhraseSet.of([(1, 2), (1, 3)])
    assert plan.rows == ((1,),)
    assert plan.row_of == (0, 0)


def test_a_reading_that_begins_another_shares_its_row():
    plan = PhraseSet.of([(4,), (1, 2), (1, 3, 5)])
    assert plan.rows == ((1, 3),)
    assert plan.longest_row == 2


def test_different_beginnings_need_rows_of_their_own():
    assert len(PhraseSet.of([(1, 2), (3, 4)]).rows) == 2


@given(
    st.lists(st.tuples(st.lists(st.integers(6, 9), min_size=1, max_size=5), st.lists(phrase, min_size=1)), min_size=1)
)
def test_every_phrase_token_is_scored_where_its_own_reading_ends(items):
    prompts = [tuple(prompt) for prompt, _ in items]
    plans = [PhraseSet.of(phrases) for _, phrases in items]
    batch = collate(prompts, plans)
    rows, columns = batch.input_ids.shape
    flat = batch.input_ids.flatten()
    for b, (prompt, (_, phrases)) in enumerate(zip(prompts, items, strict=True)):
        position = batch.value_positions[b].item()
        assert flat[position - len(prompt) + 1 : position + 1].tolist() == list(prompt)
        assert position % columns == len(prompt) - 1
        assert batch.action_mask[b].sum() == len(phrases)
        for a, tokens in enumerate(phrases):
            assert batch.token_mask[b, a].sum() == len(tokens)
            for j, token in enumerate(tokens):
                assert batch.token_ids[b, a, j] == token
                where = batch.score_positions[batch.token_scores[b, a, j]].item()
                read = flat[where - where % columns : where + 1].tolist()
                assert read == [*prompt, *tokens[:j]]
    assert rows == sum(len(plan.rows) for plan in plans)


def test_a_common_first_token_is_scored_once():
    batch = collate([(9,)], [PhraseSet.of([(1, 2), (1, 3)])])
    assert len(batch.score_positions) == 2
    assert batch.token_scores[0, 0, 0] == batch.token_scores[0, 1, 0]


def test_padding_is_zero_and_stands_on_the_right():
    batch = collate([(7,), (7, 8, 9)], [PhraseSet.of([(1,)])] * 2)
    assert batch.input_ids.tolist() == [[7, 0, 0], [7, 8, 9]]


def test_ids_are_concatenated_never_tokenized_again(encoder):
    prompt, phrases = encoder.encode("state: cart 20\naction:"), encoder.phrases(("push left", "push right"))
    batch = collate([prompt], [phrases])
    assert tuple(batch.input_ids[0, : len(prompt)].tolist()) == prompt


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


def test_the_layout_of_phrases_lives_no_longer_than_they():
    phrases = PhraseSet.of([(1, 2), (1, 3)])
    collate([(7, 8)], [phrases])
    gone = weakref.ref(phrases)
    del phrases
    gc.collect()
    assert gone() is None
