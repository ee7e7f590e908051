"""Reports about runs whose files a test wrote."""

import json

import numpy as np
import pytest

from worker.errors import NothingToReport, UsageError
from worker.experiment_config import ReportConfig
from worker.reporting.groups import across_environments, curve_of, group_runs, warnings_about
from worker.reporting.interquartile import interval
from worker.reporting.report import report
from worker.reporting.runs import find_runs


def leave_run(path, seed, mean_return, *, env_id="CartPole-v1", success=0.5, status="finished", episodes=(), **more):
    """Leaves a run as `train` does; `episodes` are (step, return)."""
    path.mkdir(parents=True)
    record = {
        "status": status,
        "config": {"env_id": env_id, "total_steps": 1000},
        "seed": seed,
        "steps": 1000,
        "wall_time_s": 60.0,
        "git_commit": "0123456789abcdef",
        "packages": {"python": "3"},
        "evaluation": {"mean_return": mean_return, "success_rate": success, "episodes": 100, "mode": "greedy"},
    }
    (path / "run.json").write_text(json.dumps(record | more))
    # The first row as older runs have them: they do not say whether hints were shown.
    rows = [[step, value, 1] if i == 0 else [step, value, 1, False] for i, (step, value) in enumerate(episodes)]
    lines = [{"update": 1, "episodes": rows}]
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def leave_experiment(directory, returns, **more):
    """Leaves runs of some conditions: {condition: [return of seed 1, of seed 2, ...]}."""
    for condition, values in returns.items():
        for seed, value in enumerate(values, start=1):
            leave_run(directory / condition / f"seed-{seed}", seed, value, **more)
    return directory


def groups_of(*directories):
    return group_runs(find_runs(directories)[0])


def test_scores_of_each_condition(tmp_path):
    one, two = groups_of(leave_experiment(tmp_path / "e", {"a": [10, 0, 20, 30, 1000], "b": [1, 3]}))
    assert (one.condition, one.environment, one.seeds) == ("a", "CartPole-v1", [1, 2, 3, 4, 5])
    score = one.scores["mean_return"]
    assert (score.values, score.iqm, score.mean) == ([10, 0, 20, 30, 1000], 20, 212)
    assert score.std == pytest.approx(np.std([10, 0, 20, 30, 1000], ddof=1))
    assert (score.low, score.high) == interval([np.array([10.0, 0, 20, 30, 1000])])
    assert (two.scores["mean_return"].iqm, two.scores["success_rate"].iqm) == (2, 0.5)
    assert (two.steps, two.wall_time_s) == ([1000, 1000], 60)


def test_one_seed_has_no_interval(tmp_path, capsys):
    directory = leave_experiment(tmp_path / "e", {"a": [10]})
    report(ReportConfig(run_dirs=[directory]))
    assert "| a | CartPole-v1 | 1 | 10.0 | one seed: none | 10.0 | 0.500 | one seed: none |" in capsys.readouterr().out
    assert "a in CartPole-v1 has one seed: there is no interval" in (directory / "report.md").read_text()
    [condition] = json.loads((directory / "report.json").read_text())["conditions"]
    assert condition["scores"]["mean_return"]["low"] is None


def test_a_spread_has_the_digits_of_its_mean(tmp_path, capsys):
    report(ReportConfig(run_dirs=[leave_experiment(tmp_path / "e", {"a": [499, 501], "b": [0.25, 0.75]})]))
    told = capsys.readouterr().out
    assert "| 500.0 ± 1.4 |" in told
    assert "| 0.500 ± 0.354 |" in told


def test_guided_runs_show_what_they_do_with_hints_beside_what_they_do_without(tmp_path):
    hinted = {"mean_return": 0.9, "success_rate": 1.0, "episodes": 100, "mode": "greedy"}
    directory = leave_experiment(tmp_path / "e", {"guided": [0.5]}, evaluation_with_hints=hinted)
    leave_experiment(directory, {"plain": [0.25]})
    report(ReportConfig(run_dirs=[directory]))
    told = (directory / "report.md").read_text()
    assert "| condition | seed | mean return | success rate | return with hints | success with hints |" in told
    assert "| guided | 1 | 0.500 | 0.500 | 0.900 | 1.000 |" in told
    assert "| plain | 1 | 0.250 | 0.500 | - | - |" in told
    runs = json.loads((directory / "report.json").read_text())["runs"]
    assert [run["evaluation_with_hints"] for run in runs] == [hinted, None]


def test_an_environment_without_a_threshold_has_no_success_rate(tmp_path):
    [group] = groups_of(leave_experiment(tmp_path / "e", {"a": [1, 2]}, success=None))
    assert group.scores["success_rate"] is None


def test_runs_that_are_missing_or_unfinished_are_named(tmp_path, capsys):
    directory = leave_experiment(tmp_path / "e", {"a": [1, 2]})
    stopped = {"status": "stopped", "reason": "stopped by SIGINT", "steps": 512}
    leave_run(directory / "b" / "seed-1", 1, None, **stopped)
    (directory / "b" / "seed-3").mkdir()
    (directory / "b" / "seed-3" / "run.json").write_text("{")
    (directory / "experiment.json").write_text('{"conditions": {"a": {}, "b": {}}, "seeds": [1, 2]}')
    report(ReportConfig(run_dirs=[directory]))
    said = capsys.readouterr().err
    assert f"left out: {directory}/b/seed-1: unfinished: stopped after 512 of 1,000 steps (stopped by SIGINT)" in said
    assert f"left out: {directory}/b/seed-2: missing: it was never begun" in said
    assert f"left out: {directory}/b/seed-3: {directory}/b/seed-3 holds no run that can be read" in said
    text = (directory / "report.md").read_text()
    assert "3 of 5 runs are left out; they are named below." in text
    assert f"`{directory}/b/seed-2`" in text
    data = json.loads((directory / "report.json").read_text())
    assert len(data["lacking"]) == 3
    assert [run["path"] for run in data["runs"]] == [f"{directory}/a/seed-1", f"{directory}/a/seed-2"]


def test_no_finished_run_is_no_report(tmp_path):
    directory = leave_experiment(tmp_path / "e", {"a": [1]}, status="running")
    told = r"none of 1 runs has finished: .*seed-1: unfinished: running after 1,000"
    with pytest.raises(NothingToReport, match=told):
        find_runs([directory])


def test_a_directory_of_something_else_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds neither a run nor an experiment"):
        find_runs([tmp_path])
    (tmp_path / "experiment.json").write_text('{"seeds": [1]}')
    with pytest.raises(UsageError, match=r"experiment\.json is no plan of an experiment"):
        find_runs([tmp_path])


def test_single_runs_are_grouped_by_what_their_seeds_share(tmp_path):
    for seed in (1, 2):
        leave_run(tmp_path / f"CartPole-v1-ppo-seed{seed}", seed, 10)
        leave_run(tmp_path / "lone" / f"seed-{seed}", seed, 10)
    runs = [tmp_path / f"CartPole-v1-ppo-seed{seed}" for seed in (2, 1)]
    runs += [tmp_path / "lone" / f"seed-{seed}" for seed in (1, 2)]
    groups = groups_of(*runs, runs[0])  # one is named twice
    assert [(group.condition, group.seeds) for group in groups] == [("CartPole-v1-ppo", [1, 2]), ("lone", [1, 2])]


def test_conditions_of_several_experiments_bear_their_names(tmp_path):
    one, two = (leave_experiment(tmp_path / name, {"a": [1, 2]}) for name in ("one", "two"))
    assert [group.condition for group in groups_of(one, two)] == ["one/a", "two/a"]


def test_across_environments_success_rates_are_resampled_by_environment(tmp_path):
    one = leave_experiment(tmp_path / "one", {"a": [100, 200], "b": [1, 2]}, success=0.0)
    two = leave_experiment(tmp_path / "two", {"a": [1, 2]}, success=1.0, env_id="FrozenLake-v1")
    [group] = across_environments(find_runs([one, two])[0])
    assert (group.condition, group.environment, group.seeds) == ("a", "all", [1, 2])
    assert group.scores["mean_return"] is None
    score = group.scores["success_rate"]
    assert (score.iqm, score.low, score.high) == (0.5, 0.5, 0.5)  # pooled, it would be 0 to 1


def test_what_makes_runs_hard_to_compare_is_said(tmp_path):
    directory = leave_experiment(tmp_path / "e", {"a": [1, 2]})
    leave_run(directory / "a" / "seed-3", 3, 1, steps=900, git_commit="other", packages={"python": "4"})
    drawn = {"mean_return": 1, "success_rate": 0.5, "episodes": 100, "mode": "sample"}
    leave_run(tmp_path / "a-seed3", 3, 1, evaluation=drawn)
    runs, _ = find_runs([directory, tmp_path / "a-seed3"])
    told = " ".join(warnings_about(runs, group_runs(runs)))
    assert "a in CartPole-v1 were trained for different numbers of steps: [900, 1000]" in told
    assert "more than one run of seed 3" in told
    assert "2 different commits" in told
    assert "2 different package versions" in told
    assert "judged by different ways to choose actions: greedy, sample" in told
    same, _ = find_runs([leave_experiment(tmp_path / "f", {"a": [1, 2]})])
    assert warnings_about(same, group_runs(same)) == []


def test_a_learning_curve_by_hand(tmp_path):
    """Three runs: at each point the mean of what each run's last 20 episodes came to."""
    leave_run(tmp_path / "a-seed1", 1, 0, episodes=[(100, 1), (300, 3)])  # 1, then 2
    leave_run(tmp_path / "a-seed2", 2, 0, episodes=[(200, 10)])
    leave_run(tmp_path / "a-seed3", 3, 0, episodes=[(50, 100), (150, 0), (1000, 200)])  # 50, then 100
    runs, _ = find_runs([tmp_path / f"a-seed{seed}" for seed in (1, 2, 3)])
    curve = curve_of(runs)
    assert (curve.steps[0], curve.steps[-1], len(curve.steps)) == (200, 1000, 100)
    assert curve.iqm[0] == pytest.approx((1 + 10 + 50) / 3)
    assert curve.iqm[50] == pytest.approx((2 + 10 + 50) / 3)
    assert curve.iqm[-1] == pytest.approx((2 + 10 + 100) / 3)
    assert all(low <= middle <= high for low, middle, high in zip(curve.low, curve.iqm, curve.high, strict=True))
    assert curve.low[0] >= 1
    assert curve.high[0] <= 50


def test_a_curve_of_one_run_has_no_band(tmp_path):
    leave_run(tmp_path / "a-seed1", 1, 0, episodes=[(100, 1), (300, 3)])
    curve = curve_of(find_runs([tmp_path / "a-seed1"])[0])
    assert (curve.low, curve.high) == (None, None)


def test_without_an_episode_there_is_no_curve(tmp_path, capsys):
    leave_run(tmp_path / "a-seed1", 1, 5.0)
    report(ReportConfig(run_dirs=[tmp_path / "a-seed1"], out=tmp_path / "out"))
    assert not (tmp_path / "out" / "curves.png").exists()
    assert "curves.png" not in (tmp_path / "out" / "report.md").read_text() + capsys.readouterr().out


def test_the_picture_has_a_panel_for_each_environment(tmp_path, capsys):
    from PIL import Image

    one = leave_experiment(tmp_path / "one", {"a|b": [1, 2]}, episodes=[(100, 1), (300, 3)])
    two = leave_experiment(tmp_path / "two", {"a": [1]}, episodes=[(100, 1), (300, 3)], env_id="some.module:Env-v0")
    heights = []
    for run_dirs in ([one], [one, two]):
        report(ReportConfig(run_dirs=run_dirs, out=tmp_path / "out"))
        with Image.open(tmp_path / "out" / "curves.png") as picture:
            heights.append(picture.height)
    assert heights[1] == 2 * heights[0]
    assert "one/a\\|b" in capsys.readouterr().out  # a bar would end the cell
