"""`PUT /weights`, line by line of DESIGN section 2: what is refused leaves the old version serving."""

import pickle

import pytest
import pytest_asyncio
import torch
from safetensors.torch import save

from hintwise.digests import content_digest, sha256_of
from tests.contract.conftest import answers, files_in

pytestmark = pytest.mark.asyncio(loop_scope="module")


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


WEIGHT = "value_head.weight"
DAMAGES = {
    "NaN": lambda state: {**state, WEIGHT: torch.full_like(state[WEIGHT], torch.nan)},
    "one infinity": lambda state: {**state, WEIGHT: state[WEIGHT].index_fill(1, torch.tensor([3]), torch.inf)},
    "wrong shape": lambda state: {**state, WEIGHT: state[WEIGHT].T.contiguous()},
    "missing": lambda state: without(state, WEIGHT),
    "dtype float64": lambda state: {**state, WEIGHT: state[WEIGHT].double()},
    "dtype float16": lambda state: {**state, WEIGHT: state[WEIGHT].half()},
}


@pytest_asyncio.fixture(loop_scope="module")
async def unharmed(fresh):
    """Checks that whatever a test pushed at `fresh` left the old version serving, and no trace."""
    before, info, files = await answers(fresh), (await fresh.http.get("/weights")).json(), files_in(fresh)
    yield fresh
    assert (await fresh.http.get("/weights")).json() == info
    assert await answers(fresh) == before
    assert files_in(fresh) == files
    await fresh.put_noise()
    assert (await fresh.http.get("/weights")).json()["policy_version"] == 2


async def refused(service, data, status=422, **headers):
    """Returns the offending fields of a push that must be refused."""
    response = await service.put(data, **headers)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-policy-version"] == "1"
    assert await service.metric("hintwise_swaps_total") == 0
    assert await service.metric("hintwise_rejected_swaps_total") == 1
    return {entry["field"]: entry["message"] for entry in response.json()["errors"]}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_misfit_is_refused_by_the_name_of_its_tensor(unharmed, damage):
    assert set(await refused(unharmed, save(DAMAGES[damage](await unharmed.tensors())))) == {WEIGHT}


async def test_a_tensor_too_many_is_refused_by_name(unharmed):
    data = save({**await unharmed.tensors(), "trunk.lm_head.lora_A": torch.zeros(2, 2)})
    assert set(await refused(unharmed, data)) == {"trunk.lm_head.lora_A"}


async def test_no_if_match_is_428(unharmed):
    assert "If-Match" in await refused(unharmed, save(await unharmed.tensors()), 428, if_match=None)


@pytest.mark.parametrize("if_match", ["1", '"x"', '"-1"', '""', "*", 'W/"1"', '"1", "2"', '"1.0"', '"²"', ""])
async def test_a_malformed_if_match_is_named(unharmed, if_match):
    headers = {"if_match": if_match.encode("latin-1")}
    assert set(await refused(unharmed, save(await unharmed.tensors()), **headers)) == {"If-Match"}


@pytest.mark.parametrize("if_match", ['"2"', '"0"', '"999999999"'])
async def test_another_version_is_409_with_the_current_one(unharmed, if_match):
    fields = await refused(unharmed, save(await unharmed.tensors()), 409, if_match=if_match)
    assert "current is 1" in fields["If-Match"]


async def test_a_conflict_is_told_before_the_body_is_read(unharmed):
    num_read = 0

    async def chunks():
        nonlocal num_read
        num_read += 1
        yield b"x"

    headers = {"if-match": '"7"', "content-digest": content_digest(sha256_of(b"x"))}
    response = await unharmed.http.put("/weights", content=chunks(), headers=headers)
    assert (response.status_code, num_read) == (409, 0)


@pytest.mark.parametrize(
    "digest",
    [None, "", "sha-256", "sha-256=abc", "sha-256=:abc:", "sha-256=:!!!:", "md5=:1B2M2Y8AsgTpgAmY7PhCfg==:"],
)
async def test_a_missing_or_malformed_digest_is_named(unharmed, digest):
    assert set(await refused(unharmed, save(await unharmed.tensors()), content_digest=digest)) == {"Content-Digest"}


async def test_a_wrong_digest_is_named_with_that_of_what_arrived(unharmed):
    data = save(await unharmed.tensors())
    fields = await refused(unharmed, data, content_digest=content_digest(sha256_of(b"other")))
    assert sha256_of(data) in fields["Content-Digest"]


async def test_a_body_cut_on_the_way_is_named_by_its_digest(unharmed):
    data = save(await unharmed.tensors())
    fields = await refused(unharmed, data[:-100], content_digest=content_digest(sha256_of(data)))
    assert set(fields) == {"Content-Digest"}


async def test_the_digest_may_stand_among_others(unharmed):
    data = save(await unharmed.tensors())
    digests = f"md5=:1B2M2Y8AsgTpgAmY7PhCfg==:, {content_digest(sha256_of(data))}"
    fields = await refused(unharmed, data[:-1], content_digest=digests)
    assert set(fields) == {"Content-Digest"}


class Exploit:
    """Would write a file if anybody unpickled it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


async def test_a_pickle_is_refused_and_never_run(unharmed, tmp_path):
    response = await unharmed.put(pickle.dumps(Exploit(tmp_path / "pwned")))
    assert response.status_code == 422
    assert "safetensors" in response.json()["detail"]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"more",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"[" * 8 + data[16:],
        lambda data: b"PK\x03\x04" + data,
    ],
)
async def test_what_is_not_whole_safetensors_is_refused(unharmed, damage):
    response = await unharmed.put(damage(save(await unharmed.tensors())))
    assert response.status_code == 422
    assert "safetensors" in response.json()["detail"]


async def test_a_body_larger_than_any_that_fits_is_413(unharmed):
    limit = (await unharmed.http.get("/info")).json()["limits"]["max_weights_bytes"]
    response = await unharmed.put(b"x" * (limit + 1))
    assert response.status_code == 413
    assert str(limit) in response.json()["detail"]

    async def chunks():
        for _ in range(limit // 2**16 + 2):
            yield b"x" * 2**16

    headers = {"if-match": '"1"', "content-digest": content_digest(sha256_of(b""))}
    response = await unharmed.http.put("/weights", content=chunks(), headers=headers)
    assert response.status_code == 413


@pytest.mark.parametrize("content_type", ["application/x-python-pickle", "text/plain"])
async def test_another_content_type_is_415(unharmed, content_type):
    response = await unharmed.put(save(await unharmed.tensors()), content_type=content_type)
    assert response.status_code == 415
    assert content_type in response.json()["detail"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hintwise.tokenizer_sha256", "0" * 64),
        ("hintwise.architecture", "gpt2 12x768 vocabulary 50257"),
        ("hintwise.format", "int8"),
    ],
)
async def test_metadata_that_does_not_fit_is_refused_by_name(unharmed, name, value):
    assert set(await refused(unharmed, save(await unharmed.tensors(), metadata={name: value}))) == {name}


async def test_metadata_that_fits_is_taken(fresh):
    info = (await fresh.http.get("/weights")).json()
    metadata = {
        "hintwise.tokenizer_sha256": info["tokenizer_sha256"],
        "hintwise.architecture": info["architecture"],
        "hintwise.format": "full",
        "somebody.else": "anything",
    }
    assert (await fresh.put(save(await fresh.tensors(), metadata=metadata))).status_code == 200


async def test_a_swap_that_fails_leaves_the_old_version(unharmed, monkeypatch):
    """A disk that fills while the version is kept."""

    def full(self, part, sha256):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("service.weight_store.WeightStore.add", full)
        response = await unharmed.put(save(await unharmed.tensors()))
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_sender_who_hangs_up_leaves_no_trace(unharmed):
    data = save(await unharmed.tensors())
    messages = [
        {"type": "http.request", "body": data[:1000], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    headers = [(b"if-match", b'"1"'), (b"content-digest", content_digest(sha256_of(data)).encode())]
    scope = {"type": "http", "method": "PUT", "path": "/weights", "headers": headers, "query_string": b""}
    await unharmed.http._transport.app(scope, receive, send)
    assert sent[0]["status"] == 499  # not a failure of ours, which would log a trace
