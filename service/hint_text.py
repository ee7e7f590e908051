"""A hint's token ids -> its text, as a whole or piece by piece while it is written.

    ids so far          decoded        given to the reader
    " g"                " g"           "g"            the hint is stripped: no space in front
    " g" "o" " "        " go "         "o"            a space waits until something follows it
    ... E2 82           " go \\ufffd"   ""             half a character waits for its other bytes
    ... E2 82 AC        " go €"        " €"

Whatever was held back at the end comes as the last piece, so that the pieces together are the
text of the whole hint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no character, or not one yet."""


def hint_text(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Returns the text of a hint: its tokens decoded, without white space around."""
    return _decoded(tokenizer, token_ids).strip()


class HintText:
    """The text of one hint while it grows.

    Args:
        tokenizer: Of the model that writes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._num_given = 0

    def add(self, place: int, token: int) -> str:
        """Returns the text that the token at `place` completes, often none; a place known already adds nothing."""
        if place < len(self._token_ids):
            return ""
        self._token_ids.append(token)
        settled = _decoded(self._tokenizer, self._token_ids).rstrip(UNFINISHED).strip()
        return self._give(settled)

    def rest(self, text: str) -> str:
        """Returns what has not been given of `text`, the whole hint."""
        return self._give(text)

    def _give(self, text: str) -> str:
        piece = text[self._num_given :]
        self._num_given = max(self._num_given, len(text))
        return piece


def _decoded(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    # Cleaning up would change text that has been given: "do n" + "'t" becomes "don't".
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
