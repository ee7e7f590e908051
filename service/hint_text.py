"""A hint's token ids -> its text, as a whole or piece by piece while it is written.

    ids so far          decoded        given to the reader
    " g"                " g"           "g"            the hint is stripped: no space in front
    " g" "o" " "        " go "         "o"            a space waits until something follows it
    ... E2 82           " go \\ufffd"   ""             half a character waits for its other bytes
    ... E2 82 AC        " go €"        " €"

Whatever was held back at the end comes as the last piece, so that the pieces together are the
text of the whole hint.

Nothing is decoded over and over: behind whole characters the decoder has nothing in mind, so
that what follows can be told from the last token given alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.hint_hygiene import UNFINISHED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_CHARACTER_BYTES = 4
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
"""A single byte in a vocabulary of text. A run of them is decoded as a whole: one wrong byte spoils all before it."""


def hint_text(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Returns the text of a hint: its tokens decoded, without white space around."""
    return _decoded(tokenizer, token_ids).strip()


def token_pieces(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns the text of each token of the vocabulary where it follows another.

    Alone, some decoders drop the space before a word. A part of a character is `UNFINISHED`.
    """
    [*_, before] = tokenizer.encode("a", add_special_tokens=False)
    length = len(_decoded(tokenizer, [before]))
    pairs = [[before, token] for token in range(len(tokenizer))]
    decoded = tokenizer.batch_decode(pairs, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [str(text)[length:] for text in decoded]


class HintText:
    """The text of one hint while it grows.

    Args:
        tokenizer: Of the model that writes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special_ids = frozenset(tokenizer.all_special_ids)
        self._num_tokens = 0
        self._num_given = 0
        self._token_ids: list[int] = []  # the last token whose text is known, and those that came since
        self._known = ""  # text of the first of these, where it is known
        self._space = ""  # known, but perhaps the end of the hint

    def add(self, place: int, token: int) -> str:
        """Returns the text that the token at `place` completes, often none; a place known already adds nothing."""
        if place < self._num_tokens:
            return ""
        self._num_tokens += 1
        if token in self._special_ids:
            return ""  # it has no text, and what is before it may go on behind it
        self._token_ids.append(token)
        if self._awaits_bytes(token):
            return ""
        text = _decoded(self._tokenizer, self._token_ids)
        piece = self._space + text[len(self._known) :]
        self._token_ids, self._known = [token], _decoded(self._tokenizer, [token])
        if not self._num_given:
            piece = piece.lstrip()
        given = piece.rstrip()
        self._space = piece[len(given) :]
        self._num_given += len(given)
        return given

    def rest(self, text: str) -> str:
        """Returns what has not been given of `text`, the whole hint."""
        piece = text[self._num_given :]
        self._num_given = max(self._num_given, len(text))
        return piece

    def _awaits_bytes(self, token: int) -> bool:
        """Whether the text ends within a character, as far as the bytes of one character tell."""
        if BYTE_TOKEN.fullmatch(str(self._tokenizer.convert_ids_to_tokens(token))):
            return True
        return _decoded(self._tokenizer, self._token_ids[-MAX_CHARACTER_BYTES:]).endswith(UNFINISHED)


def _decoded(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    # Cleaning up would change text that has been given: "do n" + "'t" becomes "don't".
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
