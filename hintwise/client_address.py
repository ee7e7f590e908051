"""Where the service is, and the token that opens it: arguments first, then the environment."""

from __future__ import annotations

import os
import re
from pathlib import Path

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"


def find_url(given: str | None) -> str:
    """Returns the base URL from the argument, `HINTWISE_URL` or the default, ready for a path to follow.

    Raises:
        ValueError: It is no address, or holds a secret; the message shows no secret.
    """
    text = given or os.environ.get("HINTWISE_URL") or DEFAULT_URL
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"the service's address is not a URL: {error}") from None
    if url.userinfo:
        raise ValueError("the service's address holds a user or a password; give a token instead")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ValueError(f"{text!r} is no address of a service; expected one like {DEFAULT_URL}")
    return text.rstrip("/")


def find_token(given: str | None) -> str:
    """Returns the bearer token from the argument, `HINTWISE_TOKEN` or `HINTWISE_TOKEN_FILE`; empty if none is set.

    Raises:
        ValueError: It cannot be sent in a header; the message names its source, never the token.
        OSError: The file cannot be read.
    """
    source = "the token argument"
    if given is None:
        source, given = "HINTWISE_TOKEN", os.environ.get("HINTWISE_TOKEN", "")
        if not given and (path := os.environ.get("HINTWISE_TOKEN_FILE")):
            source, given = path, Path(path).read_text(encoding="utf-8", errors="replace").strip()
            if not given:
                raise ValueError(f"{source}, named by HINTWISE_TOKEN_FILE, is empty; put the token in it")
    if not re.fullmatch(r"[!-~]*", given):
        raise ValueError(f"{source} holds a space, a line break or a letter outside ASCII; a token has none")
    return given
