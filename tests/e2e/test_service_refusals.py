"""`python -m service` before it serves: what its log leaves out, what it refuses to start with, its help."""

import os
import subprocess
import sys

import pytest

from service.__main__ import main
from tests.e2e.forked import ROOT

# Logging

FAILURE = """
import logging, sys
import structlog
from service import logs
logs.configure(log_format=sys.argv[1], log_level="info")
def handle(observation):
    raise RuntimeError("unforeseen")
try:
    handle("SECRET " + "observation")
except RuntimeError as error:
    structlog.get_logger("service").error("ours", exc_info=error)
    logging.getLogger("uvicorn.error").error("uvicorn's", exc_info=error)
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_logged_trace_holds_no_observation(log_format):
    ended = subprocess.run([sys.executable, "-c", FAILURE, log_format], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr.count("RuntimeError") == 2
    assert "SECRET observation" not in ended.stderr
    assert len(ended.stderr.splitlines()) < 30


# Refusing to start


def outcome(capsys, monkeypatch, *flags):
    """Returns exit status, stdout and stderr of `main`, for what it decides before it loads or binds anything."""
    monkeypatch.setattr(sys, "argv", ["service", *flags])
    for name in [name for name in os.environ if name.startswith("HINTWISE_")]:
        monkeypatch.delenv(name)
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code
    return status, *capsys.readouterr()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])  # noqa: S104 (refused)
def test_an_open_address_is_refused_with_what_to_do(capsys, monkeypatch, host):
    status, printed, complaint = outcome(capsys, monkeypatch, "--host", host)
    assert (status, printed) == (2, "")
    assert complaint.count("\n") == 1
    assert "127.0.0.1" in complaint
    assert host in complaint


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--no-such-flag"], "--no-such-flag"),
        (["--port", "70000"], "--port"),
        (["--port", "http"], "--port"),
        (["--max-batch-tokens", "0"], "--max-batch-tokens"),
        (["--max-queue-observations", "100"], "--max-queue-observations"),
        (["--readout", "guess"], "--readout"),
        (["--readout", "head", "--head-actions", "a,b", "--alpha", "1"], "alpha"),
        (["--log-level", "loud"], "--log-level"),
    ],
)
def test_a_wrong_flag_is_named(capsys, monkeypatch, flags, named):
    status, printed, complaint = outcome(capsys, monkeypatch, *flags)
    assert (status, printed) == (2, "")
    assert named in complaint.splitlines()[-1]
    assert "Traceback" not in complaint


@pytest.mark.parametrize("source", ["openai:http://127.0.0.1:1", "scripted", "file:hints.json"])
def test_a_guidance_source_of_a_later_version_is_refused_with_the_choices(capsys, monkeypatch, source):
    status, printed, complaint = outcome(capsys, monkeypatch, "--guidance", source)
    assert (status, printed) == (2, "")
    assert complaint.count("\n") == 1
    for part in ("--guidance", source, "'embedded'", "a directory", "a hub id"):
        assert part in complaint


def test_a_wrong_variable_is_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["service"])
    monkeypatch.setenv("HINTWISE_PORT", "70000")
    assert main() == 2
    assert "port" in capsys.readouterr().err


def test_help_names_every_setting_with_its_unit(capsys, monkeypatch):
    status, printed, _ = outcome(capsys, monkeypatch, "--help")
    assert status == 0
    text = " ".join(printed.split())
    for flag in ("host", "port", "model", "readout", "guidance", "scorer-model", "weights-dir", "max-batch-tokens"):
        assert f"--{flag}" in text
    for unit in ("milliseconds", "seconds", "bytes", "tokens"):
        assert unit in text
    assert text.startswith("usage: python -m service")
