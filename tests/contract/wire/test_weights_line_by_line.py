"""`Weights`, each line of the paragraph."""

import hashlib
import json
import re

import pytest
import torch
from safetensors.torch import load, save

from hintwise.digests import content_digest, sha256_of
from hintwise.errors import InvalidRequest, NotRetained, VersionConflict, WeightsRejected

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTIONS = ["push left", "push right"]
TEXT = "cart 20 speed 23 pole 15 turn 20"


async def pushed(client, service, noisy, count=1):
    """Pushes `count` times, and returns what the last push answered."""
    for seed in range(count):
        data = save(noisy(await service.tensors(), 0.02, seed))
        info = await client.put_weights(data, if_match=(await client.weights()).policy_version)
    return info


async def test_initial_weights_are_version_1(client):
    """Initial weights are version 1."""
    info = await client.weights()
    assert (info.policy_version, info.retained_versions) == (1, [1])


async def test_numbers_rise_and_are_never_reused_also_across_restarts(start, calling, noisy):
    """Numbers rise and are never reused, also across restarts ... a restart serves the last good one."""
    async with start() as service, calling(service) as client:
        assert (await pushed(client, service, noisy, 2)).policy_version == 3
        scores = (await client.act([TEXT], ACTIONS, mode="greedy")).results[0].scores
        second = sha256_of(await client.download_weights(2))
    async with start() as service, calling(service) as client:
        answer = await client.act([TEXT], ACTIONS, mode="greedy")
        assert (answer.policy_version, answer.results[0].scores) == (3, pytest.approx(scores, rel=1e-5))
        await client.rollback(2)
    async with start() as service, calling(service) as client:
        info = await client.weights()
        assert (info.policy_version, info.sha256) == (2, second)
        assert (await pushed(client, service, noisy)).policy_version == 4


async def test_8_versions_are_retained(fresh, calling, noisy):
    """8 versions are retained by default"""
    async with calling(fresh) as client:
        assert (await pushed(client, fresh, noisy, 8)).retained_versions == list(range(2, 10))
        with pytest.raises(NotRetained):
            await client.download_weights(1)


async def test_get_answers_with_these_fields(service):
    """`GET /weights` -> {"policy_version", "sha256", "num_parameters", "architecture", ...}"""
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
    assert info["durable"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", info["created_at"])


async def test_a_retained_version_is_safetensors(client):
    """`GET /weights/{policy_version}` streams a retained version as safetensors."""
    data, info = await client.download_weights(1), await client.weights()
    assert hashlib.sha256(data).hexdigest() == info.sha256
    # the tied copy of the embedding is no tensor of its own; alpha, beta and the value's scale are no parameters
    tensors = load(data)
    assert sum(tensor.numel() for tensor in tensors.values() if tensor.dim()) == info.num_parameters


async def test_a_push_carries_if_match_and_its_digest(fresh, calling):
    """`PUT /weights`: a safetensors body with `If-Match: "<current version>"` and `Content-Digest: sha-256=:...:`"""
    async with calling(fresh) as client:
        data = await client.download_weights(1)
        info = await client.put_weights(data, if_match=1)
        assert client.wire.request.headers["if-match"] == '"1"'
        assert client.wire.request.headers["content-digest"] == content_digest(sha256_of(data))
        assert re.fullmatch(r"sha-256=:[A-Za-z0-9+/]{43}=:", content_digest(sha256_of(data)))
        assert info.sha256 == sha256_of(data)
    assert (await fresh.put(data, if_match=None)).status_code == 428
    assert (await fresh.put(data, content_digest=None)).status_code == 422


async def test_200_comes_with_get_s_body_once_the_new_version_serves(fresh, calling, noisy):
    """Answers 200 with GET's body once the new version serves."""
    async with calling(fresh) as client:
        told = await pushed(client, fresh, noisy)
        assert client.wire.response.headers["x-policy-version"] == "2"
        assert told == await client.weights()
        assert (await client.act(["x"], ACTIONS)).policy_version == 2


async def test_a_path_that_the_operator_allowed_needs_no_digest(start, calling, tmp_path):
    """or `{"path": ...}` as JSON under a directory the operator allowed (no digest needed)"""
    allowed, file = tmp_path / "pushes", tmp_path / "pushes" / "policy"
    allowed.mkdir()
    async with start(weights_path_dirs=str(allowed)) as service, calling(service) as client:
        data = await client.download_weights(1)
        for path in (file, tmp_path / "elsewhere"):
            path.write_bytes(data)
        assert (await client.put_weights_from(file, if_match=1)).policy_version == 2
        assert "content-digest" not in client.wire.request.headers
        assert client.wire.request.headers["content-type"] == "application/json"
        with pytest.raises(InvalidRequest) as raised:
            await client.put_weights_from(tmp_path / "elsewhere", if_match=2)
        assert [offence.field for offence in raised.value.errors] == ["path"]
        assert (await client.weights()).policy_version == 2


async def test_lora_weights_serve_as_what_they_stand_for(fresh, calling):
    """`hintwise.format` (`full`; `lora`): the last of what was reserved; a download is whole, or the file as pushed"""
    layer, generator = "trunk.transformer.h.1.mlp.c_proj", torch.Generator().manual_seed(1)
    async with calling(fresh) as client:
        whole, base = load(await client.download_weights(1)), (await client.info()).policy.sha256
        num_inputs, num_outputs = whole[f"{layer}.weight"].shape
        down, up = torch.randn(2, num_inputs, generator=generator), torch.randn(num_outputs, 2, generator=generator)
        heads = {name: tensor for name, tensor in whole.items() if not name.startswith("trunk.")}
        told = {"hintwise.format": "lora", "hintwise.base_sha256": base, "hintwise.lora_alpha": "0.5"}
        data = save({**heads, f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, metadata=told)
        info = await client.put_weights(data, if_match=1)
        assert (info.policy_version, info.sha256) == (2, sha256_of(data))
        assert await client.download_weights(2, as_pushed=True) == data
        changed = {n: t for n, t in load(await client.download_weights(2)).items() if not torch.equal(t, whole[n])}
        assert changed.keys() == {f"{layer}.weight"}
        wanted = whole[f"{layer}.weight"] + 0.5 / 2 * (up @ down).T
        torch.testing.assert_close(changed[f"{layer}.weight"], wanted, rtol=1e-5, atol=1e-6)
        assert (await client.act(["x"], ACTIONS)).policy_version == 2


async def test_metadata_that_is_absent_is_not_missed(fresh, calling):
    """Optional safetensors metadata, checked when present"""
    async with calling(fresh) as client:
        info, tensors = await client.weights(), await fresh.tensors()
        right = {
            "hintwise.architecture": info.architecture,
            "hintwise.tokenizer_sha256": info.tokenizer_sha256,
            "hintwise.format": "full",
        }
        for version, metadata in enumerate((None, {}, right), 1):
            await client.put_weights(save(tensors, metadata=metadata), if_match=version)


def damaged(tensors, kind):
    """Returns tensors and metadata of which one thing is wrong, and the field that must be named."""
    name = "trunk.transformer.ln_f.bias"
    tensor, metadata, field = tensors[name], {}, name
    if kind == "name":
        tensors["another"] = tensor.clone()
        field = "another"
    elif kind == "shape":
        tensors[name] = tensor[:-1].clone()
    elif kind == "dtype":
        tensors[name] = tensor.double()
    elif kind == "finiteness":
        tensors[name] = tensor.index_fill(0, torch.tensor([3]), float("nan"))
    else:
        wrong = {"hintwise.canary": json.dumps({"prompts": ["x"], "actions": [["a", "b"]], "log_probs": [[-9, -0.1]]})}
        metadata = {kind: wrong.get(kind, "0" * 64)}
        field = kind
    return tensors, metadata, field


KINDS = ["name", "shape", "dtype", "finiteness"]
KINDS += ["hintwise.canary", "hintwise.tokenizer_sha256", "hintwise.architecture", "hintwise.format"]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_wrong_is_422_and_the_old_version_serves_on(service, client, kind):
    """422 names, shapes, dtypes, digest, finiteness or canary wrong: the old version serves on, nothing half applied"""
    before = await client.weights(), await client.act([TEXT], ACTIONS, mode="greedy")
    tensors, metadata, field = damaged(await service.tensors(), kind)
    with pytest.raises(WeightsRejected) as raised:
        await client.put_weights(save(tensors, metadata=metadata), if_match=1)
    assert client.wire.response.status_code == 422
    assert field in str(raised.value)
    assert (await client.weights(), await client.act([TEXT], ACTIONS, mode="greedy")) == before


async def test_a_wrong_digest_is_422_and_the_old_version_serves_on(service, client):
    """422 ... digest ... wrong"""
    data = await client.download_weights(1)
    response = await service.put(data, content_digest=content_digest(sha256_of(data[1:])))
    assert response.status_code == 422
    assert [entry["field"] for entry in response.json()["errors"]] == ["Content-Digest"]
    assert (await client.weights()).policy_version == 1


async def test_409_when_the_version_moved(fresh, calling, noisy):
    """409 the version moved"""
    async with calling(fresh) as client:
        data = await client.download_weights(1)
        await pushed(client, fresh, noisy)
        with pytest.raises(VersionConflict, match="version 2 serves now"):
            await client.put_weights(data, if_match=1)
        assert client.wire.response.status_code == 409
        assert (await client.weights()).policy_version == 2


async def test_a_rollback_serves_a_retained_version_again(fresh, calling, noisy):
    """serves a retained version again (current becomes n; the next PUT gets the highest number ever + 1)"""
    async with calling(fresh) as client:
        first = await client.act([TEXT], ACTIONS, mode="greedy")
        await pushed(client, fresh, noisy, 2)
        assert (await client.rollback(1)).policy_version == 1
        assert json.loads(client.wire.request.content) == {"policy_version": 1}
        assert await client.act([TEXT], ACTIONS, mode="greedy") == first
        assert (await pushed(client, fresh, noisy)).policy_version == 4
