"""`GET` and `PUT /weights`, line by line of DESIGN section 2: what is refused leaves the old version serving."""

import asyncio
import errno
import json
import pickle
import re
import shutil

import pytest
import pytest_asyncio
import torch
from safetensors.torch import save

from hintwise.digests import content_digest, sha256_of
from hintwise.errors import HintwiseError
from hintwise.model_names import EMBEDDED_DIR
from service.engine import Engine
from service.settings import Settings
from service.weight_store import StoreUnusable, WeightStore

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = [f"cart {n} speed {n + 7} pole 20 turn {40 - n}" for n in range(6)]


async def answers(service):
    """Returns what tells weights apart."""
    return [(result["scores"], result["value"]) for result in await service.act(TEXTS, mode="greedy")]


def files_in(service):
    return sorted(path.name for path in service.engine.settings.weights_dir.iterdir())


# Looking


async def test_get_tells_the_version_that_serves(service):
    info = (await service.http.get("/weights")).json()
    assert set(info) == {
        "policy_version",
        "sha256",
        "num_parameters",
        "architecture",
        "tokenizer_sha256",
        "retained_versions",
        "created_at",
        "durable",
    }
    assert (info["policy_version"], info["retained_versions"], info["durable"]) == (1, [1], True)
    assert info["architecture"].startswith("gpt2")
    assert re.fullmatch(r"[0-9a-f]{64}", info["tokenizer_sha256"])
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)$", info["created_at"])
    tensors = await service.tensors()
    settings = {"alpha", "beta", "value_scale", "q_scale"}
    assert info["num_parameters"] == sum(t.numel() for name, t in tensors.items() if name not in settings)


async def test_the_digest_told_is_that_of_the_bytes_downloaded(service):
    info = (await service.http.get("/weights")).json()
    response = await service.http.get("/weights/1")
    assert response.headers["content-type"] == "application/octet-stream"
    assert sha256_of(response.content) == info["sha256"]


async def test_phrase_settings_travel_with_the_weights(start):
    async with start(alpha=0.5, beta=3.0) as service:
        tensors = await service.tensors()
    assert (tensors["alpha"].item(), tensors["beta"].item()) == (0.5, 3.0)


@pytest.mark.parametrize("version", ["2", "0", "-1", "x", "1.0", "1" * 40, "²", "..%2Fversions.json"])
async def test_a_version_that_is_not_kept_is_404(service, version):
    refusal = await service.refused(f"/weights/{version}", status=404, method="GET")
    if version == "2":
        assert "kept are [1]" in refusal.detail


# Pushing


async def test_a_push_serves_the_next_version(fresh):
    before = await answers(fresh)
    data = await fresh.put_noise()
    info = (await fresh.http.get("/weights")).json()
    assert (info["policy_version"], info["retained_versions"]) == (2, [1, 2])
    assert info["sha256"] == sha256_of(data)
    assert (await fresh.http.get("/weights/2")).content == data
    assert await answers(fresh) != before
    response = await fresh.http.post("/act", json={"observations": ["x"], "actions": ["go", "wait"]})
    assert response.json()["policy_version"] == 2
    assert response.headers["x-policy-version"] == "2"


async def test_put_answers_with_what_get_then_says(fresh):
    response = await fresh.put(save(await fresh.tensors()))
    assert response.status_code == 200
    assert response.json() | {"durable": True} == await fresh.durable()
    assert response.headers["x-policy-version"] == "2"


async def test_the_same_weights_answer_the_same_again(fresh):
    original, before = (await fresh.http.get("/weights/1")).content, await answers(fresh)
    await fresh.put_noise()
    assert (await fresh.put(original)).status_code == 200
    assert await answers(fresh) == before
    assert (await fresh.http.get("/weights")).json()["policy_version"] == 3


async def test_pushed_settings_are_obeyed(fresh):
    plain = await fresh.act(TEXTS, mode="greedy")
    await fresh.put_noise(0.0, beta=torch.tensor(2.0), value_scale=torch.tensor(5.0))
    for result, before in zip(await fresh.act(TEXTS, mode="greedy"), plain, strict=True):
        assert result["scores"] == pytest.approx([2 * score for score in before["scores"]], abs=1e-4)


async def test_retention_keeps_8_versions(fresh, happens):
    for seed in range(10):
        await fresh.put_noise(seed=seed)
    info = (await fresh.http.get("/weights")).json()
    assert info["retained_versions"] == list(range(4, 12))
    assert (await fresh.http.get("/weights/4")).status_code == 200
    refusal = await fresh.refused("/weights/3", status=404, method="GET")
    assert "4, 5, 6, 7, 8, 9, 10, 11" in refusal.detail
    await fresh.durable()  # the record no longer names the older ones; only then their files go
    await happens(lambda: sum(name.endswith(".safetensors") for name in files_in(fresh)) == 8)


async def test_of_two_pushes_onto_one_version_one_wins(fresh, noisy):
    state = await fresh.tensors()
    pushed = [save(noisy(state, 0.01, seed)) for seed in range(4)]
    responses = await asyncio.gather(*(fresh.put(data) for data in pushed))
    assert sorted(response.status_code for response in responses) == [200, 409, 409, 409]
    won = next(data for data, response in zip(pushed, responses, strict=True) if response.status_code == 200)
    assert (await fresh.http.get("/weights/2")).content == won
    assert (await fresh.http.get("/weights")).json()["retained_versions"] == [1, 2]


async def test_until_the_swap_the_old_version_is_the_one_that_is_told(fresh, happens):
    data = save(await fresh.tensors())
    async with fresh.blocked_thread() as jobs:
        pushing = asyncio.create_task(fresh.put(data))
        await happens(lambda: len(jobs) == 1)  # verified and kept; the swap waits for the model thread
        response = await fresh.http.get("/weights")
        assert response.json()["policy_version"] == 1
        assert response.headers["x-policy-version"] == "1"
    assert (await pushing).json()["policy_version"] == 2


async def test_the_version_that_serves_is_told_even_where_only_one_is_retained(start, happens):
    async with start(max_retained_versions=1) as service:
        data = save(await service.tensors())
        async with service.blocked_thread() as jobs:
            pushing = asyncio.create_task(service.put(data))
            await happens(lambda: len(jobs) == 1)
            response = await service.http.get("/weights")
            assert response.status_code == 200, response.text
            assert response.json()["policy_version"] == 1
        assert (await pushing).json()["retained_versions"] == [2]


async def test_answers_come_from_one_version_each_while_it_is_swapped(fresh, happens):
    """The request travels in several batches, and the swap falls between them."""
    texts = [f"cart {n % 41} speed {n // 41}" for n in range(1000)]
    data = save({**await fresh.tensors(), "beta": torch.tensor(50.0)})
    async with fresh.blocked_thread() as jobs:
        acting = asyncio.create_task(fresh.act(texts, mode="greedy"))
        await happens(lambda: fresh.engine.act_queue.queued_tokens > fresh.engine.settings.max_batch_tokens)
        pushing = asyncio.create_task(fresh.put(data))
        await happens(lambda: len(jobs) == 1)  # the swap is in line after the first batch
    assert (await pushing).status_code == 200
    results = await acting
    swapped = await fresh.act(texts, mode="greedy")
    for result, expected in zip(results, swapped, strict=True):
        assert result["scores"] == pytest.approx(expected["scores"], rel=1e-4)
    assert await fresh.metric("hintwise_act_recomputed_observations_total") > 0


# Refusing


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


# Restarting


async def test_a_restart_serves_the_last_version_and_numbers_go_on(start):
    async with start() as service:
        await service.put_noise(seed=1)
        data = await service.put_noise(seed=2)
        before = await answers(service)
    async with start() as service:
        info = (await service.http.get("/weights")).json()
        assert (info["policy_version"], info["retained_versions"]) == (3, [1, 2, 3])
        assert (await service.ask("/act", {"observations": ["x"], "actions": ["go"]}))["policy_version"] == 3
        assert info["sha256"] == sha256_of(data)
        assert (await service.http.get("/weights/3")).content == data
        assert await answers(service) == before
        await service.put_noise(seed=3)
        assert (await service.http.get("/weights")).json()["policy_version"] == 4


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
async def test_a_damaged_newest_version_falls_back_to_the_last_whole_one(start, damage):
    async with start() as service:
        await service.put_noise(seed=1)
        before = await answers(service)
        await service.put_noise(seed=2)
        newest = service.engine.store.path_of(3)
    whole = newest.read_bytes()
    if damage == "gone":
        newest.unlink()
    else:
        newest.write_bytes(whole[:-10] if damage == "truncated" else whole[:-1] + bytes([whole[-1] ^ 1]))
    async with start() as service:
        info = (await service.http.get("/weights")).json()
        assert (info["policy_version"], info["retained_versions"]) == (2, [1, 2])
        assert await answers(service) == before
        await service.put_noise(seed=3)
        assert (await service.http.get("/weights")).json()["policy_version"] == 4  # 3 was used, never again


async def test_a_version_that_is_told_as_retained_can_be_downloaded(start):
    async with start() as service:
        await service.put_noise(seed=1)
        await service.put_noise(seed=2)
        service.engine.store.path_of(2).unlink()
    async with start() as service:
        for version in (await service.http.get("/weights")).json()["retained_versions"]:
            assert (await service.http.get(f"/weights/{version}")).status_code == 200


async def test_no_whole_version_is_a_clear_refusal_to_start(start, tmp_path):
    async with start() as service:
        path = service.engine.store.path_of(1)
    path.write_bytes(b"")
    with pytest.raises(StoreUnusable, match=r"whole.*--weights-dir"):
        Engine(Settings(weights_dir=tmp_path / "weights"))


async def test_a_disk_without_room_for_the_first_version_is_a_clear_refusal_to_start(start, monkeypatch):
    def fail(store):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(WeightStore, "flush", fail)
        with pytest.raises(StoreUnusable, match=r"No space left.*--weights-dir"):
            await start().__aenter__()
    async with start() as service:  # the directory is free, and was left as it should be
        assert (await service.http.get("/weights")).json()["retained_versions"] == [1]


async def test_a_second_service_on_the_directory_is_refused(fresh):
    with pytest.raises(StoreUnusable, match=r"another service.*--weights-dir"):
        Engine(Settings(weights_dir=fresh.engine.settings.weights_dir))


@pytest.mark.parametrize("member", ["base_sha256", "tokenizer_sha256", "architecture"])
async def test_a_directory_of_another_model_is_refused(start, tmp_path, member):
    async with start():
        pass
    record = tmp_path / "weights" / "versions.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), member: "another"}))
    with pytest.raises(StoreUnusable, match=f"another model.*{member}.*--weights-dir"):
        Engine(Settings(weights_dir=tmp_path / "weights"))


async def test_a_model_from_a_directory_serves_and_its_weights_do_not_mix_with_others(start, tmp_path, fresh_embedded):
    shutil.copytree(EMBEDDED_DIR, tmp_path / "model")
    with torch.no_grad():
        fresh_embedded.model.transformer.wte.weight.add_(0.01)
    fresh_embedded.model.save_pretrained(tmp_path / "model")
    async with start(model=str(tmp_path / "model")) as service:
        await service.act(TEXTS)
        assert (await service.http.get("/info")).json()["policy"]["name"] == str(tmp_path / "model")
    with pytest.raises(HintwiseError, match="another model"):
        Engine(Settings(weights_dir=tmp_path / "weights"))
