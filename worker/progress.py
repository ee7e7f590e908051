"""What a person sees while a run goes on: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worker.durations import duration
from worker.stopwatch import shares
from worker.update_report import UpdateReport

LINE_EVERY_S = 10.0


class Display(AbstractContextManager["Display"], Protocol):
    """Shows how a run goes; everything goes to stderr."""

    def show(self, report: UpdateReport) -> None:
        """Shows the numbers of one update."""

    def say(self, text: str) -> None:
        """Shows one line that stays."""

    def waiting(self, reason: str, waited_s: float) -> None:
        """Shows that the service gives no answer, why, and since how many seconds."""


def open_display(num_updates: int, batch_size: int) -> Display:
    """Returns the display that fits stderr.

    Args:
        num_updates: Updates of the whole run.
        batch_size: Environment steps in one update.
    """
    console = Console(stderr=True)
    total_steps = num_updates * batch_size
    return LiveDisplay(console, total_steps) if console.is_terminal else LineDisplay(console, total_steps)


class LiveDisplay:
    """A table that is redrawn in place."""

    def __init__(self, console: Console, total_steps: int) -> None:
        self._total_steps = total_steps
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._report: UpdateReport | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, report: UpdateReport) -> None:
        self._report = report
        self._live.update(self._table(report), refresh=True)

    def say(self, text: str) -> None:
        self._live.console.print(Text(text))

    def waiting(self, reason: str, waited_s: float) -> None:
        table = self._table(self._report) if self._report else Table.grid(padding=(0, 2))
        table.add_row(Text("waiting", style="yellow"), Text(f"{reason} for {waited_s:.0f} s", style="yellow"))
        self._live.update(table, refresh=True)

    def _table(self, report: UpdateReport) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", min_width=14)
        table.add_column()
        table.add_row("steps", ProgressBar(total=self._total_steps, completed=report.step, width=40))
        for name, value in cells(report, self._total_steps):
            table.add_row(name, value)
        return table


class LineDisplay:
    """A plain line about every ten seconds, for logs."""

    def __init__(self, console: Console, total_steps: int) -> None:
        self._console = console
        self._total_steps = total_steps
        self._last_line = -math.inf
        self._last_wait = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def show(self, report: UpdateReport) -> None:
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_S or report.step >= self._total_steps:
            self._last_line = now
            self.say(", ".join(f"{name} {value}" for name, value in cells(report, self._total_steps)))

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def waiting(self, reason: str, waited_s: float) -> None:
        now = time.monotonic()
        if now - self._last_wait >= LINE_EVERY_S:
            self._last_wait = now
            self.say(f"waiting for {waited_s:.0f} s: {reason}")


def cells(report: UpdateReport, total_steps: int) -> list[tuple[str, str]]:
    """Returns the names and values that both displays show."""
    left_s = (total_steps - report.step) / report.steps_per_s if report.steps_per_s else math.nan
    return [
        ("step", f"{report.step:,} of {total_steps:,}"),
        ("mean return", f"{report.mean_return:.1f}" if math.isfinite(report.mean_return) else "-"),
        ("steps/s", f"{report.steps_per_s:.0f}"),
        *report.metrics.shown(),
        ("policy version", str(report.policy_version)),
        ("left", duration(left_s)),
        ("time goes to", shares(report.spent_s)),
    ]
