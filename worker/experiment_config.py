"""Settings of the verbs about many runs, and about looking at one: sweep, report, record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from worker.config import POSITIONAL, RunDir
from worker.seeds import FIRST_EVALUATION_SEED, FIRST_VALIDATION_SEED
from worker.service_settings import ServiceSettings

Paths = Annotated[list[Path], Field(min_length=1, json_schema_extra=POSITIONAL)]


class SweepConfig(BaseModel):
    """Trains every condition of an experiment on every seed, as many runs side by side as the cores allow."""

    model_config = ConfigDict(extra="forbid")

    experiment_files: Paths = Field(description="TOML files: settings of `train`, seeds and conditions.")
    runs_dir: Path = Field(Path("runs"), description="Runs go to <runs_dir>/<experiment>/<condition>/seed-<n>.")
    jobs: int | None = Field(
        None,
        ge=1,
        description="Runs side by side; none: the cores, divided by what one run keeps busy: its threads, and the "
        "one of its service.",
    )
    run_timeout_s: float = Field(
        86_400.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a run may take before it is stopped and counts as failed, in seconds; it is saved, "
        "unless it does not stop within a minute.",
    )
    dry_run: bool = Field(False, description="Checks the files, says what would be run, and runs nothing.")


class ReportConfig(BaseModel):
    """Says what runs come to: interquartile means over seeds, learning curves, a table and JSON."""

    model_config = ConfigDict(extra="forbid")

    run_dirs: Paths = Field(description="Directories that `sweep` wrote, or single runs.")
    out: Path | None = Field(
        None, description="Where report.md, report.json and curves.png go; none: the first directory."
    )


class RecordConfig(ServiceSettings):
    """Films one evaluation episode: the environment, what the policy read, and its action probabilities beside it."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    run_dir: RunDir
    out: Path | None = Field(
        None, description="A .gif, or a .mp4 where imageio-ffmpeg is installed; none: episode.gif in the run directory."
    )
    seed: int = Field(
        FIRST_EVALUATION_SEED, ge=FIRST_VALIDATION_SEED, le=2**31, description="Of the episode, as in `evaluate`."
    )
    greedy: bool = Field(True, description="Take the likeliest action instead of sampling.")
    hints: bool = Field(
        False, description="Ask the guidance model for a hint at every step, and show it; the policy is not told it."
    )
    max_steps: int = Field(500, ge=1, le=2_000, description="Ends the film there; the episode may be longer.")
    fps: float | None = Field(
        None, gt=0, le=100, allow_inf_nan=False, description="Steps shown in a second; none: what the environment says."
    )
