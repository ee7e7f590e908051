"""`Access`, each line of the paragraph."""

import hashlib
import secrets

import pytest
import pytest_asyncio
from pydantic import ValidationError

from hintwise.errors import HintwiseError, NotAuthorized, WrongScope
from service.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

ITEM = {"hint": "go", "observation": "x", "actions": ["go", "wait"], "action": "go"}
CALLS = {
    "POST /act": ("infer", lambda client: client.act(["x"], ["go", "wait"])),
    "GET /info": ("infer", lambda client: client.info()),
    "GET /weights": ("infer", lambda client: client.weights()),
    "POST /guidance": ("guide", lambda client: client.guidance(["x"], max_new_tokens=1)),
    "POST /reward": ("guide", lambda client: client.reward([ITEM])),
    "PUT /weights": ("admin", lambda client: client.put_weights(b"no weights", if_match=1)),
    "POST /weights/rollback": ("admin", lambda client: client.rollback(99)),
    "GET /weights/{v}": ("admin", lambda client: client.download_weights(1)),
}


@pytest.fixture(scope="module")
def tokens():
    return {scope: secrets.token_urlsafe() for scope in ("infer", "guide", "admin")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory, serving, tokens):
    """A service that knows one token a scope."""
    directory = tmp_path_factory.mktemp("guarded")
    # a line each `name:scope,scope:sha256-hex-of-token`
    lines = [
        f"{scope}-caller:{scope}:{hashlib.sha256(token.encode()).hexdigest()}\n" for scope, token in tokens.items()
    ]
    (directory / "tokens").write_text("".join(lines))
    (directory / "tokens").chmod(0o600)
    async with serving(directory / "weights", tokens_file=directory / "tokens") as running:
        yield running


async def outcome(client, call):
    try:
        await call(client)
    except HintwiseError as error:
        return type(error)
    return None


@pytest.mark.parametrize("name", CALLS)
async def test_scopes(guarded, calling, tokens, name):
    """Scopes: `infer` = /act, /info, GET /weights; `guide` = /guidance, /reward; `admin` = PUT, rollback, ..."""
    needed, call = CALLS[name]
    for scope, token in tokens.items():
        async with calling(guarded, token=token) as client:
            refused = await outcome(client, call)
            assert client.wire.request.headers["authorization"] == f"Bearer {token}"
            assert (refused is WrongScope) == (scope != needed)
            assert (client.wire.response.status_code == 403) == (scope != needed)
    for token in ("", "unknown"):
        async with calling(guarded, token=token) as client:
            assert await outcome(client, call) is NotAuthorized
            assert client.wire.response.status_code == 401


async def test_metrics_need_admin(guarded, tokens):
    """`admin` = ... /metrics"""
    for scope, token in tokens.items():
        response = await guarded.http.get("/metrics", headers={"authorization": f"Bearer {token}"})
        assert response.status_code == (200 if scope == "admin" else 403)


async def test_probes_are_open(guarded, calling):
    """`/livez` and `/readyz` are open."""
    assert (await guarded.http.get("/livez")).status_code == 200
    async with calling(guarded) as client:
        assert await client.is_ready()


async def test_the_client_finds_its_token(guarded, calling, tokens, tmp_path, monkeypatch):
    """clients send `Authorization: Bearer ...` (`HINTWISE_TOKEN` or `HINTWISE_TOKEN_FILE`)"""
    monkeypatch.delenv("HINTWISE_TOKEN", raising=False)
    (tmp_path / "token").write_text(tokens["infer"] + "\n")
    monkeypatch.setenv("HINTWISE_TOKEN_FILE", str(tmp_path / "token"))
    async with calling(guarded, token=None) as client:
        await client.info()
    monkeypatch.setenv("HINTWISE_TOKEN", tokens["admin"])
    async with calling(guarded, token=None) as client:
        await client.download_weights(1)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "example.org"])  # noqa: S104 (refused)
async def test_without_tokens_any_address_but_loopback_is_refused(host, monkeypatch, tmp_path):
    """without tokens the service binds to loopback only and refuses any other address, saying what to do"""
    monkeypatch.delenv("HINTWISE_TOKENS_FILE", raising=False)
    with pytest.raises(ValidationError, match=r"--tokens-file FILE .*127\.0\.0\.1"):
        Settings(host=host)
    monkeypatch.setenv("HINTWISE_TOKENS_FILE", str(tmp_path / "tokens"))
    assert Settings(host=host).tokens_file == tmp_path / "tokens"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
async def test_loopback_needs_no_tokens(host, monkeypatch):
    """without tokens the service binds to loopback"""
    monkeypatch.delenv("HINTWISE_TOKENS_FILE", raising=False)
    assert Settings(host=host).host == host
