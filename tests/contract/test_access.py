"""Who may call what: scopes, statuses, and requests that try to get around them."""

import hashlib
import hmac
import os
from contextlib import asynccontextmanager
from urllib.parse import unquote

import httpx
import pytest
import pytest_asyncio
import structlog
from starlette.routing import Route

from hintwise.async_client import AsyncClient
from hintwise.errors import NotAuthorized, WrongScope
from service import access_tokens, routes
from service.endpoints import ENDPOINTS

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = {"observations": ["x"], "actions": ["go", "wait"]}
ITEM = {"hint": "go", "observation": "x", "actions": ["go"], "action": "go"}
SCOPES = ("infer", "guide", "admin")
NEEDED = {  # the contract, written out here a second time
    ("POST", "/act"): "infer",
    ("GET", "/info"): "infer",
    ("GET", "/weights"): "infer",
    ("POST", "/guidance"): "guide",
    ("POST", "/reward"): "guide",
    ("PUT", "/weights"): "admin",
    ("POST", "/weights/rollback"): "admin",
    ("GET", "/weights/1"): "admin",
    ("GET", "/metrics"): "admin",
}
BODIES = {
    "/act": SMALL,
    "/guidance": {"observations": ["x"], "max_new_tokens": 1},
    "/reward": {"items": [ITEM]},
    "/weights/rollback": {},
}
DOCUMENTS = ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
TOKENS = {scope: f"{scope}-secret-token" for scope in SCOPES} | {"all": "secret-of-everything"}


def line(name, scopes, token):
    return f"{name}:{scopes}:{hashlib.sha256(token.encode()).hexdigest()}\n"


ALL_LINES = "".join(line(name, name if name in SCOPES else ",".join(SCOPES), token) for name, token in TOKENS.items())


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def metric(service, reason):
    return service.engine.metrics.registry.get_sample_value("hintwise_access_refused_total", {"reason": reason})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory, serving):
    """A service with one token a scope and one with all."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "tokens").write_text(ALL_LINES)
    (directory / "tokens").chmod(0o600)
    async with serving(directory / "weights", tokens_file=directory / "tokens") as running:
        yield running


@pytest.fixture
def changing(tmp_path, serving, monkeypatch):
    """A service whose tokens file is looked at on every request, and the file."""
    monkeypatch.setattr(access_tokens, "CHECK_INTERVAL_S", 0.0)
    file = tmp_path / "tokens"

    @asynccontextmanager
    async def running(text):
        file.write_text(text)
        async with serving(tmp_path / "weights", tokens_file=file) as service:
            yield service, file

    return running


async def status_of(service, method, path, token=None):
    """The status of a request whose path arrives as it is written here, decoded as uvicorn decodes it."""
    statuses = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        statuses.append(message.get("status"))

    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    scope = {"type": "http", "method": method, "path": unquote(path), "raw_path": path.encode(), "query_string": b""}
    await service.http._transport.app({**scope, "headers": headers}, receive, send)
    return statuses[0]


# Every endpoint, every token


@pytest.mark.parametrize(("method", "path"), NEEDED)
async def test_an_endpoint_takes_the_token_of_its_scope_alone(guarded, service, method, path):
    needed, body = NEEDED[method, path], BODIES.get(path)
    refusal = await guarded.refused(path, body, 401, method=method)
    assert refusal.response.headers["www-authenticate"] == "Bearer"
    assert "HINTWISE_TOKEN" in refusal.detail
    assert "Authorization: Bearer" in refusal.detail
    refusal = await guarded.refused(path, body, 401, method=method, headers=bearer("wrong"))
    assert refusal.response.headers["www-authenticate"] == "Bearer"
    assert "not known" in refusal.detail
    for scope in SCOPES:
        if scope != needed:
            refusal = await guarded.refused(path, body, 403, method=method, headers=bearer(TOKENS[scope]))
            assert f"needs the scope {needed}" in refusal.detail
            assert f"this token has {scope};" in refusal.detail
    for token in (TOKENS[needed], TOKENS["all"]):
        opened = await guarded.http.request(method, path, json=body, headers=bearer(token))
        same = await service.http.request(method, path, json=body)
        assert (opened.status_code, opened.status_code in (401, 403)) == (same.status_code, False)


@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_documents_take_any_known_token(guarded, method, path):
    for headers in ({}, bearer("wrong")):
        assert (await guarded.http.request(method, path, headers=headers)).status_code == 401
    for token in TOKENS.values():
        assert (await guarded.http.request(method, path, headers=bearer(token))).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_need_no_token(guarded, path):
    for headers in ({}, bearer("wrong"), bearer(TOKENS["guide"])):
        assert (await guarded.http.get(path, headers=headers)).status_code == 200


async def test_without_a_tokens_file_everybody_may_do_everything(service):
    for method, path in NEEDED:
        response = await service.http.request(method, path, json=BODIES.get(path), headers=bearer("whatever"))
        assert response.status_code not in (401, 403)


def routes_of(app):
    """Every route, those of included routers among them."""
    for route in app.routes:
        yield from route.original_router.routes if hasattr(route, "original_router") else [route]


async def test_every_route_is_in_the_table(guarded):
    found = list(routes_of(guarded.http._transport.app))
    assert {route.path for route in routes.router.routes} <= {route.path for route in found}
    for route in found:
        assert isinstance(route, Route), f"service/access.py knows no {type(route).__name__}: {route}"
        for method in route.methods - {"HEAD"}:
            assert (method, route.path) in ENDPOINTS, f"service/endpoints.py does not say who may {method} {route.path}"


async def test_a_route_that_the_table_lacks_is_refused(guarded, monkeypatch):
    app = guarded.http._transport.app
    monkeypatch.setattr(app.router, "routes", [*app.router.routes])
    app.add_api_route("/forgotten", lambda: "open", methods=["GET"])
    app.add_api_route("/act", lambda: "open", methods=["DELETE"])
    await guarded.refused("/forgotten", status=401, method="GET")
    await guarded.refused("/forgotten", status=404, method="GET", headers=bearer(TOKENS["all"]))
    await guarded.refused("/act", status=405, method="DELETE", headers=bearer(TOKENS["all"]))


# Ways around it


@pytest.mark.parametrize("path", ["/info", "/weights", "/weights/1", "/metrics"])
async def test_head_needs_what_get_needs(guarded, path):
    assert (await guarded.http.head(path)).status_code == 401
    for name, token in TOKENS.items():
        allowed = name in (NEEDED["GET", path], "all")
        assert (await guarded.http.head(path, headers=bearer(token))).status_code == (405 if allowed else 403)


@pytest.mark.parametrize("method", ["OPTIONS", "DELETE", "PATCH", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/act", "/weights", "/weights/1", "/metrics", "/livez"])
async def test_another_method_gets_no_further(guarded, method, path):
    await guarded.refused(path, status=401, method=method)
    refusal = await guarded.refused(path, status=405, method=method, headers=bearer(TOKENS["guide"]))
    allowed = {m for (m, p) in [*NEEDED, ("GET", "/livez")] if p == path}
    assert set(refusal.response.headers["allow"].split(", ")) == allowed


async def test_a_path_of_its_own_is_no_version_of_the_weights(guarded):
    await guarded.refused("/weights/rollback", status=401, method="GET")
    for token in TOKENS.values():
        await guarded.refused("/weights/rollback", status=405, method="GET", headers=bearer(token))


@pytest.mark.parametrize(
    "path",
    [
        "/act/",
        "//act",
        "/./act",
        "/livez/../act",
        "/ACT",
        "/act%0A",
        "/act%00",
        "/act%2F",
        "/act;x",
        "/act%3F",
        "/%2Fact",
        "/weights/1/",
        "/weights//1",
        "/weights/",
        "/weights%2F1%2F",
        "/metrics/",
        "/metrics%0A",
        "/livez/",
        "/livez%0A",
        "/nope",
        "/",
        "",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT"])
async def test_no_other_spelling_of_a_path_is_answered(guarded, method, path):
    """Neither opens anything, nor leads to what does; httpx would tidy such paths up before it sends them."""
    assert await status_of(guarded, method, path) == 401
    assert await status_of(guarded, method, path, TOKENS["all"]) == 404


@pytest.mark.parametrize("path", ["/act/", "/weights/", "/livez/"])
async def test_a_slash_too_many_leads_nowhere_without_tokens_either(service, path):
    assert await status_of(service, "GET", path) == 404


async def test_a_parameter_with_a_line_break_needs_the_scope_all_the_same(guarded):
    assert await status_of(guarded, "GET", "/weights/1%0A") == 401
    assert await status_of(guarded, "GET", "/weights/1%0A", TOKENS["infer"]) == 403


@pytest.mark.parametrize("path", ["/%61ct", "/ac%74?x=/livez", "/act?"])
async def test_an_encoded_path_needs_the_scope_of_what_it_decodes_to(guarded, path):
    url = httpx.URL("http://service").copy_with(raw_path=path.encode())
    assert (await guarded.http.post(url, json=SMALL)).status_code == 401
    assert (await guarded.http.post(url, json=SMALL, headers=bearer(TOKENS["guide"]))).status_code == 403
    assert (await guarded.http.post(url, json=SMALL, headers=bearer(TOKENS["infer"]))).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", TOKENS["all"])],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", f"Basic {TOKENS['all']}")],
        [("authorization", f"Bearer\t{TOKENS['all']}")],
        [("authorization", f"Bearer {TOKENS['all']}"), ("authorization", "Bearer wrong")],
        [("authorization", f"Bearer {TOKENS['all']}"), ("authorization", f"Bearer {TOKENS['all']}")],
        [("x-authorization", f"Bearer {TOKENS['all']}")],
        [("proxy-authorization", f"Bearer {TOKENS['all']}")],
        [("cookie", f"authorization=Bearer {TOKENS['all']}")],
    ],
)
async def test_only_one_bearer_header_counts(guarded, headers):
    before = metric(guarded, "missing")
    await guarded.refused("/info", status=401, method="GET", headers=headers)
    assert metric(guarded, "missing") == before + 1


@pytest.mark.parametrize(
    "token",
    [
        TOKENS["all"] + "x",
        TOKENS["all"][:-1],
        TOKENS["all"].upper(),
        f"{TOKENS['all']},{TOKENS['all']}",
        hashlib.sha256(TOKENS["all"].encode()).hexdigest(),  # what the file holds opens nothing
        "all",
        "é".encode(),
    ],
)
async def test_nothing_but_the_token_itself_is_known(guarded, token):
    value = b"Bearer " + (token if isinstance(token, bytes) else token.encode())
    before = metric(guarded, "unknown")
    await guarded.refused("/info", status=401, method="GET", headers=[(b"authorization", value)])
    assert metric(guarded, "unknown") == before + 1


async def test_the_scheme_is_case_insensitive(guarded):
    response = await guarded.http.get("/info", headers={"authorization": f"bEARER  {TOKENS['infer']}"})
    assert response.status_code == 200


async def test_a_token_in_the_address_opens_nothing(guarded):
    await guarded.refused(f"/info?token={TOKENS['all']}&access_token={TOKENS['all']}", status=401, method="GET")


async def test_the_body_is_not_read_before_access_is_granted(guarded):
    num_read = 0

    async def body():
        nonlocal num_read
        num_read += 1
        yield b"{}"

    for headers in ({}, bearer("wrong"), bearer(TOKENS["guide"])):
        response = await guarded.http.post("/act", content=body(), headers=headers)
        assert (response.status_code in (401, 403), num_read) == (True, 0)
    await guarded.http.post("/act", content=body(), headers=bearer(TOKENS["infer"]))
    assert num_read == 1


async def test_every_known_digest_is_compared_whatever_matches(guarded, monkeypatch):
    compared = []

    def noted(known, sent):
        compared.append(known)
        return hmac_compare(known, sent)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", noted)
    for token in (*TOKENS.values(), "wrong"):
        compared.clear()
        await guarded.http.get("/info", headers=bearer(token))
        assert compared == [hashlib.sha256(token.encode()).hexdigest() for token in TOKENS.values()]


async def test_no_answer_and_no_log_line_holds_a_token(guarded):
    with structlog.testing.capture_logs() as lines:
        for token in (*TOKENS.values(), "a-wrong-secret"):
            for method, path in NEEDED:
                response = await guarded.http.request(method, path, headers=bearer(token))
                assert "secret" not in response.text + str(response.headers)
    assert "secret" not in str(lines)


# Counting and telling


async def test_refusals_are_counted_by_reason_and_by_endpoint(changing):
    async with changing(ALL_LINES) as (service, _):
        await service.http.get("/livez")
        assert [metric(service, reason) for reason in ("missing", "unknown", "scope")] == [0, 0, 0]
        await service.refused("/act", status=401)
        for _ in range(2):
            await service.refused("/act", status=401, headers=bearer("wrong"))
        for _ in range(3):
            await service.refused("/act", status=403, headers=bearer(TOKENS["guide"]))
        await service.refused("/nope", status=404, headers=bearer(TOKENS["guide"]))
        assert [metric(service, reason) for reason in ("missing", "unknown", "scope")] == [1, 2, 3]
        count = service.engine.metrics.registry.get_sample_value
        assert count("hintwise_requests_total", {"endpoint": "/act", "status": "401"}) == 3
        assert count("hintwise_requests_total", {"endpoint": "/act", "status": "403"}) == 3


async def test_a_line_names_the_token_the_request_and_the_version(guarded, monkeypatch):
    def failing(engine):
        raise KeyError("weights")

    monkeypatch.setattr("service.routes.weights_info", failing)
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        response = await guarded.http.get("/weights", headers={**bearer(TOKENS["infer"]), "x-request-id": "mine"})
        await guarded.http.get("/livez")
    assert response.status_code == 500
    failure, of_failure, of_probe = (line for line in lines)
    for told in (failure, of_failure):
        assert (told["request_id"], told["policy_version"], told["token_name"]) == ("mine", 1, "infer")
    assert (of_failure["event"], of_failure["endpoint"], of_failure["status"]) == ("request", "/weights", 500)
    assert "token_name" not in of_probe  # nothing of an earlier request
    assert of_probe["request_id"] not in ("", "mine")


# The client


async def test_the_client_raises_what_it_is_and_tries_once(guarded):
    asked = []

    async def noted(request):
        asked.append(request)

    transport = httpx.ASGITransport(guarded.http._transport.app)
    for token, error in (("", NotAuthorized), ("wrong", NotAuthorized), (TOKENS["infer"], WrongScope)):
        async with AsyncClient("http://service", token=token, transport=transport) as client:
            client._http.event_hooks = {"request": [noted]}
            with pytest.raises(error) as caught:
                await client.download_weights(1)
            assert type(caught.value) is error
        assert len(asked) == 1
        asked.clear()


# A file that changes


async def test_a_changed_file_is_read_again(changing):
    async with changing(line("old", "infer", "old")) as (service, file):
        assert (await service.http.get("/info", headers=bearer("old"))).status_code == 200
        file.write_text(line("new", "infer", "new"))
        assert (await service.http.get("/info", headers=bearer("new"))).status_code == 200
        await service.refused("/info", status=401, method="GET", headers=bearer("old"))


@pytest.mark.parametrize("broken", ["new:infer:no-digest\n", "", "# none\n", None])
async def test_a_broken_change_keeps_the_last_good_tokens_and_says_so_once(changing, broken):
    async with changing(line("old", "infer", "old")) as (service, file):
        with structlog.testing.capture_logs() as lines:
            file.unlink() if broken is None else file.write_text(broken)
            for _ in range(3):
                assert (await service.http.get("/info", headers=bearer("old"))).status_code == 200
            errors = [line for line in lines if line["log_level"] == "error"]
            assert len(errors) == 1
            assert str(file) in errors[0]["detail"]
            assert "no-digest" not in str(errors)
            file.write_text("another: broken one\n")
            await service.http.get("/info", headers=bearer("old"))
            assert len([line for line in lines if line["log_level"] == "error"]) == 2
        file.write_text(line("new", "infer", "new"))
        assert (await service.http.get("/info", headers=bearer("new"))).status_code == 200


async def test_a_file_of_the_same_size_and_time_is_known_by_its_inode(changing):
    async with changing(line("old", "infer", "old")) as (service, file):
        before = file.stat()
        fresh = file.with_name("fresh")
        fresh.write_text(line("new", "infer", "new"))
        os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
        fresh.replace(file)
        assert (file.stat().st_mtime_ns, file.stat().st_size) == (before.st_mtime_ns, before.st_size)
        assert (await service.http.get("/info", headers=bearer("new"))).status_code == 200


async def test_a_file_written_in_place_is_known_by_its_size_or_time(changing):
    async with changing(line("old", "infer", "old")) as (service, file):
        before = file.stat()
        with file.open("w") as same_inode:
            same_inode.write(line("older", "infer", "new"))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (await service.http.get("/info", headers=bearer("new"))).status_code == 200
        with file.open("w") as same_inode:
            same_inode.write(line("older", "infer", "one"))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert (await service.http.get("/info", headers=bearer("one"))).status_code == 200
