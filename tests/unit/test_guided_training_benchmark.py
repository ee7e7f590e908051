"""What the benchmark of guided training makes of runs whose files a test wrote, and its agent that only obeys."""

import json
import math
from contextlib import closing

import pytest

from benchmarks import guided_training, results_file
from benchmarks.guided_runs import WINDOW, read_sweep
from benchmarks.obey_only import FIRST_SEED, obey_only
from worker.hint_words import named_action
from worker.text_env import TextEnv

LEVEL = "MiniGrid-DoorKey-5x5-v0"
STEPS = 1_000


def evaluation(env_id, mean_return, success):
    world = {"env_id": env_id, "env_kwargs": {}, "memory": 0}
    judged = {"episodes": 100, "seed": 900_000, "mode": "sample"}
    return {"mean_return": mean_return, "success_rate": success, **judged, **world}


def leave_sweep(directory, runs, *, env_id=LEVEL, seeds=(1, 2)):
    """Leaves what `sweep` does; runs are {condition: {seed: (mean return, returns of training episodes)}}.

    The episodes of a run end at equal distances, the last at its end; every other one of a guided run shows hints.
    """
    directory.mkdir()
    plan = {"experiment": directory.name, "seeds": list(seeds), "conditions": {name: {} for name in runs}}
    (directory / "experiment.json").write_text(json.dumps(plan))
    lines = []
    for condition, by_seed in runs.items():
        for seed, (mean_return, returns) in by_seed.items():
            run_dir = directory / condition / f"seed-{seed}"
            run_dir.mkdir(parents=True)
            guided = condition != "unguided"
            ended = [
                [STEPS * (k + 1) // len(returns), value, 1, guided and k % 2 == 0] for k, value in enumerate(returns)
            ]
            updates = [{"episodes": ended[:3]}, {"episodes": ended[3:]}]
            (run_dir / "metrics.jsonl").write_text("".join(f"{json.dumps(update)}\n" for update in updates))
            lines.append(
                {
                    "condition": condition,
                    "seed": seed,
                    "path": "elsewhere",  # as where the directory was moved
                    "evaluation": evaluation(env_id, mean_return, mean_return),
                    "evaluation_with_hints": evaluation(env_id, 0.9, 1.0) if guided else None,
                    "steps": STEPS,
                    "training_s": 10.0 * seed,
                    "wall_time_s": 20.0,
                    "git_commit": "0123",
                }
            )
    (directory / "results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in reversed(lines)))
    return directory


ALWAYS, NEVER = [0.5] * 100, [0.0] * 100
LATE = [0.0] * 50 + [0.5] * 50


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    """Returns what the command measures in some sweeps."""
    monkeypatch.setattr(results_file, "RESULTS", tmp_path / "results")

    def measure(*sweeps, flags=("--no-obey",)):
        monkeypatch.setattr(
            "sys.argv", ["guided_training", *map(str, sweeps), "--pictures", str(tmp_path / "images"), *flags]
        )
        guided_training.main()
        return json.loads(capsys.readouterr().out)["experiments"]

    return measure


def test_steps_to_the_bar_need_a_full_window(tmp_path):
    runs = {"unguided": {1: (0.0, ALWAYS), 2: (0.0, NEVER)}, "guided": {1: (0.0, LATE), 2: (0.0, [0.5] * (WINDOW - 1))}}
    found = {(run.condition, run.seed): run.steps_to_bar for run in read_sweep(leave_sweep(tmp_path / "e", runs)).runs}
    assert found == {
        ("unguided", 1): 10 * WINDOW,
        ("unguided", 2): None,
        ("guided", 1): 680,  # 18 of the last 20
        ("guided", 2): None,
    }


def test_success_is_what_was_paid_in_a_level_and_the_threshold_elsewhere(tmp_path):
    few = {"unguided": {1: (0.0, [0.0, 0.1, 1.0, 474.0, 475.0])}}
    [level] = read_sweep(leave_sweep(tmp_path / "level", few)).runs
    [pole] = read_sweep(leave_sweep(tmp_path / "pole", few, env_id="CartPole-v1")).runs
    assert level.succeeded.tolist() == [0, 1, 1, 1, 1]
    assert pole.succeeded.tolist() == [0, 0, 0, 0, 1]


def test_success_over_the_whole_training_is_the_area_under_the_curve(tmp_path):
    """One episode succeeds at 250, one fails at 500, two succeed at 750 and 1,000."""
    few = {"unguided": {1: (0.0, [0.5, 0.0, 0.5, 0.5])}}
    [run] = read_sweep(leave_sweep(tmp_path / "e", few)).runs
    by_hand = (0 * 250 + 1 * 250 + 1 / 2 * 250 + 2 / 3 * 250) / 1_000
    assert run.curve[-1] == 3 / 4
    assert run.curve.mean() == pytest.approx(by_hand, abs=0.005)


def test_episodes_that_showed_no_hints_are_told_apart(tmp_path):
    """Every other episode shows hints, and those alone succeed."""
    few = {"guided": {1: (0.0, [0.5, 0.0] * 100)}, "dies": {1: (0.0, [0.0, 0.5] * 100)}}
    helped, alone = read_sweep(leave_sweep(tmp_path / "e", few)).runs
    assert (helped.curve[-1], helped.alone.curve[-1], helped.alone.steps_to_bar) == (0.5, 0.0, None)
    assert (alone.curve[-1], alone.alone.curve[-1]) == (0.5, 1.0)
    assert (alone.steps_to_bar, alone.alone.steps_to_bar) == (None, 200)
    assert alone.alone.curve.mean() == pytest.approx(0.99, abs=0.01)


def test_a_condition_is_summed_up_and_stands_beside_the_unguided_runs(tmp_path, measured):
    runs = {
        "unguided": {1: (0.5, LATE), 2: (0.7, LATE)},
        "guided": {1: (0.9, ALWAYS), 2: (0.8, ALWAYS)},
        "wrong-100": {1: (0.3, NEVER), 2: (0.7, NEVER)},
    }
    [experiment] = measured(leave_sweep(tmp_path / "guidance-e", runs))
    unguided, guided, wrong = experiment["conditions"]
    assert (experiment["env_id"], experiment["obey_only"], experiment["missing"]) == (LEVEL, None, [])
    assert unguided["beside_unguided"] is None
    assert unguided["success_rate_with_hints"] is None
    assert guided["success_rate"] == {"median": pytest.approx(0.85), "mean": pytest.approx(0.85)}
    assert guided["success_rate_with_hints"] == {"median": 1.0, "mean": 1.0}
    assert guided["training_s"] == {"median": 15.0, "mean": 15.0}
    assert guided["steps_to_bar"] == {"by_seed": {"1": 200, "2": 200}, "reached": 2, "median": 200}
    assert guided["steps_to_bar_alone"] == {"by_seed": {"1": 400, "2": 400}, "reached": 2, "median": 400}
    beside = guided["beside_unguided"]
    assert beside["steps_ratio"] == pytest.approx(200 / 680)
    assert beside["steps_ratio_alone"] == pytest.approx(400 / 680)
    assert beside["return_differences"] == {"1": pytest.approx(0.4), "2": pytest.approx(0.1)}
    # mean 0.25, standard error 0.15; t of one degree of freedom at 95% is tan(0.45 pi)
    assert beside["lower_bound"] == pytest.approx(0.25 - 0.15 * math.tan(0.45 * math.pi))
    assert beside["share_of_maximum"] == beside["lower_bound"]
    assert wrong["beside_unguided"]["mean_difference"] == pytest.approx(-0.1)
    assert wrong["beside_unguided"]["steps_ratio"] is None
    assert wrong["steps_to_bar"]["median"] is None
    assert [run["git_commit"] for run in experiment["runs"]] == ["0123"] * 6
    assert {(run["episodes"], run["mode"]) for run in experiment["runs"]} == {(100, "sample")}
    assert (tmp_path / "images" / "guided-e.png").stat().st_size > 10_000


def test_a_share_is_one_of_the_highest_return(tmp_path, measured):
    runs = {"unguided": {1: (400.0, ALWAYS), 2: (400.0, ALWAYS)}, "dies": {1: (300.0, ALWAYS), 2: (300.0, ALWAYS)}}
    [experiment] = measured(leave_sweep(tmp_path / "e", runs, env_id="CartPole-v1"))
    beside = experiment["conditions"][1]["beside_unguided"]
    assert (beside["lower_bound"], beside["share_of_maximum"]) == (-100.0, -0.2)


def test_runs_that_are_missing_are_named_and_pairs_are_of_one_seed(tmp_path, measured):
    runs = {"unguided": {2: (0.5, ALWAYS)}, "guided": {1: (0.1, ALWAYS), 2: (0.9, ALWAYS)}, "later": {}}
    [experiment] = measured(leave_sweep(tmp_path / "e", runs))
    assert experiment["missing"] == ["unguided, seed 1", "later, seed 1", "later, seed 2"]
    assert [each["condition"] for each in experiment["conditions"]] == ["unguided", "guided"]
    beside = experiment["conditions"][1]["beside_unguided"]
    assert beside["return_differences"] == {"2": pytest.approx(0.4)}
    assert (beside["lower_bound"], beside["share_of_maximum"]) == (None, None)  # one pair


def test_experiments_are_added_to_those_that_were_measured(tmp_path, measured):
    a, b = (leave_sweep(tmp_path / name, {"unguided": {1: (0.5, ALWAYS)}}, seeds=[1]) for name in "ab")
    measured(a, b)
    (b / "results.jsonl").write_text((b / "results.jsonl").read_text().replace("0.5", "0.25"))
    experiments = measured(b, flags=("--no-obey", "--add"))
    assert [(each["experiment"], each["runs"][0]["mean_return"]) for each in experiments] == [("a", 0.5), ("b", 0.25)]
    assert [each["experiment"] for each in measured(b)] == ["b"]


def test_a_sweep_of_nothing_or_of_several_environments_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="holds no finished run"):
        read_sweep(tmp_path / "empty")
    sweep = leave_sweep(tmp_path / "e", {"unguided": {1: (0.5, ALWAYS), 2: (0.5, ALWAYS)}})
    lines = (sweep / "results.jsonl").read_text().splitlines()
    (sweep / "results.jsonl").write_text("\n".join([lines[0], lines[1].replace("5x5", "6x6")]))
    with pytest.raises(SystemExit, match="several environments"):
        read_sweep(sweep)


def test_obeying_alone_is_played_once_in_each_world(tmp_path, measured, monkeypatch):
    played = []

    def counted(reader, env_id, **world):
        played.append(env_id)
        return obey_only(reader, "CartPole-v1", env_kwargs={"max_episode_steps": 2}, num_episodes=2)

    monkeypatch.setattr(guided_training, "obey_only", counted)
    runs = {"unguided": {1: (0.5, ALWAYS)}}
    sweeps = [leave_sweep(tmp_path / name, runs, seeds=[1]) for name in "ab"]
    for experiment in measured(*sweeps, flags=()):
        assert experiment["obey_only"] == {"mean_return": 2.0, "success_rate": 0.0, "episodes": 2, "seed": 900_000}
    assert played == [LEVEL]


# --- obeying alone


class Advisor:
    """Stands for a model that writes one hint for each text, and obeys hints."""

    def __init__(self, hint):
        self._hint, self.asked = hint, []

    def hints(self, states, *, temperature, seed, list_actions):
        assert list_actions
        self.asked.append((seed, len(states)))
        return [self._hint] * len(states)

    def action_log_probs(self, states, hints):
        return [
            [0.0 if hint and named_action(hint, state.actions) == action else -1.0 for action in state.actions]
            for state, hint in zip(states, hints, strict=True)
        ]


def test_an_agent_that_only_obeys_plays_the_episodes_that_policies_are_judged_by():
    advisor = Advisor("push right")
    found = obey_only(advisor, "CartPole-v1", num_episodes=3)
    with closing(TextEnv("CartPole-v1")) as env:
        returns = [returned(env, FIRST_SEED + i) for i in range(3)]
    assert (found.mean_return, found.min_return) == (pytest.approx(sum(returns) / 3), min(returns))
    assert (found.success_rate, found.episodes, found.seed) == (0.0, 3, 900_000)
    assert advisor.asked[:2] == [(0, 3), (1, 3)]  # all side by side, and each step draws anew


def returned(env, seed):
    env.reset(seed)
    while not env.step(1).terminated:
        pass
    return env.episode_return
