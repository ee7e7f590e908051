"""Digests of bytes, and the `Content-Digest` header that carries one (RFC 9530)."""

from __future__ import annotations

import base64
import hashlib

from hintwise.errors import InvalidRequest, Offence


def sha256_of(data: bytes) -> str:
    """Returns the hex digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def content_digest(sha256: str) -> str:
    """Returns a hex digest as a `Content-Digest` header (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def parse_content_digest(header: str) -> str:
    """Returns the hex digest that a `Content-Digest` header holds.

    Raises:
        InvalidRequest: The header has no well-formed sha-256 member.
    """
    for member in header.split(","):
        algorithm, _, value = member.strip().partition("=")
        if algorithm == "sha-256" and len(value) > 2 and value[0] == value[-1] == ":":
            try:
                digest = base64.b64decode(value[1:-1], validate=True)
            except ValueError:
                break
            if len(digest) == 32:
                return digest.hex()
    raise InvalidRequest(
        "Content-Digest has no valid sha-256 member",
        errors=[Offence("Content-Digest", "send sha-256=:BASE64 OF THE BODY'S SHA-256:")],
    )
