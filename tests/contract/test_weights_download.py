"""`GET /weights/{policy_version}`: a kept file comes whole, or is a problem like every other failure."""

import asyncio

import pytest

from hintwise.digests import sha256_of
from service import weight_download
from service.weight_download import READ_BYTES, KeptFile

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE_S = 30


@pytest.mark.parametrize("header", ["bytes=0-3", "bytes=0-1,3-5", "bytes=999999999-", "bytes=abc", "lines=1-2"])
async def test_a_range_is_not_heeded_and_never_a_failure_of_its_own_kind(service, header):
    response = await service.http.get("/weights/1", headers={"range": header})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/octet-stream"
    assert sha256_of(response.content) == (await service.http.get("/weights")).json()["sha256"]
    assert "accept-ranges" not in response.headers


async def test_a_kept_file_that_is_gone_is_404(fresh):
    fresh.engine.store.path_of(1).unlink()
    refusal = await fresh.refused("/weights/1", status=404, method="GET")
    assert "policy-000001.safetensors is gone" in refusal.detail


async def test_a_version_that_is_forgotten_while_it_is_sent_comes_whole(tmp_path):
    path, data = tmp_path / "policy-000001.safetensors", bytes(range(256)) * (READ_BYTES // 100)
    path.write_bytes(data)
    sent = []

    async def send(message):
        sent.append(message)
        path.unlink(missing_ok=True)

    await asyncio.wait_for(KeptFile(path)({"type": "http"}, _nothing, send), PATIENCE_S)
    start, *bodies = sent
    assert b"".join(body["body"] for body in bodies) == data
    assert (b"content-length", str(len(data)).encode()) in start["headers"]
    assert [body.get("more_body", False) for body in bodies] == [True] * (len(bodies) - 1) + [False]


async def test_a_reader_who_leaves_ends_it(tmp_path):
    path = tmp_path / "policy-000001.safetensors"
    path.write_bytes(b"x")

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.body":
            await _nothing()  # as a server does whose reader takes no more

    scope = {"type": "http"}
    await asyncio.wait_for(KeptFile(path)(scope, receive, send), PATIENCE_S)
    assert scope["hintwise.counted_status"] == 499


async def test_a_reader_who_stays_and_takes_nothing_is_not_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weight_download, "MAX_IDLE_S", 0.01)
    path = tmp_path / "policy-000001.safetensors"
    path.write_bytes(b"x")

    async def send(message):
        if message["type"] == "http.response.body":
            await _nothing()

    scope = {"type": "http"}
    await asyncio.wait_for(KeptFile(path)(scope, _nothing, send), PATIENCE_S)
    assert scope["hintwise.counted_status"] == 499
    assert "stopped reading" in "".join(capsys.readouterr())


async def _nothing():
    await asyncio.Event().wait()
