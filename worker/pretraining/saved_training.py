"""An unfinished training on disk, in files that run no code when read.

    DIR/training/weights.safetensors     the model
    DIR/training/optimizer.safetensors   Adam's moments, by the parameter's number
    DIR/training/progress.json           steps and seconds so far, and the settings it was begun with

Batches are functions of the step's number, so nothing else is needed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from worker.errors import CheckpointUnusable

TRAINING_DIR = "training"
TIED = "lm_head.weight"
"""The output layer is the embedding, which is saved."""


class Progress(NamedTuple):
    """How far a training is."""

    step: int
    training_s: float


class SavedTraining:
    """The checkpoint of a training.

    Args:
        directory: Of the model.
        settings: That a resumed training must have kept.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any] | None = None) -> None:
        self._whole = directory / TRAINING_DIR
        self._part = directory / f"{TRAINING_DIR}.part"
        self._settings = dict(settings or {})

    def save(self, model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Writes the checkpoint under another name first, so that what bears its name is whole."""
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir(parents=True)
        weights = {name: value for name, value in model.state_dict().items() if name != TIED}
        save_file(weights, self._part / "weights.safetensors")
        moments = {
            f"{number}.{name}": value.contiguous()
            for number, each in optimizer.state_dict()["state"].items()
            for name, value in each.items()
        }
        save_file(moments, self._part / "optimizer.safetensors")
        told = {"progress": progress._asdict(), "settings": self._settings}
        (self._part / "progress.json").write_text(json.dumps(told))
        shutil.rmtree(self._whole, ignore_errors=True)
        self._part.rename(self._whole)

    def load(self, model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer) -> Progress:
        """Fills model and optimizer from the checkpoint and returns how far it was.

        Raises:
            CheckpointUnusable: There is none, it is damaged, or it was begun with other settings.
        """
        try:
            told = json.loads((self._whole / "progress.json").read_text())
            progress, begun_with = Progress(**told["progress"]), told["settings"]
            self._check(begun_with)
            weights = load_file(self._whole / "weights.safetensors")
            model.load_state_dict(weights | {TIED: weights["transformer.wte.weight"]})
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in load_file(self._whole / "optimizer.safetensors").items():
                number, name = key.split(".", 1)
                state.setdefault(int(number), {})[name] = value
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            told_how = f"{self._whole} cannot be resumed ({reason}); remove it, and leave out --resume to begin again"
            raise CheckpointUnusable(told_how) from error
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return progress

    def remove(self) -> None:
        """Removes the checkpoint: the training is over."""
        shutil.rmtree(self._whole, ignore_errors=True)

    def _check(self, begun_with: Mapping[str, Any]) -> None:
        for name, value in self._settings.items():
            if begun_with.get(name) != value:
                raise CheckpointUnusable(
                    f"{self._whole} was begun with {name} {begun_with.get(name)}, not {value}; "
                    f"pass --{name.replace('_', '-')} {begun_with.get(name)}"
                )
