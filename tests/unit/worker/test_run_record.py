import json
import subprocess

import pytest

from worker import run_record
from worker.errors import CheckpointUnusable
from worker.package_versions import package_versions
from worker.run_record import git_commit, read_metrics, read_run


def test_a_line_that_was_half_written_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"update": 1}\n{"update": 2}\n{"upd')
    assert list(read_metrics(tmp_path)) == [{"update": 1}, {"update": 2}]


def test_no_metrics_are_no_lines(tmp_path):
    assert list(read_metrics(tmp_path)) == []


@pytest.mark.parametrize("text", [None, "{"])
def test_a_directory_without_a_run_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointUnusable, match="holds no run that can be read"):
        read_run(tmp_path)


def test_numbers_that_json_cannot_hold_become_null():
    numbers = {name: run_record._json_number(value) for name, value in {"a": float("nan"), "b": 1.5, "c": 2}.items()}
    assert json.dumps(numbers, allow_nan=False) == '{"a": null, "b": 1.5, "c": 2}'


def test_outside_a_checkout_there_is_no_commit(monkeypatch):
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 128, "", "not a repository")
    )
    assert git_commit() is None
    monkeypatch.setattr(run_record.shutil, "which", lambda _: None)
    assert git_commit() is None


def test_versions_name_what_a_run_depends_on(monkeypatch):
    monkeypatch.setattr("worker.package_versions.RECORDED", ("torch", "no-such-package"))
    assert package_versions().keys() == {"python", "torch", "no-such-package"}
    assert package_versions()["no-such-package"] == "not installed"
