"""An experiment file: settings of `train` for all runs, the seeds, and what each condition changes.

    env_id = "CartPole-v1"
    total_steps = 100_000
    seeds = [1, 2, 3]

    [conditions.plain]

    [conditions.entropy]
    ent_coef = 0.01

Every run of every file is checked before the first one starts.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.command_line import flag, nearest, read_config
from worker.config import TrainConfig
from worker.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
ONLY_CONDITION = "default"
"""Name of the condition of a file that lists none."""
SEEDS, CONDITIONS = "seeds", "conditions"
TAKEN = {
    "seed": "list `seeds` instead",
    "run_dir": "each run gets a directory of its own",
    "resume": "what was stopped goes on, and what has finished is skipped",
    "service_url": "each run starts a service of its own, for two that share one would replace each other's weights",
}
"""Settings of `train` that a sweep decides, and why."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class PlannedRun:
    """One condition on one seed."""

    experiment: str
    condition: str
    seed: int
    flags: tuple[str, ...]  # of `train`, all but --resume
    config: TrainConfig

    @property
    def run_dir(self) -> Path:
        """Where it is written."""
        return self.config.directory

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.experiment}: {self.condition}, seed {self.seed}"


@dataclass(frozen=True)
class Experiment:
    """What one file asks for."""

    name: str
    file: Path
    directory: Path  # of all its runs
    seeds: list[int]
    settings: Settings  # of all its runs
    conditions: dict[str, Settings]  # what each changes
    runs: list[PlannedRun]  # each condition's first seed comes first, so that what is there early compares


def read_experiment(file: Path, runs_dir: Path) -> Experiment:
    """Returns the experiment that a file describes.

    Args:
        file: TOML; its name without the ending is the experiment's.
        runs_dir: Directory of the experiment's own.

    Raises:
        UsageError: Something is unknown, missing or out of bounds; the message says in which condition.
    """
    settings = _read_toml(file)
    _check_name(file.stem, f"{file}: the file's name")
    seeds = _seeds(settings.pop(SEEDS, None), file)
    conditions = _conditions(settings.pop(CONDITIONS, {ONLY_CONDITION: {}}), file)
    _check_keys(settings, str(file))
    directory = runs_dir / file.stem
    runs = [
        _planned(file, directory, condition, seed, settings | changes)
        for seed in seeds
        for condition, changes in conditions.items()
    ]
    return Experiment(file.stem, file, directory, seeds, settings, conditions, runs)


def flags_of(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yields the flags of `train` that say the same as `settings` in TOML."""
    for name, value in settings.items():
        if isinstance(value, bool):
            yield flag(name) if value else flag(f"no_{name}")
        elif isinstance(value, dict | list):
            yield f"{flag(name)}={json.dumps(value, default=str)}"
        else:
            yield f"{flag(name)}={value}"


def _planned(file: Path, directory: Path, condition: str, seed: int, settings: Settings) -> PlannedRun:
    run_dir = directory / condition / f"seed-{seed}"
    flags = (*flags_of(settings), *flags_of({"seed": seed, "run_dir": run_dir}))
    try:
        config = read_config(TrainConfig, flags, prog="train", environ={})
    except UsageError as error:
        raise UsageError(f"{file}, condition {condition}: {error.detail.removesuffix('; see train --help')}") from error
    return PlannedRun(file.stem, condition, seed, flags, config)


def _read_toml(file: Path) -> Settings:
    try:
        with file.open("rb") as opened:
            return tomllib.load(opened)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from error


def _seeds(seeds: object, file: Path) -> list[int]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UsageError(f"{file}: {SEEDS} must be a list of integers, such as seeds = [1, 2, 3, 4, 5]")
    twice = [seed for seed in seeds if seeds.count(seed) > 1]
    if twice:
        raise UsageError(f"{file}: seed {twice[0]} is listed twice; a run of the same seed is the same run")
    return seeds


def _conditions(conditions: object, file: Path) -> dict[str, Settings]:
    if not isinstance(conditions, dict) or not conditions:
        raise UsageError(f"{file}: {CONDITIONS} must be tables, such as [conditions.plain]")
    for name, changes in conditions.items():
        where = f"{file}, condition {name}"
        if not isinstance(changes, dict):
            raise UsageError(f"{where}: expected a table of settings, such as [conditions.{name}]")
        _check_name(name, where)
        _check_keys(changes, where)
    return conditions


def _check_name(name: str, where: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"{where} names a directory: use letters, digits, '.', '_' and '-', a letter or digit first")


def _check_keys(settings: Settings, where: str) -> None:
    for key in settings:
        if key in TAKEN:
            raise UsageError(f"{where}: {key} is decided by the sweep: {TAKEN[key]}")
        if key not in TrainConfig.model_fields:
            choices = [*TrainConfig.model_fields, SEEDS, CONDITIONS]
            raise UsageError(f"{where}: unknown setting {key}{nearest(key, choices)}")
