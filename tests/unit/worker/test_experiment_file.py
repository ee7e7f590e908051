"""What an experiment file may say, and what is said of one that is wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from worker.command_line import read_config
from worker.config import TrainConfig
from worker.errors import RunDirTaken, UsageError
from worker.experiments.experiment import flags_of, read_experiment
from worker.experiments.results import check_same_settings
from worker.run_files import RUN

ROOT = Path(__file__).parents[3]
WHOLE = """
env_id = "FrozenLake-v1"
env_kwargs = {is_slippery = false, map_name = "8x8"}
total_steps = 2_048
seeds = [3, 1]

[conditions.plain]

[conditions.entropy]
ent_coef = 0.01
env_kwargs = {is_slippery = true}
"""


@pytest.fixture
def read(tmp_path):
    def read(text, name="test"):
        file = tmp_path / f"{name}.toml"
        file.write_text(text)
        return read_experiment(file, tmp_path / "runs")

    return read


def test_each_condition_is_run_on_each_seed(read, tmp_path):
    runs = read(WHOLE).runs
    assert [(run.condition, run.seed) for run in runs] == [("plain", 3), ("entropy", 3), ("plain", 1), ("entropy", 1)]
    assert runs[3].run_dir == tmp_path / "runs" / "test" / "entropy" / "seed-1"
    plain, entropy = runs[2].config, runs[3].config
    assert (plain.seed, plain.total_steps, plain.ent_coef) == (1, 2048, 0)
    assert plain.env_kwargs == {"is_slippery": False, "map_name": "8x8"}
    assert (entropy.ent_coef, entropy.env_kwargs) == (0.01, {"is_slippery": True})


def test_a_file_without_conditions_has_one(read):
    assert [run.condition for run in read('env_id = "X"\nseeds = [1]').runs] == ["default"]


def test_the_flags_say_what_the_file_says(read):
    run = read(WHOLE).runs[3]
    assert read_config(TrainConfig, run.flags, prog="train", environ={}) == run.config


def test_a_bool_is_a_flag_of_its_own():
    assert list(flags_of({"resume": True, "x_y": False})) == ["--resume", "--no-x-y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('env_id = "X"\ntotal_stepz = 5\nseeds = [1]', "unknown setting total_stepz; did you mean total_steps?"),
        ('env_id = "X"\nseed = [1]', "seeds must be a list of integers"),
        ('env_id = "X"\nseeds = [1]\nseed = 2', "seed is decided by the sweep: list `seeds` instead"),
        ('env_id = "X"\nseeds = []', "seeds must be a list of integers"),
        ('env_id = "X"\nseeds = [true]', "seeds must be a list of integers"),
        ('env_id = "X"\nseeds = [1, 2, 1]', "seed 1 is listed twice"),
        ('env_id = "X"\nseeds = [500000]', r"condition default: --seed 500000: .* less than 500000"),
        ("seeds = [1]", "condition default: --env-id is missing"),
        ('env_id = "X"\nseeds = [1]\nservice_url = "http://h:1"', "each run starts a service of its own"),
        ('env_id = "X"\nseeds = [1]\nrun_dir = "d"', "each run gets a directory of its own"),
        ('env_id = "X"\nseeds = [1]\nresume = true', "what was stopped goes on"),
        ('env_id = "X"\nseeds = [1]\n[condition.a]', "unknown setting condition; did you mean conditions?"),
        ('env_id = "X"\nseeds = [1]\nconditions = 3', "conditions must be tables"),
        ('env_id = "X"\nseeds = [1]\n[conditions]\na = 3', "condition a: expected a table of settings"),
        ('env_id = "X"\nseeds = [1]\n[conditions."../a"]', r"condition \.\./a names a directory"),
        ('env_id = "X"\nseeds = [1]\n[conditions.a]\nent_cof = 1', "condition a: unknown setting ent_cof; did you"),
        ('env_id = "X"\nseeds = [1]\n[conditions.a]\nnum_envs = 0', "condition a: --num-envs 0: input should be"),
        ('env_id = "X"\nseeds = [1]\ntotal_steps = 5', "condition default: total_steps 5 is less than one update"),
        ("env_id = ", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(read, text, message):
    with pytest.raises(UsageError, match=message) as raised:
        read(text)
    assert "test.toml" in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml: No such file"):
        read_experiment(tmp_path / "none.toml", tmp_path)


def test_the_name_of_the_file_names_a_directory(read):
    with pytest.raises(UsageError, match="the file's name names a directory"):
        read(WHOLE, "a b")


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda file: file.stem)
def test_the_experiments_of_the_repository_can_be_run(file, tmp_path):
    assert read_experiment(file, tmp_path).runs


def leave_run(run, **changes):
    config = run.config.model_copy(update=changes)
    run.run_dir.mkdir(parents=True)
    (run.run_dir / RUN).write_text(f'{{"config": {config.model_dump_json()}}}')


@pytest.mark.parametrize("changes", [{}, {"device": "cuda", "num_threads": 2, "env_timeout_s": 10.0}])
def test_a_run_of_the_same_settings_is_taken_up(read, changes):
    run = read(WHOLE).runs[0]
    check_same_settings(run)
    leave_run(run, **changes)
    check_same_settings(run)


def test_a_run_from_before_there_was_a_setting_had_its_default(read):
    run = read(WHOLE).runs[0]
    leave_run(run)
    recorded = json.loads((run.run_dir / RUN).read_text())
    del recorded["config"]["eval_mode"]
    (run.run_dir / RUN).write_text(json.dumps(recorded))
    check_same_settings(run)
    with pytest.raises(RunDirTaken, match="eval_mode"):
        check_same_settings(replace(run, config=run.config.model_copy(update={"eval_mode": "sample"})))


def test_a_setting_that_was_not_there_had_the_default_of_the_run_s_algorithm():
    assert TrainConfig.recorded({"algorithm": "a2c"})["num_envs"] == TrainConfig(env_id="a", algorithm="a2c").num_envs
    assert TrainConfig.recorded({"algorithm": "a2c", "num_envs": 3})["num_envs"] == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"total_steps": 4096}, "total_steps (was 4096, now 2048)"),
        ({"gamma": 0.5}, "gamma"),
        ({"checkpoint_every": 3}, "checkpoint_every"),  # it decides what is chosen among
        ({"keep_checkpoints": 3}, "keep_checkpoints"),  # so does that
        ({"eval_episodes": 5}, "eval_episodes"),
        ({"eval_mode": "sample"}, "eval_mode"),
    ],
)
def test_a_run_of_other_settings_is_not_mixed_with_these(read, changes, named):
    run = read(WHOLE).runs[0]
    leave_run(run, **changes)
    with pytest.raises(RunDirTaken) as raised:
        check_same_settings(run)
    assert named in str(raised.value)


def test_a_run_that_cannot_be_read_is_named(read):
    run = read(WHOLE).runs[0]
    run.run_dir.mkdir(parents=True)
    (run.run_dir / RUN).write_text("{")
    with pytest.raises(RunDirTaken, match=r"seed-3/run\.json cannot be read"):
        check_same_settings(run)
