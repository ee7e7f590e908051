"""`python -m service.new_token`: make an access token, and write its digest where the service looks."""

from __future__ import annotations

import argparse
import fcntl
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hintwise.errors import HintwiseError
from service.access_tokens import NAME, digest_of, parse_tokens, read_text
from service.endpoints import ENDPOINTS, SCOPES

PROG = "python -m service.new_token"
NUM_TOKEN_BYTES = 32
_OPENED = {
    scope: ", ".join(f"{method} {path}" for (method, path), needed in ENDPOINTS.items() if needed == scope)
    for scope in SCOPES
}
NOTES = f"""scopes:
{"".join(f"  {scope:8}{opened}{chr(10)}" for scope, opened in _OPENED.items())}
A worker that trains needs infer and admin, and guide where it is trained with guidance.
The tokens file holds digests alone: a token that is lost cannot be read from it, only replaced.
A running service takes up a change within a second.

examples:
  python -m service.new_token trainer --scopes infer,guide,admin --tokens-file tokens --token-file trainer.token
  python -m service --host 0.0.0.0 --port 8000 --tokens-file tokens
  HINTWISE_TOKEN_FILE=trainer.token python -m worker train --env-id CartPole-v1 --service-url http://127.0.0.1:8000
"""


class TokenRefused(HintwiseError):
    """No token was made, and no file was changed; the message says what to do."""

    title = "No token made"


def new_token(name: str, scopes: Sequence[str], tokens_file: Path, token_file: Path | None, *, replace: bool) -> str:
    """Returns a new random token once its digest is in `tokens_file`.

    Args:
        name: Stands for the token in the file and in the service's log.
        scopes: What it may do.
        tokens_file: Created where it is missing; its other lines stay as they are.
        token_file: Gets the token itself; None writes it nowhere.
        replace: Take the place of a token of that name, and of what `token_file` holds.

    Raises:
        TokenRefused: The name or the token file is taken, or another call is at it.
        TokensUnusable: The tokens file is damaged; nothing is added to it.
        OSError: A file cannot be written.
    """
    tokens_file = tokens_file.resolve()  # of a link, what it leads to is replaced
    token_file = token_file.resolve() if token_file else None
    if token_file == tokens_file:
        raise TokenRefused("--token-file and --tokens-file are one file; the service is not to have the token itself")
    with _locked(tokens_file.parent):
        text = read_text(tokens_file) if tokens_file.exists() else ""
        known = [token.name for token in parse_tokens(text, tokens_file)]
        if name in known and not replace:
            raise TokenRefused(f"{tokens_file} has a token {name} already; pass --replace, or another name")
        if token_file is not None and token_file.exists() and not replace:
            raise TokenRefused(f"{token_file} is there already; pass --replace, or another --token-file")
        token = secrets.token_urlsafe(NUM_TOKEN_BYTES)
        lines = text.removesuffix("\n").split("\n") if text else []
        kept = [line for line in lines if not line.strip().startswith(f"{name}:")]
        entries = "".join(f"{line}\n" for line in [*kept, _entry(name, scopes, token)])
        with ExitStack() as parts:  # both are written before either takes its place: a full disk changes neither
            written = [(parts.enter_context(_written_beside(tokens_file, entries, keep_mode=True)), tokens_file)]
            if token_file is not None:
                part = parts.enter_context(_written_beside(token_file, f"{token}\n", keep_mode=False))
                written.append((part, token_file))
            for part, path in written:
                part.replace(path)
    return token


def is_known(name: str, scopes: Sequence[str], tokens_file: Path, token_file: Path) -> bool:
    """Returns whether the token in `token_file` is the one that `tokens_file` has under `name`, with these scopes.

    Raises:
        TokensUnusable: The tokens file is damaged.
    """
    if not (tokens_file.exists() and token_file.exists()):
        return False
    digest = digest_of(token_file.read_bytes().strip())
    wanted = name, frozenset(scopes), digest
    known = parse_tokens(read_text(tokens_file), tokens_file)
    return wanted in [(token.name, frozenset(token.scopes), token.sha256) for token in known]


def _entry(name: str, scopes: Sequence[str], token: str) -> str:
    return f"{name}:{','.join(scopes)}:{digest_of(token.encode())}"


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keeps a second call out, which would lose the first one's line."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise TokenRefused(f"another call writes to {directory} at this moment; run it again") from None
    finally:
        os.close(descriptor)


@contextmanager
def _written_beside(path: Path, text: str, *, keep_mode: bool) -> Iterator[Path]:
    """Yields a whole file with `text`, ready to take the place of `path`; removes it where it did not.

    Its owner, and if asked its mode, are those of the file that is there; otherwise the mode is 0600.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if path.exists():  # somebody else may own it, and the service belong to a group that reads it
                before = path.stat()
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
                if keep_mode:
                    os.fchmod(file.fileno(), before.st_mode & 0o777)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


def _read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Makes a random access token and adds its digest to the file the service reads.",
        epilog=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="what the token is called in the file and in the service's log")
    parser.add_argument("--scopes", required=True, help="what it may do, separated by commas: infer, guide, admin")
    parser.add_argument(
        "--tokens-file",
        required=True,
        type=Path,
        metavar="FILE",
        help="digests, for the service's --tokens-file; created with mode 0600 where it is missing",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="gets the token itself, with mode 0600, for HINTWISE_TOKEN_FILE; without it the token is printed, once",
    )
    taken = parser.add_mutually_exclusive_group()
    taken.add_argument("--replace", action="store_true", help="take the place of a token that has this name")
    taken.add_argument(
        "--keep", action="store_true", help="leave a token of this name that fits --token-file alone, replace any other"
    )
    given = parser.parse_args(arguments)
    if not NAME.fullmatch(given.name):
        parser.error("NAME must be 1 to 64 letters, digits, dots, hyphens or underscores")
    if given.keep and given.token_file is None:
        parser.error("--keep compares with the token in --token-file; name one")
    given.scopes = list(dict.fromkeys(given.scopes.split(",")))
    if unknown := sorted(set(given.scopes) - set(SCOPES)):
        parser.error(f"--scopes: {unknown[0]!r} is none; choose among {', '.join(SCOPES)}, separated by commas")
    return given


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0, 1 no token was made, 2 wrong usage."""
    given = _read_arguments(arguments)
    replace = given.replace or given.keep
    try:
        if given.keep and is_known(given.name, given.scopes, given.tokens_file, given.token_file):
            print(f"the token {given.name} in {given.token_file} is known and stays", file=sys.stderr)  # noqa: T201
            return 0
        token = new_token(given.name, given.scopes, given.tokens_file, given.token_file, replace=replace)
    except (HintwiseError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    if given.token_file is None:
        print(token)  # noqa: T201
    where = f"in {given.token_file}" if given.token_file else "shown this once"
    print(f"the token {given.name} ({', '.join(given.scopes)}) is {where}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
