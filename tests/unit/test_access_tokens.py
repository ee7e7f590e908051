"""The tokens file: what it may hold, what is said of what it may not, when it is looked at."""

import hashlib
import os

import pytest
import structlog

from service.access_tokens import AccessTokens, TokensUnusable, digest_of, parse_tokens, read_tokens

DIGEST, OTHER = digest_of(b"a token"), digest_of(b"another")


def write(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_line_gives_a_name_its_scopes_and_a_digest(tmp_path):
    text = f"# people\r\n\r\n  trainer.1_x-y:infer,admin:{DIGEST.upper()}  \r\n\t# and a guide\nguide:guide:{OTHER}"
    first, second = read_tokens(write(tmp_path / "tokens", "\ufeff" + text))
    assert (first.name, first.scopes, first.sha256) == ("trainer.1_x-y", {"infer", "admin"}, DIGEST)
    assert (second.name, second.scopes, second.sha256) == ("guide", {"guide"}, OTHER)
    assert digest_of(b"a token") == hashlib.sha256(b"a token").hexdigest()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sEcReT-token", "expected name:scope,scope:sha256"),
        ("name:infer", "expected name:scope,scope:sha256"),
        (f"name:infer:{DIGEST}:sEcReT", "expected name:scope,scope:sha256"),
        (f"sEcReT name:infer:{DIGEST}", "name must be"),
        (f":infer:{DIGEST}", "name must be"),
        (f"{'x' * 65}:infer:{DIGEST}", "name must be"),
        (f"name:infer,sEcReT:{DIGEST}", "infer, guide, admin"),
        (f"name:any:{DIGEST}", "infer, guide, admin"),
        (f"name:open:{DIGEST}", "infer, guide, admin"),
        (f"name::{DIGEST}", "infer, guide, admin"),
        (f"name:infer,:{DIGEST}", "infer, guide, admin"),
        ("name:infer:sEcReT", "64 hexadecimal"),
        (f"name:infer:{DIGEST}0", "64 hexadecimal"),
        (f"name:infer:{DIGEST[:-1]}g", "64 hexadecimal"),
        (f"first:infer:{OTHER}", "same name"),
        (f"name:infer:{DIGEST.upper()}", "same token"),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_never_shown(tmp_path, line, said):
    text = f"# comment\n\nfirst:infer:{digest_of(b'a token')}\n{line}\n"
    with pytest.raises(TokensUnusable) as caught:
        parse_tokens(text, tmp_path / "tokens")
    assert f"{tmp_path / 'tokens'}, line 4: " in str(caught.value)
    assert said in str(caught.value)
    assert "sEcReT" not in str(caught.value)
    assert DIGEST not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.timeout(20)
def test_what_is_no_tokens_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "weights").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"#" * (2**20 + 1))
    (tmp_path / "empty").write_text("\n# nobody\n")
    for name, said in {
        "missing": "cannot be read (No such file",
        ".": "no regular file",
        "pipe": "no regular file",  # opening it would wait for a writer
        "weights": "not UTF-8",
        "large": "larger than 1048576 bytes",
        "empty": "holds no token",
    }.items():
        with pytest.raises(TokensUnusable) as caught:
            AccessTokens(tmp_path / name)
        assert said in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
    assert "service.new_token" in str(caught.value)


def test_the_file_is_looked_at_no_more_than_once_a_second(tmp_path, monkeypatch):
    now_s, looks = 100.0, []
    file = write(tmp_path / "tokens", f"old:infer:{DIGEST}")
    tokens = AccessTokens(file, clock=lambda: now_s)
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **how: (looks.append(path), stat(path, **how))[1])
    write(file, f"new:infer:{OTHER}")
    looks.clear()
    for now_s in (100.2, 100.9):  # noqa: B007 (the clock gives it)
        assert tokens.find(b"a token").name == "old"
    assert looks == []
    now_s = 101.0
    assert tokens.find(b"a token") is None
    assert tokens.find(b"another").name == "new"
    seen = len(looks)
    assert seen > 0
    assert tokens.find(b"another").name == "new"
    assert len(looks) == seen


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_may_touch_is_warned_of(tmp_path, mode, warned):
    file = write(tmp_path / "tokens", f"name:infer:{DIGEST}")
    file.chmod(mode)
    with structlog.testing.capture_logs() as lines:
        AccessTokens(file)
    assert [line["log_level"] for line in lines] == ["warning"] * warned
    assert all("chmod 600" in line["event"] and line["tokens_file"] == str(file) for line in lines)
