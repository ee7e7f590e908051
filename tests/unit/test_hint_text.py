"""Token ids -> text, whole and in pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from service.hint_text import HintText, hint_text


def pieces(tokenizer, token_ids):
    """Returns the text each token adds, and what is left for the end."""
    text = HintText(tokenizer)
    given = [text.add(place, token) for place, token in enumerate(token_ids)]
    return [*given, text.rest(hint_text(tokenizer, token_ids))]


@pytest.fixture(scope="module")
def tokenizer(embedded):
    return embedded.tokenizer


@pytest.fixture(scope="module")
def with_byte_fallback():
    """A tokenizer as Llama's: words with a mark for the space before them, and any other character byte by byte."""
    words = ["\u2581", "\u2581a", "b", "\u2581b", "!", "\u2581\u2581", "\ufffd", "é"]
    vocabulary = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    tokenizer = Tokenizer(BPE({word: n for n, word in enumerate(vocabulary)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


class Counting:
    """A tokenizer, and how many tokens it has decoded."""

    def __init__(self, tokenizer):
        self.tokenizer, self.num_decoded = tokenizer, 0

    def decode(self, token_ids, **options):
        self.num_decoded += len(token_ids)
        return self.tokenizer.decode(token_ids, **options)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


@settings(max_examples=300)
@given(st.data())
def test_the_pieces_together_are_the_text(tokenizer, data):
    """Tokens at random, and texts whose characters are cut into bytes: the embedded tokenizer has few words."""
    drawn = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=24))
    spelled = tokenizer.encode(data.draw(st.text(alphabet="a é€𝄞\ufffd\u2028\t", max_size=12)))
    token_ids = data.draw(st.permutations([drawn, spelled])) if drawn else [spelled]
    token_ids = [token for part in token_ids for token in part]
    given = pieces(tokenizer, token_ids)
    assert "".join(given) == hint_text(tokenizer, token_ids)
    assert "".join(given).encode() == b"".join(piece.encode() for piece in given)


@settings(max_examples=300)
@given(st.data())
def test_the_pieces_together_are_the_text_where_characters_fall_back_to_bytes(with_byte_fallback, data):
    """A run of bytes is decoded as a whole, so that none of it is sure before it ends."""
    spelled = [[2 + byte for byte in character.encode()] for character in "€𝄞\ufffd"]
    words = [[token] for token in (0, 1, *range(258, 266))]
    some_byte = st.integers(2, 257).map(lambda token: [token])
    drawn = data.draw(st.lists(st.sampled_from([*spelled, *words]) | some_byte, max_size=16))
    token_ids = [token for each in drawn for token in each]
    given = pieces(with_byte_fallback, token_ids)
    assert "".join(given) == hint_text(with_byte_fallback, token_ids)


def test_characters_that_fall_back_to_bytes_come_with_the_next_word(with_byte_fallback):
    euro = [2 + byte for byte in "€".encode()]
    assert pieces(with_byte_fallback, [259, *euro, 260]) == ["a", "", "", "", "€b", ""]
    assert pieces(with_byte_fallback, [259, *euro, 257, 260])[-2:] == ["\ufffd" * 4 + "b", ""]  # one wrong byte


@pytest.mark.parametrize("text", ["go left now ", "€", "\ufffd"])
def test_a_long_hint_is_not_decoded_again_with_every_token(tokenizer, with_byte_fallback, text):
    half = tokenizer.encode("€", add_special_tokens=False)[:-1]
    written = [(tokenizer, tokenizer.encode(text * 400, add_special_tokens=False)), (tokenizer, half * 400)]
    written.append((with_byte_fallback, [2 + byte for byte in (text * 100).encode()]))
    for plain, token_ids in written:
        counting = Counting(plain)
        growing = HintText(counting)
        for place, token in enumerate(token_ids):
            growing.add(place, token)
        assert len(token_ids) >= 300
        assert counting.num_decoded <= 12 * len(token_ids)


def test_a_special_token_within_a_character_does_not_part_it(tokenizer):
    first, *others = tokenizer.encode("€", add_special_tokens=False)
    token_ids = [first, *tokenizer.all_special_ids * 5, *others]
    assert "".join(pieces(tokenizer, token_ids)[:-1]) == hint_text(tokenizer, token_ids)


def test_only_whole_characters_are_given(tokenizer):
    token_ids = tokenizer.encode(" go €𝄞!", add_special_tokens=False)
    given = pieces(tokenizer, token_ids)
    assert len(token_ids) > len("go €𝄞!")  # some characters are several tokens
    assert "\ufffd" not in "".join(given)
    assert {"€", "𝄞"} <= {piece.strip() for piece in given}  # each came at once


def test_bytes_that_never_become_a_character_come_at_the_end(tokenizer):
    half = tokenizer.encode("€", add_special_tokens=False)[:-1]
    *before, last = pieces(tokenizer, [*tokenizer.encode("a", add_special_tokens=False), *half])
    assert "".join(before) == "a"
    assert last == "\ufffd" == hint_text(tokenizer, half)


def test_white_space_around_a_hint_is_never_given(tokenizer):
    given = pieces(tokenizer, tokenizer.encode("  a  b  ", add_special_tokens=False))
    assert "".join(given) == "a  b"
    assert given[0] == given[-1] == ""


def test_what_was_heard_before_adds_nothing(tokenizer):
    """A batch that failed is begun again, and its tokens with it."""
    a, b = (tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "ab")
    text = HintText(tokenizer)
    assert [text.add(0, a), text.add(1, b), text.add(0, a), text.add(1, b), text.add(2, a)] == ["a", "b", "", "", "a"]
