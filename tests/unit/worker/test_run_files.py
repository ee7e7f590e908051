"""What of a run's files survives a power cut."""

import os
from pathlib import Path

from worker.run_files import last_step, write_whole


def test_a_file_is_on_the_disk_before_it_has_its_name_and_so_is_its_name_before_the_end(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, Path.replace

    def noted_fsync(descriptor):
        done.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def noted_replace(path, target):
        done.append(("replace", path.name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_whole(tmp_path / "run.json", "{}")
    part = ".run.json.part"
    assert done == [("fsync", part), ("replace", part), ("fsync", tmp_path.name)]
    assert (tmp_path / "run.json").read_text() == "{}"


def test_a_run_without_a_whole_checkpoint_has_no_last_step(tmp_path):
    assert last_step(tmp_path) is None
    (tmp_path / "checkpoints" / ".writing-step-000000064").mkdir(parents=True)
    assert last_step(tmp_path) is None
    (tmp_path / "checkpoints" / "step-000000000").mkdir()
    assert last_step(tmp_path) == 0
