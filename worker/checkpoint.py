"""Checkpoints: everything a run is made of, in files that run no code when read.

    checkpoints/step-000012288/
        policy.safetensors       the weights, byte for byte as the service got them
        optimizer.safetensors    the optimizer's moments, by parameter
        algorithm.safetensors    what the algorithm remembers besides (DQN and SARSA: replay), and ...
        algorithm.json           ... what of it is no tensor; both in the last two checkpoints alone
        rollout.safetensors, .json   collected ahead and not learned from yet (--max-staleness 1); so are these
        state.json               counters, generators, environments, configuration

A checkpoint is written under another name and renamed when whole and on the disk, so that whatever bears the
name `step-...` is complete, also after a power cut. Where the last one is damaged all the same, the one before it
has everything to go on from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from hintwise.disk import sync
from worker.algorithms.algorithm import NOTHING, AlgorithmState
from worker.buffers import Episode, Rollout
from worker.config import NUM_KEPT, TrainConfig
from worker.errors import CheckpointUnusable
from worker.guidance.settings import HintEvery
from worker.rollout_state import rollout_of, rollout_state
from worker.run_files import CHECKPOINTS_DIR, STEP
from worker.stopwatch import Part
from worker.text_env import EpisodeSnapshot

ALGORITHM, ROLLOUT = "algorithm", "rollout"
"""Stems of what only going on needs: tensors and values, a file of each."""
NUM_RESUMABLE = 2
"""The last checkpoint, and one to go on from where that is damaged; a replay buffer is too large to keep more."""


class RunState(BaseModel):
    """What a run remembers besides its tensors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    step: int  # environment steps
    update: int  # updates done
    num_episodes: int
    recent_episodes: list[Episode]  # the last ones, oldest first
    num_stale_transitions: int
    training_s: float  # wall time spent training
    wait_s: float  # of it, waiting for the service
    spent_s: dict[Part, float] = {}  # all of it, by where it went
    policy_version: int  # the number that the service gave these weights
    model: str
    architecture: str
    head_actions: list[str] | None = None  # None: the policy scores phrases
    tokenizer_sha256: str
    prompt_template_version: int
    guidance_model: str | None = None  # the models that advised it, as their service named them; None where none did
    guidance_sha256: str | None = None
    scorer_sha256: str | None = None
    generator: dict[str, Any]  # numpy bit generator that shuffles minibatches
    episodes: list[EpisodeSnapshot]  # one per environment
    num_begun: list[int]  # episodes begun in each environment
    config: dict[str, Any]
    packages: dict[str, str]
    parts: list[str] | None = None  # stems of what only going on needs and was written; None: nobody noted

    @model_validator(mode="after")
    def _divide_time(self) -> Self:
        """Divides the time of a run from before its parts were measured as well as it can be."""
        self.spent_s = self.spent_s or {"waiting": self.wait_s, "other": self.training_s - self.wait_s}
        return self

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """What the run's environments are made with; a run from before there was the setting has none."""
        return dict(self.config.get("env_kwargs", {}))

    @property
    def memory(self) -> int:
        """Observations that the run's texts remember; none in a run from before there was the setting."""
        return int(self.config.get("memory", 0))

    @property
    def own_guidance_model(self) -> str | None:
        """What a service of the run's own gave hints with, None where it had another: a name means something there."""
        if self.config.get("service_url") is not None:
            return None
        return self.guidance_model or self.config.get("guidance_model")

    @property
    def hint_every(self) -> HintEvery:
        """How long the run held a hint."""
        every: HintEvery = self.config.get("hint_every", 1)
        return every


@dataclass(frozen=True)
class Checkpoint:
    state: RunState
    policy: bytes  # safetensors
    optimizer: Mapping[str, Tensor]
    algorithm: AlgorithmState = NOTHING
    pending: Rollout | None = None  # collected ahead, not learned from yet


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint, *, keep: int = NUM_KEPT) -> Path:
    """Writes a checkpoint, removes all but the last `keep`, and returns its directory."""
    final = run_dir / CHECKPOINTS_DIR / f"{STEP}{checkpoint.state.step:09d}"
    if not final.exists():  # the same run at the same step is the same state
        _write(final, checkpoint)
    sync(final.parent)  # before older ones lose what going on needs
    _prune(run_dir, keep)
    return final


def _write(final: Path, checkpoint: Checkpoint) -> None:
    """Gives a checkpoint its name once all of it is on the disk."""
    partial = final.with_name(f".writing-{final.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "policy.safetensors").write_bytes(checkpoint.policy)
    (partial / "optimizer.safetensors").write_bytes(save(dict(checkpoint.optimizer)))
    parts = {} if checkpoint.algorithm == NOTHING else {ALGORITHM: checkpoint.algorithm}
    if checkpoint.pending is not None:
        parts[ROLLOUT] = AlgorithmState(*rollout_state(checkpoint.pending))
    for stem, (tensors, values) in parts.items():
        (partial / f"{stem}.safetensors").write_bytes(save(dict(tensors)))
        (partial / f"{stem}.json").write_text(json.dumps(values))
    state = checkpoint.state.model_copy(update={"parts": list(parts)})
    (partial / "state.json").write_text(state.model_dump_json())
    for path in (*partial.iterdir(), partial):
        sync(path)
    partial.rename(final)


def _prune(run_dir: Path, keep: int) -> None:
    """Removes all checkpoints but the last `keep`; of these, what only going on needs of all but the last two."""
    found = kept_checkpoints(run_dir)
    for old in found[:-keep]:
        shutil.rmtree(old)
    for old in found[-keep:-NUM_RESUMABLE]:
        for path in (*old.glob(f"{ALGORITHM}.*"), *old.glob(f"{ROLLOUT}.*")):
            path.unlink(missing_ok=True)


def last_checkpoint(run_dir: Path) -> Path | None:
    """Returns the directory of the last whole checkpoint of a run, if there is one."""
    found = kept_checkpoints(run_dir)
    return found[-1] if found else None


def chosen_checkpoint(run_dir: Path) -> Path | None:
    """Returns the checkpoint that a finished run was judged by; None while it goes on, or when it was removed."""
    try:
        name = Path(json.loads((run_dir / "run.json").read_text())["checkpoint"]).name
    except (OSError, ValueError, KeyError):
        return None
    directory = run_dir / CHECKPOINTS_DIR / name  # by name: the run may have been moved
    return directory if directory.is_dir() else None


def load_checkpoint(directory: Path, *, to_go_on: bool = False) -> Checkpoint:
    """Returns what `save_checkpoint` wrote.

    Args:
        directory: Of the checkpoint.
        to_go_on: Whether all is wanted that going on needs; older checkpoints lost some of it.

    Raises:
        CheckpointUnusable: A file is missing or damaged. Of a run's last checkpoint, it says from which one the run
            can go on: losing updates is for a person to decide.
    """
    try:
        checkpoint = _read(directory)
        if to_go_on and (lacking := _lacking(directory, checkpoint.state)):
            raise CheckpointUnusable(f"checkpoint {directory} lacks what going on needs: {', '.join(lacking)}")
        return checkpoint
    except CheckpointUnusable as error:
        error.detail += _way_on(directory)
        raise


def _way_on(damaged: Path) -> str:
    """Returns what to do about a checkpoint that cannot be read; nothing unless it is its run's last one."""
    found = sorted(damaged.parent.glob(f"{STEP}*"))
    if found[-1:] != [damaged]:
        return ""
    for before in reversed(found[:-1]):
        if _resumable(before):
            return f"; move it out of {damaged.parent}, and `train --resume` goes on from {before}"
    return "; there is none before it to go on from: put its files back, or start a new run in another --run-dir"


def _resumable(directory: Path) -> bool:
    try:
        return not _lacking(directory, _read(directory).state)
    except CheckpointUnusable:
        return False


def _lacking(directory: Path, state: RunState) -> list[str]:
    """Returns the files that going on needs and that are gone."""
    parts = state.parts
    if parts is None:  # what the run's other checkpoints have; a rollout where it was no last one
        others = directory.parent
        parts = [ALGORITHM] if any(others.glob(f"{STEP}*/{ALGORITHM}.*")) else []
        config = TrainConfig.recorded(state.config)
        in_the_middle = 0 < state.update < config["total_steps"] // (config["num_envs"] * config["num_steps"])
        if config["max_staleness"] and in_the_middle and directory != max(others.glob(f"{STEP}*")):
            parts = [*parts, ROLLOUT]
    names = [f"{stem}.{kind}" for stem in parts for kind in ("safetensors", "json")]
    return [name for name in names if not (directory / name).exists()]


def _read(directory: Path) -> Checkpoint:
    try:
        state = RunState.model_validate_json((directory / "state.json").read_bytes())
        policy = (directory / "policy.safetensors").read_bytes()
        load(policy)
        optimizer = load((directory / "optimizer.safetensors").read_bytes())
        algorithm = AlgorithmState(*(_read_pair(directory, ALGORITHM) or NOTHING))
        pending = _read_pair(directory, ROLLOUT)
        rollout = rollout_of(*pending) if pending else None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointUnusable(f"checkpoint {directory}: state.json: {place}: {first['msg']}") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointUnusable(f"checkpoint {directory} cannot be read: {error}") from error
    return Checkpoint(state, policy, optimizer, algorithm, rollout)


def _read_pair(directory: Path, stem: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Returns tensors and values, or None where neither was kept."""
    tensors, values = directory / f"{stem}.safetensors", directory / f"{stem}.json"
    if not tensors.exists() and not values.exists():
        return None
    return load(tensors.read_bytes()), json.loads(values.read_text())


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Returns copies of the optimizer's state, named `<parameter>/<what>`."""
    return {
        f"{name}/{what}": tensor.detach().cpu().clone().contiguous()
        for name, parameter in module.named_parameters()
        for what, tensor in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` returned."""
    names = [name for name, _ in module.named_parameters()]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, what = key.rpartition("/")
        if name not in names:
            raise CheckpointUnusable(f"the checkpoint's optimizer has a state for {name}, which the policy lacks")
        state.setdefault(names.index(name), {})[what] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def kept_checkpoints(run_dir: Path) -> list[Path]:
    """Returns the directories of a run's whole checkpoints, oldest first."""
    return sorted((run_dir / CHECKPOINTS_DIR).glob(f"{STEP}*"))
