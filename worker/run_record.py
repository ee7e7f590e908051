"""What a run leaves behind: run.json, metrics.jsonl and TensorBoard events.

`run.json` says what was run and what came of it; `metrics.jsonl` has one line per update.
A resumed run cuts off what a killed one wrote after its last checkpoint, so that both files
read as those of a run that was never interrupted.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from hintwise.disk import sync
from hintwise.prompts import PROMPT_TEMPLATE_VERSION
from worker.config import TrainConfig
from worker.errors import RunDirTaken
from worker.learner import Learner
from worker.run_files import METRICS, RUN, read_metrics, read_run, write_whole
from worker.update_report import UpdateReport

TENSORBOARD_DIR = "tensorboard"


class RunRecord:
    """Writes the record of one run; used as a context manager.

    Args:
        config: All settings.
        learner: Where the run stands; a resumed one's update number decides what is cut off.
    """

    def __init__(self, config: TrainConfig, learner: Learner) -> None:
        self._run_dir = config.directory
        self._learner = learner
        kept = [line for line in read_metrics(self._run_dir) if line["update"] <= learner.update]
        write_whole(self._run_dir / METRICS, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._metrics = (self._run_dir / METRICS).open("a")
        self._tensorboard = SummaryWriter(
            str(self._run_dir / TENSORBOARD_DIR), purge_step=learner.step + 1 if learner.update else None
        )
        self._run: dict[str, Any] = {
            "status": "running",
            "config": config.model_dump(mode="json"),
            "model": learner.model,
            "architecture": learner.architecture,
            "readout": learner.policy.readout,
            "tokenizer_sha256": learner.tokenizer_sha256,
            "prompt_template_version": PROMPT_TEMPLATE_VERSION,
            "seed": config.seed,
            "packages": learner.packages,
            "git_commit": git_commit(),
            "began_with": learner.began_with or self._before("began_with"),
            "started_at": self._before("started_at") or datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.write()

    def _before(self, name: str) -> Any:
        """Returns what the record of an interrupted run says; None where there is none, or an older one."""
        return read_run(self._run_dir).get(name) if (self._run_dir / RUN).exists() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.write(status="stopped", reason=" ".join(str(error).split()))
        self._metrics.close()
        self._tensorboard.close()

    def add(self, report: UpdateReport) -> None:
        """Records one update."""
        record = {name: _json_number(value) for name, value in report.record().items()}
        self._metrics.write(f"{json.dumps(record)}\n")
        self._metrics.flush()
        for name, value in record.items():
            if name not in {"step", "episodes"} and value is not None:
                self._tensorboard.add_scalar(f"train/{name}", value, report.step)
        for step, episode_return, _, _ in report.episodes:
            self._tensorboard.add_scalar("episode/return", episode_return, step)

    def write(self, **more: Any) -> None:
        """Writes run.json with where the run stands now, and `more`; all lines so far are on the disk then, too."""
        sync(self._run_dir / METRICS)
        learner = self._learner
        now = datetime.now(UTC)
        self._run |= {
            "steps": learner.step,
            "updates": learner.update,
            "episodes": learner.num_episodes,
            "stale_transitions": learner.num_stale_transitions,
            "training_s": round(learner.training_s, 3),
            "service_wait_s": round(learner.wait_s, 3),
            "spent_s": {part: round(seconds, 3) for part, seconds in learner.spent_s.items()},
            "wall_time_s": round((now - datetime.fromisoformat(self._run["started_at"])).total_seconds(), 3),
        }
        self._run |= more
        write_whole(self._run_dir / RUN, json.dumps(self._run, indent=2) + "\n")
        with suppress(OSError):  # it raises what its thread failed of again and again; the lines are there
            self._tensorboard.flush()


def refuse_taken(run_dir: Path) -> None:
    """Raises unless `run_dir` is free for a new run.

    Raises:
        RunDirTaken: It holds a run.
    """
    if (run_dir / RUN).exists() or (run_dir / METRICS).exists():
        raise RunDirTaken(f"{run_dir} already holds a run; add --resume to continue it, or choose another --run-dir")


def git_commit() -> str | None:
    """Returns the commit of the source that runs, with `+changes` where files differ; None outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    source = Path(__file__).parent
    command = [git, "-C", str(source), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (nothing from outside)
    return answer.stdout.strip() or None


def _json_number(value: Any) -> Any:
    """Returns None for a number that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
