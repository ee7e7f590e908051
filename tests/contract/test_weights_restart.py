"""A restart serves the last whole version of its weights directory, or refuses to start."""

import errno
import json
import shutil

import pytest
import torch

from hintwise.digests import sha256_of
from hintwise.errors import HintwiseError
from hintwise.model_names import EMBEDDED_DIR
from service.engine import Engine
from service.settings import Settings
from service.weight_store import StoreUnusable, WeightStore
from tests.contract.conftest import TEXTS, answers

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
