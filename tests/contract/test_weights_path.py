"""`PUT /weights` with `{"path": ...}`: which files the service reads, and which it never touches."""

import os
import socket
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import ValidationError
from safetensors.torch import save

from hintwise.digests import sha256_of
from service import weight_path
from service.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"content-type": "application/json", "if-match": '"1"'}
REFUSAL = "send the absolute path of a regular file inside a directory the operator allowed"


@pytest_asyncio.fixture(loop_scope="module")
async def allowing(start, tmp_path):
    """A service that takes files from the directory `pushes`, beside one called `secrets`."""
    for name in ("pushes", "secrets"):
        (tmp_path / name).mkdir()
    async with start(weights_path_dirs=str(tmp_path / "pushes")) as service:
        for name in ("pushes", "secrets"):
            (tmp_path / name / "policy.safetensors").write_bytes(save(await service.tensors()))
        yield service


async def push(service, path, *, if_match='"1"'):
    headers = {"if-match": if_match} if if_match else {}
    return await service.http.put("/weights", json={"path": str(path)}, headers=headers)


@asynccontextmanager
async def unharmed(service):
    """Checks that a refused push leaves no trace."""
    files = sorted(service.engine.settings.weights_dir.iterdir())
    yield
    assert sorted(service.engine.settings.weights_dir.iterdir()) == files
    assert service.engine.policy.policy_version == 1


async def refused(service, path):
    """Asserts the one refusal that every path gets which may not be read."""
    async with unharmed(service):
        response = await push(service, path)
        assert response.status_code == 422, response.text
        body = response.json()
        assert body["detail"] == "the path cannot be used"
        assert body["errors"] == [{"field": "path", "message": REFUSAL}]


async def test_a_file_in_an_allowed_directory_serves(allowing, tmp_path):
    path = tmp_path / "pushes" / "policy.safetensors"
    data = path.read_bytes()
    response = await push(allowing, path)
    assert response.status_code == 200, response.text
    assert response.json() == (await allowing.http.get("/weights")).json()
    assert (response.json()["policy_version"], response.json()["sha256"]) == (2, sha256_of(data))
    path.write_bytes(b"changed afterwards")
    assert (await allowing.http.get("/weights/2")).content == data  # the service keeps its own copy


@pytest.mark.parametrize("link", ["file", "directory", "dots"])
async def test_what_leads_to_an_allowed_file_serves(allowing, tmp_path, link):
    path = {
        "file": tmp_path / "secrets" / "link",
        "directory": tmp_path / "secrets" / "down" / "policy.safetensors",
        "dots": tmp_path / "pushes" / ".." / "pushes" / "policy.safetensors",
    }[link]
    (tmp_path / "secrets" / "link").symlink_to(tmp_path / "pushes" / "policy.safetensors")
    (tmp_path / "secrets" / "down").symlink_to(tmp_path / "pushes")
    assert (await push(allowing, path)).status_code == 200


async def test_subdirectories_and_several_directories_are_allowed(start, tmp_path):
    for name in ("a/deep", "b"):
        (tmp_path / name).mkdir(parents=True)
    async with start(weights_path_dirs=os.pathsep.join([str(tmp_path / "a"), "", str(tmp_path / "b")])) as service:
        data = save(await service.tensors())
        for version, name in enumerate(("a/deep/file", "b/file"), start=1):
            (tmp_path / name).write_bytes(data)
            assert (await push(service, tmp_path / name, if_match=f'"{version}"')).status_code == 200
        headers = {**JSON, "if-match": '"3"'}
        refusal = await service.refused("/weights", {"path": str(tmp_path)}, method="PUT", headers=headers)
        assert refusal.fields == {"path": REFUSAL}


async def test_without_an_allowed_directory_every_path_is_refused(fresh, tmp_path):
    path = fresh.engine.store.path_of(1)
    refusal = await fresh.refused("/weights", {"path": str(path)}, method="PUT", headers=JSON)
    assert "takes no weights by path" in refusal.detail
    assert "the operator allowed no directory" in refusal.fields["path"]


OUTSIDE = {
    "elsewhere": "{top}/secrets/policy.safetensors",
    "dots": "{top}/pushes/../secrets/policy.safetensors",
    "link": "{top}/pushes/link",
    "linked directory": "{top}/pushes/down/policy.safetensors",
    "not there": "{top}/secrets/nothing",
    "not there inside": "{top}/pushes/nothing",
    "through a file": "{top}/pushes/policy.safetensors/..",
    "sibling of the same beginning": "{top}/pushes-not/policy.safetensors",
    "the directory itself": "{top}/pushes",
    "a directory inside": "{top}/pushes/inner",
    "relative": "policy.safetensors",
    "home": "~/policy.safetensors",
    "empty": "",
    "device": "/dev/zero",
    "linked device": "{top}/pushes/zero",
    "process": "/proc/self/environ",
    "pipe": "{top}/pushes/pipe",
    "socket": "{top}/pushes/socket",
    "circle": "{top}/pushes/circle",
    "NUL": "{top}/pushes/policy.safetensors\0",
    "long name": "{top}/pushes/" + "x" * 300,
    "long path": "{top}/pushes/" + "x/" * 5_000,
    "URL": "file://{top}/pushes/policy.safetensors",
}


@pytest.mark.parametrize("trick", OUTSIDE)
async def test_anything_else_gets_one_and_the_same_refusal(allowing, tmp_path, trick, monkeypatch):
    pushes = tmp_path / "pushes"
    monkeypatch.chdir(pushes)
    monkeypatch.setenv("HOME", str(pushes))
    (tmp_path / "pushes-not").mkdir()
    (tmp_path / "pushes-not" / "policy.safetensors").write_bytes(b"")
    (pushes / "inner").mkdir()
    (pushes / "link").symlink_to(tmp_path / "secrets" / "policy.safetensors")
    (pushes / "down").symlink_to(tmp_path / "secrets")
    (pushes / "zero").symlink_to("/dev/zero")
    (pushes / "circle").symlink_to("circle")
    os.mkfifo(pushes / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")  # relative, since such addresses are short
        await refused(allowing, OUTSIDE[trick].format(top=tmp_path))


@pytest.mark.parametrize("body", [b'{"path": "/\xff"}', b'{"path": "/\\ud800"}'])
async def test_a_path_that_is_no_unicode_is_not_json(allowing, body):
    await allowing.refused("/weights", body, 400, method="PUT", headers=JSON)


@pytest.mark.parametrize("swapped", ["file", "directory"])
async def test_a_link_put_in_place_after_the_check_is_not_followed(allowing, tmp_path, monkeypatch, swapped):
    """Between resolving a path and opening it, what it names becomes a link to the outside."""
    inner = tmp_path / "pushes" / "inner"
    inner.mkdir()
    (inner / "policy.safetensors").write_bytes(b"harmless")
    resolve = os.path.realpath

    def resolve_then_swap(path, **options):
        resolved = resolve(path, **options)
        if resolved != str(inner / "policy.safetensors"):
            return resolved  # of the allowed directory
        if swapped == "file":
            (inner / "policy.safetensors").unlink()
            (inner / "policy.safetensors").symlink_to(tmp_path / "secrets" / "policy.safetensors")
        else:
            inner.rename(tmp_path / "pushes" / "moved")
            inner.symlink_to(tmp_path / "secrets")
        return resolved

    monkeypatch.setattr(weight_path.os.path, "realpath", resolve_then_swap)
    await refused(allowing, inner / "policy.safetensors")


async def test_a_file_that_may_not_be_read_is_like_one_that_is_not_there(allowing, tmp_path, monkeypatch):
    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(weight_path, "_open_below", denied)  # root may read anything
    await refused(allowing, tmp_path / "pushes" / "policy.safetensors")


async def test_no_descriptor_is_left_open(allowing, tmp_path, happens):
    (tmp_path / "pushes" / "inner").mkdir()
    (tmp_path / "pushes" / "inner" / "bad").write_bytes(b"not safetensors")
    before = open_in(tmp_path / "pushes")
    for name in ("inner", "nothing", "inner/nothing", "inner/bad", "policy.safetensors"):
        await push(allowing, tmp_path / "pushes" / name)
    await happens(lambda: allowing.engine.store.durable)  # the flush behind the last one holds its file
    assert open_in(tmp_path / "pushes") == before


def open_in(directory):
    """How many descriptors of this process are of the directory or what is in it."""
    opened = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that reads the list
            opened.append(descriptor.readlink())
    return sum(path.is_relative_to(directory) for path in opened)


# What is pushed by path is checked as any push


async def test_a_push_by_path_needs_if_match(allowing, tmp_path):
    path = tmp_path / "pushes" / "policy.safetensors"
    async with unharmed(allowing):
        assert (await push(allowing, path, if_match=None)).status_code == 428
        assert (await push(allowing, path, if_match='"7"')).status_code == 409


async def test_what_is_no_safetensors_file_is_refused_and_counted(allowing, tmp_path):
    (tmp_path / "pushes" / "bad").write_bytes(b"not safetensors")
    async with unharmed(allowing):
        response = await push(allowing, tmp_path / "pushes" / "bad")
        assert response.status_code == 422
        assert "safetensors" in response.json()["detail"]
        assert await allowing.metric("hintwise_rejected_swaps_total") == 1


async def test_a_file_larger_than_any_that_fits_is_413(allowing, tmp_path):
    huge = tmp_path / "pushes" / "huge"
    huge.touch()
    os.truncate(huge, 2**40)  # a hole: reading it would take minutes
    async with unharmed(allowing):
        response = await push(allowing, huge)
        assert response.status_code == 413
        assert str(allowing.engine.max_weights_bytes) in response.json()["detail"]


async def test_a_file_that_grows_while_it_is_read_is_413(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_path, "READ_BYTES", 10)
    (tmp_path / "file").write_bytes(b"x" * 20)
    with weight_path.open_allowed(str(tmp_path / "file"), [tmp_path]) as file:
        chunks = weight_path.chunks_of(file, 25)
        assert await anext(chunks) == b"x" * 10
        with (tmp_path / "file").open("ab") as more:
            more.write(b"x" * 20)
        assert await anext(chunks) == b"x" * 10
        with pytest.raises(weight_path.TooLarge, match="more than 25 bytes"):
            await anext(chunks)


@pytest.mark.parametrize("body", [{}, {"path": 7}, {"path": None}, {"path": ["/a"]}])
async def test_a_body_without_a_path_names_the_field(allowing, body):
    refusal = await allowing.refused("/weights", body, method="PUT", headers=JSON)
    assert set(refusal.fields) == {"path"}
    refusal = await allowing.refused("/weights", {"path": "/x", "sha256": "y"}, method="PUT", headers=JSON)
    assert set(refusal.fields) == {"sha256"}


async def test_a_directory_that_is_none_is_a_wrong_setting(tmp_path):
    with pytest.raises(ValidationError, match="is no directory; make it first"):
        Settings(weights_path_dirs=str(tmp_path / "nothing"))
