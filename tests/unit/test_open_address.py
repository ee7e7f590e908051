"""Which addresses the service listens on without access tokens."""

import socket

import pytest
from pydantic import ValidationError

from service.settings import Settings


def resolving_to(*addresses):
    return lambda host, port: [(0, 0, 0, "", (address, 0)) for address in addresses]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_loopback_needs_no_tokens(host):
    assert Settings(host=host).tokens_file is None


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.168.1.5", "", "0", "127.1", "::ffff:10.0.0.1", "localhost.example.org"],  # noqa: S104
)
def test_any_other_address_needs_them(host, monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to("127.0.0.1"))  # whatever a name server says
    with pytest.raises(ValidationError) as caught:
        Settings(host=host)
    for said in (host, "python -m service.new_token", "--tokens-file", "HINTWISE_TOKENS_FILE", "127.0.0.1"):
        assert said in str(caught.value)
    assert Settings(host=host, tokens_file=tmp_path / "tokens").host == host


@pytest.mark.parametrize(
    ("addresses", "allowed"),
    [
        (["127.0.0.1"], True),
        (["::1", "127.0.0.1"], True),
        (["127.0.0.1", "192.168.1.5"], False),  # somebody changed the hosts file
        (["10.0.0.1"], False),
    ],
)
def test_localhost_is_what_it_resolves_to(monkeypatch, addresses, allowed):
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(*addresses))
    if allowed:
        assert Settings(host="localhost").host == "localhost"
    else:
        with pytest.raises(ValidationError, match="localhost can be reached by others"):
            Settings(host="localhost")


def test_a_localhost_that_resolves_to_nothing_is_refused(monkeypatch):
    def unknown(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ValidationError, match="can be reached by others"):
        Settings(host="localhost")


def test_an_empty_name_of_the_tokens_file_does_not_open_the_service(monkeypatch):
    with pytest.raises(ValidationError, match="tokens file is empty"):
        Settings(tokens_file="")
    monkeypatch.setenv("HINTWISE_TOKENS_FILE", "")
    with pytest.raises(ValidationError, match="tokens file is empty"):
        Settings()


def test_the_tokens_file_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HINTWISE_TOKENS_FILE", str(tmp_path / "tokens"))
    assert Settings(host="0.0.0.0").tokens_file == tmp_path / "tokens"  # noqa: S104
