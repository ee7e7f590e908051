"""The policy of a run, served again: by a service that somebody runs, or by one for the occasion."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.checkpoint import Checkpoint, chosen_checkpoint, last_checkpoint, load_checkpoint
from worker.connection import Connect, connect
from worker.errors import CheckpointUnusable
from worker.served_policy import ServedPolicy
from worker.service_settings import ServiceSettings


def judged_checkpoint(run_dir: Path) -> tuple[Path, Checkpoint]:
    """Returns the checkpoint that a run was judged by, or its last one while it goes on, and where it lies.

    Raises:
        CheckpointUnusable: The directory holds no whole checkpoint.
    """
    directory = chosen_checkpoint(run_dir) or last_checkpoint(run_dir)
    if directory is None:
        raise CheckpointUnusable(f"{run_dir} holds no checkpoint; `train` writes them")
    return directory, load_checkpoint(directory)


@contextmanager
def serving(
    checkpoint: Checkpoint, settings: ServiceSettings, *, with_hints: bool = False, connect: Connect = connect
) -> Iterator[ServedPolicy]:
    """Yields a checkpoint's policy once a service answers with it; a service for the occasion ends with the block.

    Args:
        checkpoint: Of a run.
        settings: Which service; one for the occasion has the models that a service of the run's own had, unless
            they name others.
        with_hints: Whether it will be asked for hints. That they are another model's than the run's is said.
        connect: How it is reached.

    Raises:
        ServiceUnreachable: Nobody answers.
        ServiceMismatch: The service runs another model.
    """
    state = checkpoint.state
    with tempfile.TemporaryDirectory(prefix="hintwise-served-") as scratch:
        theirs: dict[str, str | None] = {"model": settings.model or state.model}
        if with_hints and settings.service_url is None:
            theirs["guidance_model"] = settings.guidance_model or state.own_guidance_model
        service = connect(
            settings.model_copy(update=theirs),
            weights_dir=Path(scratch) / "weights",
            log_path=Path(scratch) / "service.log",
            say=say,
            on_wait=lambda reason, waited_s: say(f"waiting for {waited_s:.0f} s: {reason}"),
            head_actions=state.head_actions,
        )
        with service as client:
            served = ServedPolicy(client)
            served.check_fits(architecture=state.architecture, tokenizer_sha256=state.tokenizer_sha256)
            served.hold(checkpoint.policy)
            served.resync()
            if with_hints and state.guidance_sha256 not in (None, served.info.guidance.sha256):
                had = f", those of {state.guidance_model}" if state.guidance_model else ""
                say(f"hints come from {served.info.guidance.name}; the run was given other weights'{had}")
            yield served


def say(text: str) -> None:
    """Writes a line for whoever waits."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
