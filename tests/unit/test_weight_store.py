"""The weights directory, killed at every moment."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from hintwise.errors import NotRetained
from service import weight_store
from service.weight_store import StoreUnusable, WeightStore

MODEL = {"architecture": "gpt2 2x64", "tokenizer_sha256": "t" * 64, "base_sha256": "b" * 64}


def opened(directory, **changes):
    """Returns a store and the file it would serve."""
    store = WeightStore(directory, max_retained=changes.pop("max_retained", 3))
    try:
        return store, store.open(**{**MODEL, **changes})
    except StoreUnusable:
        store.close()
        raise


def add(store, data):
    part = store.new_part()
    part.write_bytes(data)
    store.flush(part)
    version = store.add(part, hashlib.sha256(data).hexdigest()).policy_version
    store.drop_forgotten()
    return version


def filled(directory, count, **limits):
    """Fills a directory with versions 1 to `count`, whose bytes are their numbers."""
    store, _ = opened(directory, **limits)
    for number in range(1, count + 1):
        assert add(store, str(number).encode()) == number
    store.close()


def names(directory):
    return sorted(path.name for path in directory.iterdir() if path.name != "lock")


def test_a_new_directory_keeps_nothing(tmp_path):
    store, path = opened(tmp_path / "deep" / "weights")
    assert path is None
    assert store.retained_versions == []
    store.close()


def test_numbers_begin_with_1_and_rise(tmp_path):
    filled(tmp_path, 3)
    store, path = opened(tmp_path)
    assert path.read_bytes() == b"3"
    assert store.current.policy_version == 3
    assert add(store, b"4") == 4
    store.close()


def test_only_the_newest_are_kept(tmp_path):
    filled(tmp_path, 5, max_retained=2)
    assert names(tmp_path) == ["policy-000004.safetensors", "policy-000005.safetensors", "versions.json"]
    store, _ = opened(tmp_path)
    assert store.retained_versions == [4, 5]
    with pytest.raises(NotRetained, match=r"version 3 is not kept; kept are \[4, 5\]"):
        store.path_of(3)
    assert store.path_of(4).read_bytes() == b"4"
    store.close()


def test_an_older_version_serves_again_and_numbers_go_on(tmp_path):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    assert store.serve(1).policy_version == 1
    assert store.current.policy_version == 1
    assert store.retained_versions == [1, 2, 3]
    with pytest.raises(NotRetained, match=r"kept are \[1, 2, 3\]"):
        store.serve(4)
    store.close()
    store, path = opened(tmp_path)
    assert path.read_bytes() == b"1"
    assert add(store, b"4") == 4
    assert store.retained_versions == [2, 3, 4]
    store.close()


def test_what_serves_after_a_rollback_is_kept_until_another_version_does(tmp_path):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path, max_retained=1)
    store.serve(1)
    store.drop_forgotten()
    assert store.path_of(1).read_bytes() == b"1"
    add(store, b"4")
    assert names(tmp_path) == ["policy-000004.safetensors", "versions.json"]
    store.close()


def failing_sync(monkeypatch, fails):
    sync = weight_store._sync

    def maybe(path):
        if fails(path):
            raise OSError(5, "Input/output error")
        sync(path)

    monkeypatch.setattr(weight_store, "_sync", maybe)


def test_a_record_that_may_not_survive_is_told_and_removes_nothing(tmp_path, monkeypatch):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    assert store.durable
    with monkeypatch.context() as patched:
        failing_sync(patched, lambda path: path == tmp_path)
        assert add(store, b"4") == 4
    assert not store.durable
    assert (store.current.policy_version, store.retained_versions) == (4, [2, 3, 4])
    assert (tmp_path / "policy-000001.safetensors").exists()  # the old record, should it come back, names it
    assert add(store, b"5") == 5
    assert store.durable
    assert names(tmp_path) == [*(f"policy-{n:06d}.safetensors" for n in (3, 4, 5)), "versions.json"]
    store.close()


def test_a_record_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    before = names(tmp_path)
    for change in (lambda: add(store, b"4"), lambda: store.serve(1)):
        with monkeypatch.context() as patched:
            failing_sync(patched, lambda path: path.name == "versions.part")
            with pytest.raises(OSError, match="Input/output"):
                change()
        assert (store.current.policy_version, store.retained_versions, store.durable) == (3, [1, 2, 3], True)
        assert names(tmp_path) == before
    assert add(store, b"4") == 4
    store.close()


def test_leftovers_of_unfinished_pushes_go(tmp_path):
    filled(tmp_path, 1)
    (tmp_path / "abc.part").write_bytes(b"half")
    (tmp_path / "versions.part").write_bytes(b"{")
    store, path = opened(tmp_path)
    assert path.read_bytes() == b"1"
    assert names(tmp_path) == ["policy-000001.safetensors", "versions.json"]
    store.close()


def test_a_file_without_record_is_ignored(tmp_path):
    filled(tmp_path, 2)
    (tmp_path / "policy-000003.safetensors").write_bytes(b"killed before the record")
    store, path = opened(tmp_path)
    assert path.read_bytes() == b"2"
    assert store.retained_versions == [1, 2]
    assert add(store, b"3") == 3  # it never served, so its number is free
    assert store.path_of(3).read_bytes() == b"3"
    store.close()


def test_a_number_that_served_is_never_used_again(tmp_path):
    filled(tmp_path, 3)
    (tmp_path / "policy-000003.safetensors").write_bytes(b"damaged")
    store, path = opened(tmp_path)
    assert path.read_bytes() == b"2"
    assert store.current.policy_version == 2
    assert add(store, b"4") == 4
    store.close()
    store, path = opened(tmp_path)
    assert path.read_bytes() == b"4"
    store.close()


def test_the_fallback_is_remembered(tmp_path):
    filled(tmp_path, 2)
    newest = tmp_path / "policy-000002.safetensors"
    newest.write_bytes(b"damaged")
    opened(tmp_path)[0].close()
    assert json.loads((tmp_path / "versions.json").read_text())["current"] == 1


def test_no_whole_version_is_refused(tmp_path):
    filled(tmp_path, 2)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"damaged")
    with pytest.raises(StoreUnusable, match=r"no version.*is whole"):
        opened(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"current": "x"}'])
def test_a_damaged_record_is_refused(tmp_path, text):
    filled(tmp_path, 1)
    (tmp_path / "versions.json").write_text(text)
    with pytest.raises(StoreUnusable, match=r"versions.json is damaged: .*--weights-dir"):
        opened(tmp_path)


@pytest.mark.parametrize("member", MODEL)
def test_another_model_is_refused(tmp_path, member):
    filled(tmp_path, 1)
    with pytest.raises(StoreUnusable, match=f"another model.*{member} differs"):
        opened(tmp_path, **{member: "another"})


def test_two_stores_never_share_a_directory(tmp_path):
    store, _ = opened(tmp_path)
    with pytest.raises(StoreUnusable, match="another service uses"):
        WeightStore(tmp_path, max_retained=3)
    store.close()
    opened(tmp_path)[0].close()


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match="cannot be written"):
        WeightStore(tmp_path / "file", max_retained=3)


NUM_STEPS = 7
NUM_STEPS_TO_RECORD = 5
"""Once so many steps of a push are done, its version is recorded."""


class Killed(BaseException):
    """The process ended here."""


def kill_at(monkeypatch, moment):
    """Makes the given step on the disk, counted from 0, the last that never happens; returns the count so far."""
    done = []

    def counted(step):
        def take(*args, **kwargs):
            if len(done) == moment:
                raise Killed
            done.append(step)
            return step(*args, **kwargs)

        return take

    for owner, name in [(os, "fsync"), (Path, "rename"), (Path, "unlink"), (Path, "write_text")]:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return done


@pytest.mark.parametrize("moment", range(NUM_STEPS))
def test_killed_at_any_moment_of_a_push_the_store_serves_a_whole_version(tmp_path, monkeypatch, moment):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    with monkeypatch.context() as patched:
        done = kill_at(patched, moment)
        with pytest.raises(Killed):
            add(store, b"4")
    store.close()  # a killed process loses its lock
    store, path = opened(tmp_path)
    served = store.current.policy_version
    assert served == (3 if len(done) < NUM_STEPS_TO_RECORD else 4)
    assert path.read_bytes() == str(served).encode()
    assert all(store.path_of(version).exists() for version in store.retained_versions)
    assert add(store, b"next") == served + 1
    store.close()


def test_the_kill_points_reach_every_step(tmp_path, monkeypatch):
    """Sync the file, name it, write, sync and name the record, sync the directory, drop the oldest."""
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    with monkeypatch.context() as patched:
        done = kill_at(patched, -1)
        add(store, b"4")
    store.close()
    assert [step.__name__ for step in done] == ["fsync", "rename", "write_text", "fsync", "rename", "fsync", "unlink"]
    assert len(done) == NUM_STEPS


def test_a_killed_push_leaves_no_file_behind_for_good(tmp_path):
    filled(tmp_path, 4, max_retained=3)
    (tmp_path / "policy-000001.safetensors").write_bytes(b"killed before it was dropped")
    opened(tmp_path)[0].close()
    assert names(tmp_path) == [*(f"policy-{n:06d}.safetensors" for n in (2, 3, 4)), "versions.json"]
