"""Token ids -> text, whole and in pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.hint_text import HintText, hint_text


def pieces(tokenizer, token_ids):
    """Returns the text each token adds, and what is left for the end."""
    text = HintText(tokenizer)
    given = [text.add(place, token) for place, token in enumerate(token_ids)]
    return [*given, text.rest(hint_text(tokenizer, token_ids))]


@pytest.fixture(scope="module")
def tokenizer(embedded):
    return embedded.tokenizer


@settings(max_examples=300, deadline=None)
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
