"""Prompt and phrase texts -> token ids.

Ids are concatenated, never re-tokenized: a prompt keeps its ids whatever follows it, so the
service and the trainer score the same sequences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hintwise.action_batch import Candidates, ScoredPrompt
from hintwise.bounded_cache import BoundedCache
from hintwise.errors import InvalidRequest
from hintwise.phrases import PhraseSet, TokenIds
from hintwise.prompts import continuation, shared_part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextEncoder:
    """Encodes prompts and phrases with one tokenizer, remembering what it has seen.

    Args:
        tokenizer: Any transformers tokenizer.
        max_tokens: Positions of the model; a longer sequence is refused, never cut.
        max_cached_tokens: Tokens of prompts that are kept, some 40 bytes each; of phrases half as many.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, max_cached_tokens: int = 2_000_000
    ) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._tokenize = _tokenize_with(tokenizer)
        self._start = tuple(tokenizer.encode("")) if tokenizer.bos_token_id is not None else ()
        if self._start != (tokenizer.bos_token_id,):
            self._start = ()  # no model here wants anything but a start token in front
        longest = max((len(token.encode()) for token in tokenizer.get_vocab()), default=1)
        self._max_bytes = max_tokens * longest
        self._prompts: BoundedCache[str, TokenIds] = BoundedCache(max_cached_tokens)
        self._phrase_sets: BoundedCache[tuple[str, ...], PhraseSet] = BoundedCache(max_cached_tokens // 2)

    def encode(self, text: str) -> TokenIds:
        """Returns the ids of a prompt, with the model's start token where it has one.

        Raises:
            InvalidRequest: The text cannot fit the model's positions; the message has both counts.
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[TokenIds]:
        """Returns the ids of each prompt; new ones are tokenized in one call, without holding Python's lock.

        Raises:
            InvalidRequest: As `check_length` does.
        """
        found = {text: self._prompts.get(text) for text in texts}
        new = [text for text, ids in found.items() if ids is None]
        for text in new:
            self.check_length(text)
        for text, tokens in zip(new, self._tokenize(new) if new else (), strict=True):
            encoded = self._start + tuple(tokens)
            found[text] = self._prompts.keep(text, encoded, len(encoded))
        return [ids for text in texts if (ids := found[text]) is not None]

    def phrases(self, phrases: tuple[str, ...]) -> PhraseSet:
        """Returns the phrases that may follow a prompt, as token ids."""
        known = self._phrase_sets.get(phrases)
        if known is not None:
            return known
        made = PhraseSet.of([tuple(ids) for ids in self._tokenize(list(map(continuation, phrases)))])
        num_padded_tokens = made.num_actions * (made.num_positions + 1)  # its layout is padded
        return self._phrase_sets.keep(phrases, made, num_padded_tokens)

    def num_shared_tokens(self, text: str, ids: TokenIds) -> int:
        """Returns how many of a prompt's tokens every prompt of its task begins with; one is its own at least.

        Args:
            text: The prompt.
            ids: What `encode` returned for it.
        """
        shared = self.encode(shared_part(text))
        count = min(len(shared), len(ids) - 1)
        while ids[:count] != shared[:count]:  # a token may span the place where the observation begins
            count -= 1
        return count

    def scored(self, texts: Sequence[str], candidates: Sequence[Candidates]) -> list[ScoredPrompt]:
        """Returns prompts with their candidate actions, encoded.

        Args:
            texts: (B,) whole prompts.
            candidates: (B,) what `Policy.candidates` returned.

        Raises:
            InvalidRequest: As `check_length` does.
        """
        return [
            ScoredPrompt(ids, actions, self.num_shared_tokens(text, ids))
            for text, ids, actions in zip(texts, self.encode_all(texts), candidates, strict=True)
        ]

    def check_length(self, text: str) -> None:
        """Raises `InvalidRequest` when a text is too long for the model, whatever its tokens.

        A token spells a bounded number of bytes, so megabytes are refused without tokenizing them.
        """
        if len(text) > self._max_bytes:
            at_least = -(-len(text) * self.max_tokens // self._max_bytes)
            raise InvalidRequest(f"at least {at_least} tokens, but the model reads at most {self.max_tokens}")

    def check_fits(self, num_prompt_tokens: int, num_more: int) -> None:
        """Raises `InvalidRequest` unless a prompt and what follows it fit the model's positions."""
        if num_prompt_tokens + num_more > self.max_tokens:
            raise InvalidRequest(
                f"{num_prompt_tokens} prompt tokens and {num_more} to follow, "
                f"but the model reads at most {self.max_tokens}"
            )


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the hex digest of everything that decides a tokenizer's ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _tokenize_with(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[str]], list[list[int]]]:
    """Returns what turns texts into ids without special tokens: the Rust tokenizer itself where there is one.

    transformers' wrapper around it costs more than the tokenizer does. A call for many texts lets other
    Python threads run meanwhile; a call for one does not, and the model's thread would have to wait.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda texts: [list(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    backend.no_truncation()  # a tokenizer file may ask for either
    backend.no_padding()
    return lambda texts: [each.ids for each in backend.encode_batch_fast(texts, add_special_tokens=False)]
