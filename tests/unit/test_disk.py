"""What waits for the disk, and what no disk has to do."""

import errno
import os

import pytest

from hintwise.disk import sync


def failing(number):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_file_system_that_flushes_no_directory_can_hold_runs(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid"):
        sync(tmp_path / "file")


def test_a_disk_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        sync(tmp_path)
