"""The tokens an operator gave out, read from a file that holds their digests alone.

    # a line each: name:scope,scope:sha256-hex-of-the-token
    trainer:infer,guide,admin:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

A running service reads the file again when it changes. No message ever shows what a line holds:
somebody may have put the token itself there.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import structlog

from hintwise.errors import HintwiseError
from service.endpoints import SCOPES

CHECK_INTERVAL_S = 1.0
"""How long a change of the file may go unseen; a request between two looks costs nothing."""
MAX_FILE_BYTES = 2**20
NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")
FileState: TypeAlias = tuple[int, int, int]
log = structlog.get_logger("service")


class TokensUnusable(HintwiseError):
    """The tokens file cannot be read, or one of its lines; the service does not start."""

    title = "Tokens file unusable"


@dataclass(frozen=True)
class AccessToken:
    """What is known of a token; the token itself is not."""

    name: str
    scopes: frozenset[str]
    sha256: str


def digest_of(token: bytes) -> str:
    """Returns what the file holds of a token."""
    return hashlib.sha256(token).hexdigest()


def parse_tokens(text: str, path: Path) -> list[AccessToken]:
    """Returns the tokens of a file's text; an empty list where it has none.

    Args:
        text: Lines `name:scope,scope:sha256`, comments and blank lines.
        path: Where it comes from, for messages.

    Raises:
        TokensUnusable: A line is wrong; the message has its number and what is wrong, never its content.
    """
    tokens: list[AccessToken] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if entry := line.strip():
            if entry.startswith("#"):
                continue
            try:
                tokens.append(_parse_entry(entry, tokens))
            except ValueError as error:
                raise TokensUnusable(f"{path}, line {number}: {error}") from None
    return tokens


def read_tokens(path: Path) -> list[AccessToken]:
    """Returns the tokens of a file, at least one.

    Raises:
        TokensUnusable: It cannot be read, a line is wrong, or it holds no token.
    """
    tokens = parse_tokens(read_text(path), path)
    if not tokens:
        raise TokensUnusable(
            f"{path} holds no token, so nobody could call; make one with `python -m service.new_token NAME "
            f"--scopes infer --tokens-file {path}`"
        )
    return tokens


def read_text(path: Path) -> str:
    """Returns the text of a tokens file.

    Raises:
        TokensUnusable: It is no regular file, too large, not UTF-8, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise TokensUnusable(f"the tokens file {path} is no regular file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TokensUnusable(f"the tokens file {path} cannot be read ({error.strerror})") from None
    if len(data) > MAX_FILE_BYTES:
        raise TokensUnusable(f"the tokens file {path} is larger than {MAX_FILE_BYTES} bytes; is it another file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TokensUnusable(f"the tokens file {path} is not UTF-8 text; is it another file?") from None


class AccessTokens:
    """The tokens of a file, as it is now.

    A change that cannot be used is logged once, and the last good tokens stay.

    Args:
        path: The tokens file.
        clock: Gives seconds that never go back.

    Raises:
        TokensUnusable: As `read_tokens`.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._state = _file_state(path)  # before reading: a change in between is then seen at the next look
        self._tokens = read_tokens(path)
        self._looked_s = clock()
        self._warn_of_others()

    def find(self, token: bytes) -> AccessToken | None:
        """Returns what is known of `token`, None where it is unknown; takes the same time for every token."""
        self._read_again_if_changed()
        digest, found = digest_of(token), None
        for known in self._tokens:  # to the end, whatever matches: the time tells nothing
            if hmac.compare_digest(known.sha256, digest):
                found = known
        return found

    def _read_again_if_changed(self) -> None:
        now_s = self._clock()
        if now_s - self._looked_s < CHECK_INTERVAL_S:
            return
        self._looked_s, state = now_s, _file_state(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._tokens = read_tokens(self._path)
        except TokensUnusable as error:
            log.error("tokens file changed and cannot be used; the tokens read before stay", detail=error.detail)
            return
        log.info("read the tokens file again", tokens_file=str(self._path), num_tokens=len(self._tokens))
        self._warn_of_others()

    def _warn_of_others(self) -> None:
        try:
            mode = self._path.stat().st_mode
        except OSError:  # gone meanwhile; the next look says so
            return
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            log.warning(
                "others on this machine may read or change the tokens file; chmod 600 it",
                tokens_file=str(self._path),
                mode=f"{stat.S_IMODE(mode):04o}",
            )


def _parse_entry(entry: str, earlier: list[AccessToken]) -> AccessToken:
    """Raises `ValueError` with what is wrong, in words that show nothing of the line but a name that was seen."""
    name, *rest = entry.split(":")
    if len(rest) != 2:
        raise ValueError("expected name:scope,scope:sha256-hex-of-the-token")
    scopes, sha256 = frozenset(rest[0].split(",")), rest[1].lower()
    if not NAME.fullmatch(name):
        raise ValueError("the name must be 1 to 64 letters, digits, dots, hyphens or underscores")
    if not scopes <= set(SCOPES):
        raise ValueError(f"the scopes must be among {', '.join(SCOPES)}, separated by commas")
    if not SHA256.fullmatch(sha256):
        raise ValueError("the last part must be the SHA-256 of the token, 64 hexadecimal digits")
    if any(name == token.name for token in earlier):
        raise ValueError("an earlier line has the same name")
    if any(sha256 == token.sha256 for token in earlier):
        raise ValueError("an earlier line has the same token")
    return AccessToken(name, scopes, sha256)


def _file_state(path: Path) -> FileState | None:
    """Returns what changes when a file is written or replaced; None where it cannot be looked at."""
    try:
        found = os.stat(path)  # noqa: PTH116 (the cheap call, once a second)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
