"""`python -m service.new_token`: the token and its digest land where they should, and nowhere else."""

import fcntl
import os
import re
import stat
import subprocess
import sys

import pytest

from service import new_token
from service.access_tokens import digest_of, read_tokens
from service.new_token import main
from tests.e2e.processes import ROOT


@pytest.fixture
def file(tmp_path):
    return tmp_path / "tokens"


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def make(file, name="trainer", *more, scopes="infer,guide"):
    return main([name, "--scopes", scopes, "--tokens-file", str(file), *map(str, more)])


def test_the_token_is_printed_once_and_its_digest_kept(file, capsys):
    assert make(file) == 0
    printed, told = capsys.readouterr()
    assert re.fullmatch(r"[\w-]{43}\n", printed, re.ASCII)
    token = printed.strip()
    [known] = read_tokens(file)
    assert (known.name, known.scopes, known.sha256) == ("trainer", {"infer", "guide"}, digest_of(token.encode()))
    assert token not in told + file.read_text()
    assert mode_of(file) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_with_a_token_file_nothing_is_printed(file, tmp_path, capsys):
    assert make(file, "trainer", "--token-file", tmp_path / "trainer.token") == 0
    printed, told = capsys.readouterr()
    token = (tmp_path / "trainer.token").read_text().strip()
    assert (printed, token in told) == ("", False)
    assert read_tokens(file)[0].sha256 == digest_of(token.encode())
    assert mode_of(tmp_path / "trainer.token") == 0o600


def test_every_token_is_another(file, capsys):
    for name in "abcdef":
        make(file, name)
    assert len(set(capsys.readouterr().out.split())) == 6
    assert [token.name for token in read_tokens(file)] == list("abcdef")
    assert len(file.read_text().splitlines()) == 6


def test_other_lines_stay_as_they_are(file):
    before = f"# people\n\na:infer:{'0' * 64}\ntrainer:admin:{'1' * 64}\n# no line break at the end"
    file.write_text(before)
    file.chmod(0o640)
    assert make(file, "trainer", "--replace") == 0
    lines = file.read_text().splitlines()
    assert lines[:-1] == [line for line in before.splitlines() if not line.startswith("trainer")]
    assert [token.name for token in read_tokens(file)] == ["a", "trainer"]
    assert mode_of(file) == 0o640  # the service may read it through its group


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(file, tmp_path, capsys):
    make(file, "trainer", "--token-file", tmp_path / "token")
    before = file.read_text()
    capsys.readouterr()
    assert make(file) == 1
    printed, told = capsys.readouterr()
    assert (printed, told.count("\n")) == ("", 1)
    assert "--replace" in told
    assert file.read_text() == before
    (tmp_path / "token").chmod(0o644)
    assert make(file, "trainer", "--replace", "--token-file", tmp_path / "token", scopes="admin") == 0
    [known] = read_tokens(file)
    assert (known.scopes, file.read_text() == before) == ({"admin"}, False)
    assert known.sha256 == digest_of((tmp_path / "token").read_text().strip().encode())
    assert mode_of(tmp_path / "token") == 0o600


def test_a_token_file_that_is_there_is_not_lost(file, tmp_path, capsys):
    (tmp_path / "token").write_text("somebody's")
    assert make(file, "trainer", "--token-file", tmp_path / "token") == 1
    assert "--replace" in capsys.readouterr().err
    assert (tmp_path / "token").read_text() == "somebody's"
    assert not file.exists()


def test_keep_leaves_a_token_alone_that_fits_and_replaces_any_other(file, tmp_path, capsys):
    token_file = tmp_path / "trainer.token"
    keep = "--token-file", token_file, "--keep"
    assert make(file, "trainer", *keep) == 0
    first, entries = token_file.read_text(), file.read_text()
    assert make(file, "trainer", *keep) == 0
    assert (token_file.read_text(), file.read_text()) == (first, entries)
    assert "stays" in capsys.readouterr().err
    assert make(file, "trainer", *keep, scopes="infer") == 0  # other scopes are another token
    assert token_file.read_text() != first
    token_file.write_text("lost\n")
    assert make(file, "trainer", *keep, scopes="infer") == 0
    [known] = read_tokens(file)
    assert known.sha256 == digest_of(token_file.read_bytes().strip())
    with pytest.raises(SystemExit):
        make(file, "trainer", "--keep")


def test_a_tokens_file_that_cannot_be_written_leaves_the_token_as_it_was(file, tmp_path, monkeypatch):
    token_file = tmp_path / "trainer.token"
    make(file, "trainer", "--token-file", token_file)
    before = token_file.read_text(), file.read_text()
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError("no space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert make(file, "trainer", "--token-file", token_file, "--replace") == 1
    assert (token_file.read_text(), file.read_text()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokens", "trainer.token"]


def test_one_file_cannot_be_both(file, capsys):
    assert make(file, "trainer", "--token-file", file.parent / "." / file.name) == 1
    assert "one file" in capsys.readouterr().err
    assert not file.exists()


def test_a_damaged_file_is_left_alone(file, capsys):
    file.write_text("sEcReT\n")
    assert make(file) == 1
    told = capsys.readouterr().err
    assert f"{file}, line 1" in told
    assert "sEcReT" not in told
    assert file.read_text() == "sEcReT\n"


def test_a_directory_that_is_missing_is_one_line(file, capsys):
    assert make(file / "deeper" / "tokens") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_file_keeps_its_owner(file, monkeypatch):
    make(file, "a")
    owners = []
    monkeypatch.setattr(new_token.os, "fchown", lambda descriptor, *owner: owners.append(owner))
    make(file, "b")
    assert owners == [(file.stat().st_uid, file.stat().st_gid)]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(file, monkeypatch, capsys):
    make(file, "a")
    before = file.read_text()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(new_token.os, "fsync", full)
    assert make(file, "b") == 1
    assert "No space left" in capsys.readouterr().err
    assert file.read_text() == before
    assert list(file.parent.iterdir()) == [file]


def test_two_calls_at_once_do_not_lose_a_line(file, capsys):
    descriptor = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert make(file) == 1
    assert "run it again" in capsys.readouterr().err
    os.close(descriptor)
    assert make(file) == 0


def test_a_link_still_leads_to_the_file(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    assert make(link) == 0
    assert link.is_symlink()
    assert len(read_tokens(file)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a:b", "--scopes", "infer", "--tokens-file", "t"], "NAME must be"),
        (["", "--scopes", "infer", "--tokens-file", "t"], "NAME must be"),
        (["a", "--scopes", "infer,root", "--tokens-file", "t"], "'root'"),
        (["a", "--scopes", "", "--tokens-file", "t"], "--scopes"),
        (["a", "--tokens-file", "t"], "--scopes"),
        (["a", "--scopes", "infer"], "--tokens-file"),
    ],
)
def test_wrong_usage_is_2_and_makes_nothing(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_command_runs_without_the_models(file):
    code = "import runpy, sys; runpy.run_module('service.new_token', run_name='__main__', alter_sys=True)"
    check = f"import atexit, sys\natexit.register(lambda: print('torch' in sys.modules))\n{code}"
    arguments = [sys.executable, "-c", check, "a", "--scopes", "infer", "--tokens-file", str(file)]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.splitlines()[1:]) == (0, ["False"]), ended.stderr


def test_help_shows_scopes_and_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for word in ("infer", "guide", "admin", "PUT /weights", "--replace", "HINTWISE_TOKEN_FILE", "0600", "examples:"):
        assert word in text
