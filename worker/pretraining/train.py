"""The training loop: one batch, one step of AdamW; stops and goes on where it stopped.

    learning rate = highest * min(1, share / warm-up) * cosine from 1 to 0 over the share of the training done

The share is that of the steps, or of the minutes where a limit on them is nearer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2LMHeadModel

from hintwise.gpt2_forward import GPT2Forward
from worker.durations import duration
from worker.errors import Interrupted
from worker.interrupt import StopRequest
from worker.pretraining.batches import Batch, Batches
from worker.pretraining.saved_training import Progress, SavedTraining
from worker.progress import LINE_EVERY_S

WARM_UP_SHARE = 0.03
WEIGHT_DECAY = 0.05
BETAS = 0.9, 0.98
MAX_GRADIENT_NORM = 1.0
SAVE_EVERY_S = 300.0


class Plan(NamedTuple):
    """How long the training goes on, and how fast it learns."""

    num_steps: int
    minutes: float | None
    learning_rate: float

    def share(self, progress: Progress) -> float:
        """Returns the share of the training that is done, 0 to 1."""
        of_time = progress.training_s / (60 * self.minutes) if self.minutes else 0.0
        of_steps = progress.step / self.num_steps if self.num_steps else 1.0  # no steps: the first weights as they are
        return min(1.0, max(of_steps, of_time))

    def rate(self, share: float) -> float:
        """Returns the learning rate at a share of the training."""
        return self.learning_rate * min(1.0, share / WARM_UP_SHARE + 1e-3) * 0.5 * (1 + math.cos(math.pi * share))


RISE_WEIGHT = 4.0
"""Of a pair of states in the loss. Told by the odds alone, a step of a long way is smaller than the error."""


def batch_losses(model: GPT2LMHeadModel, forward: GPT2Forward, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns the summed cross-entropy of what a batch has predicted, and that of the odds that should rise, in nats.

    The latter is -log sigmoid(later - earlier) of the log-odds, as if which state comes later were asked.

    Source: Bradley and Terry 1952, as in Christiano et al. 2017, eq. 1.
    """
    hidden = forward.hidden_states(batch.rows, None).flatten(0, 1).index_select(0, batch.places)  # (M, H)
    log_probs = torch.log_softmax(hidden @ model.transformer.wte.weight.T, dim=-1)  # (M, V)
    chosen = log_probs[batch.targets, batch.token_ids]
    token, against = batch.rise_ids.unsqueeze(1).unbind(-1)  # (P, 1) each
    odds = log_probs[batch.rises, token] - log_probs[batch.rises, against]  # (P, 2)
    rising = functional.softplus(odds[:, 0] - odds[:, 1]).sum()
    return -(batch.weights * chosen).sum(), rising


def train(
    model: GPT2LMHeadModel,
    batches: Batches,
    plan: Plan,
    saved: SavedTraining,
    *,
    resume: bool,
    say: Callable[[str], None],
) -> Progress:
    """Trains `model` in place and returns how long that took.

    Raises:
        CheckpointUnusable: `resume` finds no checkpoint that fits.
        Interrupted: A signal asked to stop; the checkpoint is written.
    """
    optimizer = build_optimizer(model)
    progress = saved.load(model, optimizer) if resume else Progress(step=0, training_s=0.0)
    forward = GPT2Forward(model)
    saved_s = said_s = time.monotonic()
    mean_loss = math.nan
    model.train()
    with StopRequest() as stop:
        while plan.share(progress) < 1:
            began = time.monotonic()
            loss = _step(model, forward, optimizer, batches.batch(progress.step), plan.rate(plan.share(progress)))
            mean_loss = loss if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * loss
            now = time.monotonic()
            progress = Progress(progress.step + 1, progress.training_s + now - began)
            if now - said_s > LINE_EVERY_S:
                said_s = now
                say(line(progress, plan, mean_loss))
            if now - saved_s > SAVE_EVERY_S:
                saved_s = now
                saved.save(model, optimizer, progress)
            try:
                stop.check()
            except Interrupted as interrupted:
                saved.save(model, optimizer, progress)
                told = f"{interrupted} at step {progress.step}; --resume goes on from here"
                raise Interrupted(told, signal_number=interrupted.exit_status - 128) from None
    saved.save(model, optimizer, progress)  # measuring what was learned takes a while, too
    say(line(progress, plan, mean_loss))
    model.eval()
    return progress


def build_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """Returns AdamW; matrices decay, norms and biases do not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS)


def line(progress: Progress, plan: Plan, loss: float) -> str:
    """Returns one line about how far the training is."""
    share = plan.share(progress)
    left_s = progress.training_s * (1 - share) / share if share else math.nan
    steps_per_s = progress.step / progress.training_s if progress.training_s else math.nan
    return (
        f"step {progress.step:,} ({share:.0%}), loss {loss:.4f}, {steps_per_s:.2f} steps/s, "
        f"took {duration(progress.training_s)}, left {duration(left_s)}"
    )


def _step(
    model: GPT2LMHeadModel, forward: GPT2Forward, optimizer: torch.optim.AdamW, parts: Sequence[Batch], rate: float
) -> float:
    """Takes one step and returns the mean loss a predicted token."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    weight = sum(part.weights.sum().item() + RISE_WEIGHT * len(part.rises) for part in parts)
    total = 0.0
    for part in parts:
        predicted, rising = batch_losses(model, forward, part)
        loss = (predicted + RISE_WEIGHT * rising) / weight
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    return total
