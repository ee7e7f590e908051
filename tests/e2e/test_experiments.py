"""A sweep, its report and a film: real runs of a few hundred steps."""

import json

import pytest
from PIL import Image

from tests.e2e.processes import ROOT, run, worker_command


def worker(*words, cwd=ROOT):
    return run(worker_command(*words), cwd=cwd)


@pytest.mark.slow
def test_an_experiment_is_run_reported_and_filmed(tmp_path):
    swept = worker("sweep", "experiments/smoke.toml", "--runs-dir", tmp_path)
    assert swept.returncode == 0, swept.stderr
    directory = tmp_path / "smoke"
    results = [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]
    assert {(each["condition"], each["seed"]) for each in results} == {
        (condition, seed) for condition in ("plain", "entropy") for seed in (1, 2)
    }
    assert all(each["evaluation"]["episodes"] == 100 for each in results)
    again = worker("sweep", "experiments/smoke.toml", "--runs-dir", tmp_path)
    assert again.returncode == 0, again.stderr
    assert len((directory / "results.jsonl").read_text().splitlines()) == len(results)  # nothing was run again

    reported = worker("report", directory)
    assert reported.returncode == 0, reported.stderr
    told = json.loads((directory / "report.json").read_text())
    assert told
    assert "plain" in (directory / "report.md").read_text()
    with Image.open(directory / "curves.png") as picture:
        assert picture.width > 300

    filmed = worker("record", directory / "plain" / "seed-1", "--max-steps", 5, "--hints")
    assert filmed.returncode == 0, filmed.stderr
    with Image.open(filmed.stdout.strip()) as film:
        assert film.n_frames >= 5


def test_every_experiment_that_is_kept_can_be_run(tmp_path):
    checked = worker("sweep", *sorted((ROOT / "experiments").glob("*.toml")), "--runs-dir", tmp_path, "--dry-run")
    assert checked.returncode == 0, checked.stderr
