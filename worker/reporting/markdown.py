"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from worker.durations import duration
from worker.plot import WINDOW
from worker.reporting.groups import Group, Score
from worker.reporting.interquartile import NUM_RESAMPLES
from worker.reporting.runs import FinishedRun, Lacking

FEWEST_TRIMMED = 4
METHOD = f"""\
Each run's number is its own evaluation: episodes with seeds that no run was trained on. IQM is the interquartile mean
over runs: the lowest and the highest quarter, rounded down to whole runs, are left out. The interval is the 2.5th to
the 97.5th percentile of {NUM_RESAMPLES:,} stratified bootstrap resamples of the runs; it says how other seeds might
have come out, not how episodes of one policy differ (Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of
the Statistical Precipice). The curves show training episodes: at each point the IQM over seeds of the mean of a run's
last {WINDOW} episodes, and its interval."""


def table(groups: Sequence[Group]) -> str:
    """Returns the table of conditions."""
    header = "condition", "environment", "seeds", "return: IQM", "95% interval", "mean ± std", "success: IQM"
    rows = [_row(group) for group in groups]
    return _table([*header, "95% interval", "steps", "wall time"], rows)


def document(
    groups: Sequence[Group],
    runs: Sequence[FinishedRun],
    lacking: Sequence[Lacking],
    warnings: Sequence[str],
    picture: str | None,
) -> str:
    """Returns the whole report."""
    parts = ["# Report", table(groups)]
    notes = [*_notes(groups), *warnings]
    if lacking:
        notes.insert(0, f"{len(lacking)} of {len(lacking) + len(runs)} runs are left out; they are named below.")
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    if picture is not None:
        parts.append(f"![Return by environment steps]({picture})")
    parts.append(METHOD)
    if lacking:
        rows = [[each.condition, f"`{each.path}`", each.why] for each in lacking]
        parts += ["## Missing or unfinished", _table(["condition", "run", "why"], rows)]
    parts += ["## Runs", _runs_table(runs)]
    return "\n\n".join(parts) + "\n"


def _row(group: Group) -> list[str]:
    returns, success = group.scores["mean_return"], group.scores["success_rate"]
    return [
        group.condition,
        group.environment,
        str(len(group.seeds)),
        "-" if returns is None else _number(returns.iqm),
        _interval(returns),
        _spread(returns),
        "-" if success is None else _number(success.iqm),
        _interval(success),
        f"{min(group.steps):,}",
        duration(group.wall_time_s),
    ]


def _notes(groups: Sequence[Group]) -> Iterator[str]:
    few = [group for group in groups if len(group.seeds) < FEWEST_TRIMMED]
    for group in few:
        where = f"{group.condition} in {group.environment}"
        if len(group.seeds) == 1:
            yield f"{where} has one seed: there is no interval, for nothing tells what another seed would come to."
        else:
            yield (
                f"{where} has {len(group.seeds)} seeds: of so few the IQM leaves none out and is the mean, and the "
                "interval is too narrow to be relied on."
            )


def _runs_table(runs: Sequence[FinishedRun]) -> str:
    rows = []
    hints = any(run.score("mean_return", with_hints=True) is not None for run in runs)
    for run in runs:
        shown = [run.score("mean_return"), run.score("success_rate")]
        if hints:
            shown += [run.score("mean_return", with_hints=True), run.score("success_rate", with_hints=True)]
        rows.append(
            [
                run.condition,
                str(run.seed),
                *("-" if number is None else _number(number) for number in shown),
                f"{run.record['evaluation']['episodes']} {run.record['evaluation']['mode']}",
                f"{run.steps:,}",
                duration(run.record["wall_time_s"]),
                str(run.record.get("git_commit") or "-")[:10],
                f"`{run.path}`",
            ]
        )
    shown_names = ["mean return", "success rate", *(["return with hints", "success with hints"] if hints else [])]
    header = "condition", "seed", *shown_names, "episodes", "steps", "wall time", "commit", "run"
    return _table(header, rows)


def _interval(score: Score | None) -> str:
    if score is None:
        return "-"
    if score.low is None or score.high is None:
        return "one seed: none"
    return f"{_number(score.low)} to {_number(score.high)}"


def _spread(score: Score | None) -> str:
    if score is None:
        return "-"
    return _number(score.mean) + ("" if score.std is None else f" ± {_number(score.std, like=score.mean)}")


def _number(value: float, like: float | None = None) -> str:
    """Returns a return or a rate with as many digits as say something, of it or of what it goes with."""
    return f"{value:.3f}" if abs(value if like is None else like) < 10 else f"{value:.1f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
