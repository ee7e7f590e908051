"""Where hints end, against the same rules read from the whole text, and what a listener may hear before."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.hint_hygiene import HintWatch, echoable, says_something

PIECES = [
    " go", " left", ".", "!", " ", '"', "5", " very", ",", " state", ":", " hint", " ta", "sk", " act", "ion", "s",
    "x", "\ufffd", "\n", "actions", "state", " Then", " cart", " pole", " 20", " 21", "-", " goal", ")", "",
]  # fmt: skip
IDS = {piece: token for token, piece in enumerate(PIECES)}
PROMPT = tuple(IDS[piece] for piece in ["actions", ":", *[" go", " left", ","] * 4, "\n", "state", ":"]) + tuple(
    IDS[piece] for piece in [" cart", " 20", " 21", " pole", " 21", " 20", " goal", " left", " 20", "\n", " hint", ":"]
)
ECHO = [" cart", " 20", " 21", " pole", " 21", " 20", " goal", " left"]


def watched(pieces, prompt=PROMPT):
    """Returns the pieces that are the hint, or None where it goes on, and how many were sure at each step."""
    watch, sure = HintWatch(PIECES, echoable(prompt, PIECES)), []
    for piece in pieces:
        kept = watch.add(IDS[piece])
        if kept is not None:
            return pieces[:kept], sure
        sure.append(watch.num_sure)
    return None, sure


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        # the sentence
        ([" go", " left", ".", " Then"], [" go", " left", "."]),
        ([" go", " left", "!", " "], [" go", " left", "!"]),
        ([" go", " left", ".", '"', ")", " Then"], [" go", " left", ".", '"', ")"]),
        ([" go", " left", ".", "5", " very"], None),  # a number, or a name with a dot
        (["5", ".", " go", " left"], None),  # a number in a list
        (["5", ".", " go", ".", " Then"], ["5", ".", " go", "."]),
        ([" go", " left", "."], None),  # nothing follows yet
        # lines of the prompt
        ([" go", " left", " state", ":"], [" go", " left"]),
        ([" go", " left", " ", "state", ":"], [" go", " left", " "]),
        ([" hint", ":"], []),
        ([" go", " ta", "sk", ":"], [" go"]),
        ([" go", " act", "ion", ":"], [" go"]),
        ([" go", " act", "ion", "s", ":"], [" go"]),
        ([" go", " act", "ion", "s", " left"], None),
        ([" go", "x", "state", ":"], None),  # within a word
        # echoes
        (ECHO, []),
        ([" go", *ECHO], [" go"]),
        (ECHO[:7], None),
        ([*ECHO[:7], " go", *ECHO[1:]], None),
        ([*[" go", " left", ","] * 3], None),  # the list of actions may be repeated
        # loops
        ([" go", *[" left"] * 4], [" go", " left"]),
        ([" go", *[" very"] * 3, " left"], None),
        ([" very"] * 4, []),
        ([" go", " left"] * 4, []),
        ([",", *[" very"] * 4], []),  # a comma before it says nothing
        ([" cart", *[" go", " left", ","] * 4], [" cart", " go", " left", ","]),
        ([" cart", *[" go", " left", " very", " pole"] * 4], [" cart", " go", " left", " very", " pole"]),
        ([" cart", *[" go", " left", " very", " pole", "x"] * 4], None),
    ],
)
def test_where_a_hint_ends(written, hint):
    assert watched(written)[0] == hint


def test_an_echo_is_not_joined_across_lines():
    """What ends one line and begins the next is no stretch of the prompt that a hint, one line, could repeat."""
    prompt = tuple(IDS[piece] for piece in [*ECHO[:4], "\n", *ECHO[4:]])
    assert watched(ECHO, prompt)[0] is None


@pytest.mark.parametrize(
    ("text", "says"), [("", False), (" \u2028", False), ("...", False), ("\ufffd", False), ("5", True), ("↑", True)]
)
def test_what_says_something(text, says):
    assert says_something(text) is says


pieces = st.lists(
    st.lists(st.sampled_from([piece for piece in PIECES if "\n" not in piece]), min_size=1, max_size=3)
    | st.integers(0, 8).flatmap(lambda n: st.just(ECHO[:n]))
    | st.tuples(st.lists(st.sampled_from(PIECES[:9]), min_size=1, max_size=4), st.integers(1, 5)).map(
        lambda drawn: drawn[0] * drawn[1]
    ),
    max_size=8,
).map(lambda parts: [piece for part in parts for piece in part])


@settings(max_examples=1000)
@given(pieces)
def test_what_is_sure_is_never_taken_back(written):
    """A reader may have heard it. (What is sure may say nothing yet: the generator waits until it does.)"""
    hint, sure = watched(written)
    assert max(sure, default=0) <= len(written if hint is None else hint)


@settings(max_examples=1000)
@given(pieces)
def test_no_hint_has_what_is_no_part_of_one(written):
    hint, _ = watched(written)
    text = "".join(written if hint is None else hint)
    assert not any(f" {label}:" in f" {text}" for label in ("task", "actions", "action", "state", "hint"))
    kept = written if hint is None else hint
    assert not any(kept[k : k + 8] == ECHO for k in range(len(kept)))
    for n in range(1, 5):
        assert not any(kept[k : k + n] * 4 == kept[k : k + 4 * n] for k in range(len(kept) - 4 * n + 1))
    assert ". " not in text.rstrip() or not any(character.isalpha() for character in text[: text.index(". ")])
