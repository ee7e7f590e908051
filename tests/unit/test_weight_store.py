"""The weights directory, killed at every moment."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from hintwise.errors import NotRetained
from service import weight_record
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


def add(store, data, *, flushed=True):
    part = store.new_part()
    part.write_bytes(data)
    version = store.add(part, hashlib.sha256(data).hexdigest()).policy_version
    if flushed:
        store.flush()
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
    store.flush()
    assert store.path_of(1).read_bytes() == b"1"
    add(store, b"4")
    assert names(tmp_path) == ["policy-000004.safetensors", "versions.json"]
    store.close()


def failing_sync(monkeypatch, fails):
    sync = weight_record.sync

    def maybe(path):
        if fails(path):
            raise OSError(5, "Input/output error")
        sync(path)

    monkeypatch.setattr(weight_record, "sync", maybe)


def test_a_version_is_durable_once_it_is_flushed(tmp_path):
    filled(tmp_path, 1)
    store, _ = opened(tmp_path)
    assert store.durable
    add(store, b"2", flushed=False)
    assert not store.durable
    store.flush()
    assert store.durable
    store.serve(1)
    assert not store.durable
    store.flush()
    assert store.durable
    store.close()


def test_the_flushed_record_is_replaced_only_after_all_that_the_next_one_names(tmp_path, monkeypatch):
    filled(tmp_path, 2)
    store, _ = opened(tmp_path)
    add(store, b"3", flushed=False)
    before, order = (tmp_path / "versions.json").read_bytes(), []
    sync, rename = weight_record.sync, Path.rename
    monkeypatch.setattr(weight_record, "sync", lambda path: (order.append(path.name), sync(path)))
    monkeypatch.setattr(Path, "rename", lambda path, to: (order.append(f"rename {path.name}"), rename(path, to)))
    assert (tmp_path / "versions.json").read_bytes() == before
    store.flush()
    assert order == ["policy-000003.safetensors", "versions.part", "rename versions.part", tmp_path.name]
    store.close()


@pytest.mark.parametrize("refused", ["policy-000004.safetensors", "versions.part", "the directory"])
def test_a_flush_that_fails_is_raised_and_removes_nothing(tmp_path, monkeypatch, refused):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    with monkeypatch.context() as patched:
        failing_sync(patched, lambda path: path.name == refused or (refused == "the directory" and path == tmp_path))
        with pytest.raises(OSError, match="Input/output"):
            add(store, b"4")
    assert not store.durable
    assert (store.current.policy_version, store.retained_versions) == (4, [2, 3, 4])
    assert (tmp_path / "policy-000001.safetensors").exists()  # the old record, should it come back, names it
    assert add(store, b"5") == 5
    assert store.durable
    assert names(tmp_path) == [*(f"policy-{n:06d}.safetensors" for n in (3, 4, 5)), "versions.json"]
    store.close()


def test_what_the_disk_refused_once_is_never_called_durable(tmp_path, monkeypatch):
    """The system may have dropped the bytes, and then it calls the rest of the file written."""
    filled(tmp_path, 1)
    store, _ = opened(tmp_path)
    with monkeypatch.context() as patched:
        failing_sync(patched, lambda path: path.name == "policy-000002.safetensors")
        with pytest.raises(OSError, match="Input/output"):
            add(store, b"2")
    store.flush()
    assert not store.durable
    add(store, b"3")
    assert store.durable
    store.serve(2)
    store.flush()
    assert not store.durable
    store.close()


def test_what_is_recorded_during_a_flush_is_not_durable_before_its_own(tmp_path, monkeypatch):
    filled(tmp_path, 1)
    store, _ = opened(tmp_path)
    add(store, b"2", flushed=False)
    sync = weight_record.sync

    def slow(path):
        sync(path)
        if path == tmp_path and store.current.policy_version == 2:
            add(store, b"3", flushed=False)

    with monkeypatch.context() as patched:
        patched.setattr(weight_record, "sync", slow)
        store.flush()
    assert not store.durable
    assert [path.name for path in tmp_path.glob("unflushed-*")] == ["unflushed-000002.json", "unflushed-000003.json"]
    store.flush()
    assert store.durable
    assert not [*tmp_path.glob("unflushed-*")]
    store.close()


def test_files_do_not_pile_up_while_the_disk_refuses(tmp_path, monkeypatch):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    with monkeypatch.context() as patched:
        failing_sync(patched, lambda path: path.name == "versions.part")
        for number in range(4, 20):
            with pytest.raises(OSError, match="Input/output"):
                add(store, str(number).encode())
    kept = [1, 2, 3, 17, 18, 19]
    assert [path.name for path in sorted(tmp_path.glob("policy-*"))] == [f"policy-{n:06d}.safetensors" for n in kept]
    store.close()


def test_a_record_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    before = names(tmp_path)

    def full(path, text):
        path.touch()
        raise OSError(28, "No space left on device")

    for change in (lambda: add(store, b"4"), lambda: store.serve(1)):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_text", full)
            with pytest.raises(OSError, match="No space"):
                change()
        assert (store.current.policy_version, store.retained_versions, store.durable) == (3, [1, 2, 3], True)
        assert names(tmp_path) == before
    assert add(store, b"4") == 4
    store.close()


def cut_power(directory, *damaged, content=b""):
    """What was not flushed is left in any state: here the named files, as the system leaves them."""
    for name in damaged:
        path = directory / name
        path.write_bytes(content * path.stat().st_size)


@pytest.mark.parametrize("content", [b"", b"\0"])
@pytest.mark.parametrize(
    "damaged",
    [
        ["policy-000004.safetensors"],
        ["unflushed-000004.json"],
        ["policy-000004.safetensors", "unflushed-000004.json"],
    ],
)
@pytest.mark.parametrize("max_retained", [1, 3])
def test_a_power_cut_before_the_flush_costs_the_unflushed_version_alone(tmp_path, damaged, content, max_retained):
    filled(tmp_path, 3, max_retained=max_retained)
    store, _ = opened(tmp_path, max_retained=max_retained)
    add(store, b"4", flushed=False)
    store.close()
    cut_power(tmp_path, *damaged, content=content)
    store, path = opened(tmp_path, max_retained=max_retained)
    assert path.read_bytes() == b"3"
    assert (store.current.policy_version, store.durable) == (3, True)
    assert 4 not in store.retained_versions
    store.close()
    store, _ = opened(tmp_path, max_retained=max_retained)
    assert add(store, b"5") == 5  # 4 has served, and its transitions may be stored somewhere
    store.close()


@pytest.mark.parametrize("lost", [["unflushed-000004.json"], ["policy-000004.safetensors"]])
def test_a_power_cut_that_takes_a_name_leaves_the_number_used(tmp_path, lost):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    add(store, b"4", flushed=False)
    store.close()
    for name in lost:
        (tmp_path / name).unlink()
    store, path = opened(tmp_path)
    assert path.read_bytes() == b"3"
    assert add(store, b"5") == 5
    store.close()


def test_a_kill_before_the_flush_costs_nothing(tmp_path):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    add(store, b"4", flushed=False)
    store.serve(2)
    add(store, b"5", flushed=False)
    store.serve(4)
    store.close()
    store, path = opened(tmp_path)
    assert path.read_bytes() == b"4"
    assert (store.retained_versions, store.durable) == ([3, 4, 5], True)
    assert not [*tmp_path.glob("unflushed-*")]
    assert add(store, b"6") == 6
    store.close()


def test_a_disk_that_refuses_at_the_start_keeps_nobody_from_serving(tmp_path, monkeypatch):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    add(store, b"4", flushed=False)
    store.close()
    failing_sync(monkeypatch, lambda path: True)
    store, path = opened(tmp_path)
    assert (path.read_bytes(), store.durable) == (b"4", False)
    store.close()


def test_leftovers_of_unfinished_pushes_go(tmp_path):
    filled(tmp_path, 1)
    (tmp_path / "abc.part").write_bytes(b"half")
    (tmp_path / "versions.part").write_bytes(b"{")
    store, path = opened(tmp_path)
    assert path.read_bytes() == b"1"
    assert names(tmp_path) == ["policy-000001.safetensors", "versions.json"]
    store.close()


def test_a_file_without_record_is_not_served(tmp_path):
    filled(tmp_path, 2)
    (tmp_path / "policy-000003.safetensors").write_bytes(b"killed before the record")
    store, path = opened(tmp_path)
    assert path.read_bytes() == b"2"
    assert store.retained_versions == [1, 2]
    assert add(store, b"4") == 4  # its record may have been lost after it served, so its number is used
    assert store.path_of(4).read_bytes() == b"4"
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


STEPS = ["rename", "write_text", "rename", "fsync", "write_text", "fsync", "rename", "fsync", "unlink", "unlink"]
"""Name the file, write and name the record; sync the file, write, sync and name the record, sync the directory,
drop the unflushed record and the oldest file."""
NUM_STEPS_TO_RECORD = 3
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


@pytest.mark.parametrize("moment", range(len(STEPS)))
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
    number_used = 3 if moment == 0 else 4  # from the moment on at which a file has the name
    assert add(store, b"next") == number_used + 1
    store.close()


def test_the_kill_points_reach_every_step(tmp_path, monkeypatch):
    filled(tmp_path, 3)
    store, _ = opened(tmp_path)
    with monkeypatch.context() as patched:
        done = kill_at(patched, -1)
        add(store, b"4")
    store.close()
    assert [step.__name__ for step in done] == STEPS


def test_a_killed_push_leaves_no_file_behind_for_good(tmp_path):
    filled(tmp_path, 4, max_retained=3)
    (tmp_path / "policy-000001.safetensors").write_bytes(b"killed before it was dropped")
    opened(tmp_path)[0].close()
    assert names(tmp_path) == [*(f"policy-{n:06d}.safetensors" for n in (2, 3, 4)), "versions.json"]
