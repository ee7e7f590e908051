import io
import math

import pytest
from rich.console import Console

from worker import progress
from worker.algorithms.ppo import PPOMetrics
from worker.progress import LineDisplay, LiveDisplay, cells, open_display
from worker.update_report import UpdateReport

SPENT_S = {"waiting": 1.0, "environments": 0.95, "learning": 1.9, "pushing": 0.1, "saving": 0.01, "other": 0.04}


def report(**changed):
    metrics = PPOMetrics(
        policy_loss=0.1, value_loss=0.2, entropy=0.6, distill_kl=0.0, approx_kl=0.0123, clip_fraction=0.1,
        grad_norm=1.0, first_ratio_error=1e-7, importance_weight=1.0, explained_variance=0.5,
        shaping_explained_variance=math.nan, num_minibatches=48,
    )  # fmt: skip
    numbers = {
        "update": 2, "step": 2_048, "policy_version": 3, "learning_rate": 1e-3, "mean_return": 41.26,
        "mean_length": 41.26, "mean_shaping": 0.0, "guidance_trust": 1.0, "hint_share": 0.5, "stale_transitions": 0,
        "staleness": 0,
        "metrics": metrics,
        "spent_s": SPENT_S, "update_s": 4.0, "steps_per_s": 256.0, "episodes": [],
    }  # fmt: skip
    return UpdateReport(**{**numbers, **changed})


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def console(**settings):
    return Console(file=io.StringIO(), width=120, **settings)


def test_every_number_is_shown():
    assert dict(cells(report(), 10_240)) == {
        "step": "2,048 of 10,240",
        "mean return": "41.3",
        "steps/s": "256",
        "KL": "0.0123",
        "policy version": "3",
        "left": "0:32",
        "time goes to": "learning 48%, waiting 25%, environments 24%, pushing 3%, other 1%",
    }


def test_before_the_first_episode_has_ended_there_is_no_mean():
    assert dict(cells(report(mean_return=math.nan), 10_240))["mean return"] == "-"


def test_hours_that_are_left_are_told_as_hours():
    assert dict(cells(report(steps_per_s=2.0), 10_240))["left"] == "1:08:16"


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(clock):
    with LineDisplay(console(), 10_240) as display:
        for step, after_s in ((1_024, 0), (2_048, 9), (3_072, 2), (10_240, 1)):
            clock[0] += after_s
            display.show(report(step=step))
        lines = display._console.file.getvalue().splitlines()
    assert [line.split(" of")[0] for line in lines] == ["step 1,024", "step 3,072", "step 10,240"]


def test_a_log_says_that_it_waits_but_not_at_every_retry(clock):
    with LineDisplay(console(), 10_240) as display:
        for waited_s in (0, 3, 12):
            clock[0] += waited_s
            display.waiting("service unreachable", waited_s)
        lines = display._console.file.getvalue().splitlines()
    assert lines == ["waiting for 0 s: service unreachable", "waiting for 12 s: service unreachable"]


def test_a_terminal_gets_a_table_and_the_reason_for_a_wait():
    with LiveDisplay(console(force_terminal=True), 10_240) as display:
        display.waiting("service unreachable", 1.0)
        display.show(report())
        display.waiting("queue full", 3.0)
        display.say("a line [that] stays")
    text = display._live.console.file.getvalue()
    assert "2,048 of 10,240" in text
    assert "service unreachable for 1 s" in text
    assert "queue full for 3 s" in text
    assert "a line [that] stays" in text


def test_the_display_fits_stderr(monkeypatch):
    assert isinstance(open_display(10, 1_024), LineDisplay)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(open_display(10, 1_024), LiveDisplay)
