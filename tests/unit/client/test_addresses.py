"""Where the address and the token come from, what of them is refused, and that a token never shows."""

import math

import pytest

from tests.unit.client.scripted import INFORMED, REFUSED, SILENT, html, problem

SECRET = "tok-3141592653"  # noqa: S105 (no real one)


async def authorization(service, **settings):
    await service.call(service.client(INFORMED, **settings), "info")
    return service.requests[-1].headers.get("authorization")


async def test_the_token_comes_from_the_argument_the_variable_or_the_file(service, monkeypatch, tmp_path):
    assert await authorization(service) is None
    (tmp_path / "token").write_text("from-file\n")
    monkeypatch.setenv("HINTWISE_TOKEN_FILE", str(tmp_path / "token"))
    assert await authorization(service) == "Bearer from-file"
    monkeypatch.setenv("HINTWISE_TOKEN", "")  # what compose makes of an unset variable
    assert await authorization(service) == "Bearer from-file"
    monkeypatch.setenv("HINTWISE_TOKEN", "from-variable")
    assert await authorization(service) == "Bearer from-variable"
    assert await authorization(service, token=SECRET) == f"Bearer {SECRET}"
    assert await authorization(service, token="") is None


async def test_the_address_comes_from_the_argument_the_variable_or_the_default(service, monkeypatch):
    assert "'http://127.0.0.1:8000'" in repr(service.client(INFORMED, base_url=None))
    monkeypatch.setenv("HINTWISE_URL", "https://variable:1/prefix/")
    await service.call(service.client(INFORMED, base_url=None), "info")
    assert str(service.requests[-1].url) == "https://variable:1/prefix/info"
    await service.call(service.client(INFORMED, base_url="http://argument"), "info")
    assert str(service.requests[-1].url) == "http://argument/info"


@pytest.mark.parametrize(
    "url", ["service:8000", "ftp://host", "http://", "http://host?x=1", "http://host:port", "http://host#x", "/act"]
)
def test_an_unusable_address_is_refused_at_once(service, url):
    with pytest.raises(ValueError, match="address"):
        service.client(INFORMED, base_url=url)


@pytest.mark.parametrize(
    "settings", [{"timeout_s": 0}, {"timeout_s": math.inf}, {"retry_s": -1}, {"retry_s": math.nan}]
)
def test_unusable_times_are_refused_at_once(service, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        service.client(INFORMED, **settings)


async def test_a_token_never_shows(service):
    client = service.client(INFORMED, token=SECRET, retry_s=0)
    assert SECRET not in repr(client) + repr(service.requests)
    for answer in (REFUSED, SILENT, html(502), html(200), problem(401, "Not authorized")):
        error = await service.failure(service.client(answer, token=SECRET, retry_s=0), "info")
        assert service.requests[-1].headers["authorization"] == f"Bearer {SECRET}"
        assert SECRET not in f"{error} {error!r} {error.__cause__!r} {service.requests[-1].headers!r}"


@pytest.mark.parametrize("bad", [f"{SECRET}\nX-Evil: 1", f"{SECRET} ", f"{SECRET}é"])
@pytest.mark.parametrize("source", ["argument", "HINTWISE_TOKEN", "HINTWISE_TOKEN_FILE"])
def test_a_token_that_no_header_can_hold_is_refused_without_showing_it(service, monkeypatch, tmp_path, source, bad):
    if source == "HINTWISE_TOKEN_FILE":
        bad = f"{bad.strip()} {bad.strip()}"
        (tmp_path / "token").write_text(bad)
    monkeypatch.setenv(source, str(tmp_path / "token") if source == "HINTWISE_TOKEN_FILE" else bad)
    with pytest.raises(ValueError, match="a token has none") as caught:
        service.client(INFORMED, token=bad if source == "argument" else None)
    assert SECRET not in str(caught.value)


def test_an_empty_token_file_is_refused(service, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("\n")
    monkeypatch.setenv("HINTWISE_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ValueError, match="is empty"):
        service.client(INFORMED)


def test_a_secret_in_the_address_is_refused_without_showing_it(service):
    with pytest.raises(ValueError, match="give a token instead") as caught:
        service.client(INFORMED, base_url=f"http://user:{SECRET}@host")
    assert SECRET not in str(caught.value)
