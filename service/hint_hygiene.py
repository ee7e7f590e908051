"""Where a hint ends, seen token by token: what follows is not part of it.

    what is written                          the hint, and why it ends there
    go left. Then take the                   go left.         a sentence is over once a space follows it
    go left state: cart 20                   go left          a line of the prompt begins
    go left: cart 20 speed 21 pole 20 ...    go left:         eight tokens of the prompt, word for word
    go left left left left                   go left          four times the same one to four tokens
    left left left left                                       nothing but a repetition, so nothing is left

The list of actions may be repeated: to name one is what a hint is for.

A reader who listens is given a token once no ending that may still come would take it back:
`num_sure`. Nothing is decided from the whole text over again: a token costs the same at any length.
"""

from __future__ import annotations

import re
import string
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence

from hintwise.phrases import TokenIds

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no character, or not one yet."""
MAX_ECHO_TOKENS = 8
"""So many of the prompt's tokens in a row are an echo; the name of a thing it shows is shorter."""
MAX_UNIT_TOKENS = 4
MAX_REPEATS = 4
"""A unit that stands so often in a row is a loop: "very, very far" is not."""
LABELS = ("task", "actions", "action", "state", "hint")
_LABEL = re.compile(rf"(?<!\S)(?:{'|'.join(LABELS)}):", re.IGNORECASE)
_PREFIXES = sorted({f"{label}:"[:n] for label in LABELS for n in range(1, len(label) + 1)}, key=len, reverse=True)
_BEGUN_LABEL = re.compile(rf"(?<!\S)(?:{'|'.join(_PREFIXES)})\Z", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?][\"')\]]*(?=\s)")
_SENTENCE_AT_END = re.compile(r"[.!?][\"')\]]*\s*\Z")
_LETTER = re.compile(r"[^\W\d_]")
_LOOK_BACK = 1 + max(map(len, LABELS))
"""Characters before a token in which what it completes may have begun; more quotes than that end no sentence."""
_NOTHING = frozenset(string.punctuation + UNFINISHED)

Positions = Mapping[int, Sequence[int]]
"""Where each token stands in what must not be echoed."""


def says_something(text: str) -> bool:
    """Returns whether there is more to a text than white space, punctuation and broken characters."""
    return any(not (character.isspace() or character in _NOTHING) for character in text)


def ends_a_sentence(text: str) -> bool:
    """Returns whether a text that ends here ends in a sentence: "3." alone is a number in a list."""
    return bool(_SENTENCE_AT_END.search(text) and _LETTER.search(text))


def echoable(prompt: TokenIds, pieces: Sequence[str]) -> Positions:
    """Returns where a prompt's tokens stand, but for those of its list of actions."""
    positions: defaultdict[int, list[int]] = defaultdict(list)
    line = ""
    for place, token in enumerate(prompt):
        line += pieces[token]
        if not line.lstrip().startswith("actions:"):
            positions[token].append(place)
        if "\n" in pieces[token]:
            line = line.rpartition("\n")[2]
    return positions


class HintWatch:
    """Reads along while one hint is written.

    Args:
        pieces: The text of every token of the vocabulary, behind another.
        prompt: Where the tokens of the prompt stand, as `echoable` returns it.
    """

    def __init__(self, pieces: Sequence[str], prompt: Positions) -> None:
        self._pieces = pieces
        self._prompt = prompt
        self._tokens: list[int] = []
        self._starts: list[int] = []  # of each token in the text
        self._text = ""
        self._echoes: dict[int, int] = {}  # place in the prompt -> tokens before it that agree
        self._same = [0] * MAX_UNIT_TOKENS  # [n - 1]: how many tokens in a row equal the n-th before them

    def add(self, token: int) -> int | None:
        """Returns how many tokens are the hint, if it ends with or before this one; None while it goes on."""
        self._tokens.append(token)
        self._starts.append(len(self._text))
        self._text += self._pieces[token]
        endings = (self._label(), self._echo(token), self._loop(), self._sentence())
        found = [ending for ending in endings if ending is not None]
        return min(found) if found else None

    @property
    def num_sure(self) -> int:
        """How many tokens no later ending takes back."""
        length = len(self._tokens)
        sure = length - max(self._echoes.values(), default=0)
        if begun := _BEGUN_LABEL.search(self._text, max(0, len(self._text) - _LOOK_BACK)):
            sure = min(sure, self._before(begun.start()))
        for n, same in enumerate(self._same, start=1):
            if not self._says_before(length - same - n):
                return 0  # the whole may turn out to be one loop
            sure = min(sure, length - same)
        return sure

    @property
    def ends_a_sentence(self) -> bool:
        return ends_a_sentence(self._text)

    def _label(self) -> int | None:
        found = _LABEL.search(self._text, self._tail)
        return self._before(found.start()) if found else None

    def _echo(self, token: int) -> int | None:
        before = self._echoes
        self._echoes = {place: before.get(place - 1, 0) + 1 for place in self._prompt.get(token, ())}
        longest = max(self._echoes.values(), default=0)
        return len(self._tokens) - longest if longest >= MAX_ECHO_TOKENS else None

    def _loop(self) -> int | None:
        tokens, ending = self._tokens, None
        for n in range(1, min(MAX_UNIT_TOKENS, len(tokens) - 1) + 1):
            self._same[n - 1] = self._same[n - 1] + 1 if tokens[-1] == tokens[-1 - n] else 0
            if ending is None and self._same[n - 1] >= n * (MAX_REPEATS - 1):
                begin = len(tokens) - self._same[n - 1] - n
                ending = begin + n if self._says_before(begin) else 0
        return ending

    def _sentence(self) -> int | None:
        for found in _SENTENCE.finditer(self._text, self._tail):
            if _LETTER.search(self._text, 0, found.end()):
                # A token without text, right behind the sentence, stays: it may have been sure.
                return max(bisect_left(self._starts, found.end()), self._before(found.end()))
        return None

    @property
    def _tail(self) -> int:
        """Where to look for what the last token may have completed."""
        return max(0, self._starts[-1] - _LOOK_BACK)

    def _before(self, place: int) -> int:
        """Returns how many tokens end at or before a place in the text."""
        ends = [*self._starts[1:], len(self._text)]
        return bisect_right(ends, place)

    def _says_before(self, num_tokens: int) -> bool:
        """Returns whether the first tokens say anything; a part of a character may."""
        text = self._text[: self._starts[num_tokens]] if num_tokens > 0 else ""
        return says_something(text.replace(UNFINISHED, "x"))
