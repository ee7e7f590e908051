"""The training loop: wiring alone, to be read as a page.

connect ──▶ begin or resume ──▶ update, record, show, save ... ──▶ choose ──▶ evaluate ──▶ draw
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from hintwise.errors import HintwiseError
from worker.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint
from worker.config import TrainConfig
from worker.connection import Connect, connect
from worker.durations import duration
from worker.errors import CheckpointUnusable
from worker.evaluate import play_episodes
from worker.interrupt import StopRequest
from worker.learner import Learner
from worker.meanwhile import Meanwhile
from worker.progress import Display, open_display
from worker.run_record import RunRecord, refuse_taken
from worker.selection import choose_checkpoint
from worker.served_policy import ServedPolicy
from worker.stopwatch import shares
from worker.text_env import action_phrases
from worker.update_report import UpdateReport

FRESH_VERSION = 1
"""Of weights that nobody has pushed to."""


def train(config: TrainConfig, *, connect: Connect = connect) -> None:
    """Trains, evaluates fresh episodes, draws the learning curve and says where everything is.

    Raises:
        RunDirTaken: The run directory holds a run, and `resume` is off.
        Interrupted: SIGINT or SIGTERM; the run was saved.
        HintwiseError: The service or the environment cannot be used, or was lost; what was learned is saved.
    """
    torch.set_num_threads(config.num_threads)
    run_dir = config.directory
    if not config.resume:
        refuse_taken(run_dir)
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        display = stack.enter_context(open_display(config.num_updates, config.batch_size))

        meanwhile = Meanwhile()

        def on_wait(reason: str, waited_s: float) -> None:
            stop.check()
            display.waiting(reason, waited_s)

        service = connect(
            config,
            weights_dir=run_dir / "service",
            log_path=run_dir / "service.log",
            say=display.say,
            on_wait=on_wait,
            while_waiting=meanwhile.run,
            head_actions=_head_actions(config),
        )
        served = ServedPolicy(stack.enter_context(service), meanwhile)
        learner = stack.enter_context(closing(Learner(config, served, say=display.say)))
        _begin(learner, display)
        record = stack.enter_context(RunRecord(config, learner))
        with _saved_on_failure(learner, record):
            _run_updates(learner, record, display, stop)
            lines = _finish(learner, record, display, stop)
    print("\n".join(lines))  # noqa: T201 (after the live display, which would take it for its own)


def _head_actions(config: TrainConfig) -> Sequence[str] | None:
    """Returns what a service of our own has to build its head for: a resumed run keeps what it began with.

    Raises:
        CheckpointUnusable: The run began with another readout than it is now asked for.
    """
    saved = last_checkpoint(config.directory) if config.resume else None
    if saved is None:
        return action_phrases(config.env_id, config.env_kwargs) if config.readout == "head" else None
    kept = load_checkpoint(saved).state.head_actions
    readout = "phrase" if kept is None else "head"
    if config.readout not in (None, readout):
        raise CheckpointUnusable(
            f"the run cannot go on with other settings: readout (was {readout}, now {config.readout}); "
            "leave --readout out, or start a new run in another --run-dir"
        )
    return kept


def _begin(learner: Learner, display: Display) -> None:
    """Starts a new run, or continues from its last checkpoint."""
    run_dir = learner.config.directory
    saved = last_checkpoint(run_dir) if learner.config.resume else None
    if saved is not None:
        learner.restore(load_checkpoint(saved, to_go_on=True))
        display.say(f"resumed from {saved}")
        return
    if learner.config.resume:
        display.say(f"{run_dir} holds no checkpoint; starting from the beginning")
    learner.begin()
    if learner.began_with != FRESH_VERSION:
        display.say(
            f"beginning with version {learner.began_with} of the service's weights: somebody has trained them, "
            "evaluated others, or begun a run that was killed at once; a service with a new --weights-dir has those "
            "that its model was loaded with"
        )
    _save(learner)


def _save(learner: Learner) -> Path:
    """Returns the directory of a checkpoint of where the run stands."""
    config = learner.config
    return save_checkpoint(config.directory, learner.checkpoint(), keep=config.keep_checkpoints)


def _record_and_save(learner: Learner, record: RunRecord) -> Path:
    """Saves where the run stands, behind the lines of its updates: nobody would write them again."""
    record.write()
    return _save(learner)


def _run_updates(learner: Learner, record: RunRecord, display: Display, stop: StopRequest) -> None:
    """Updates until the steps are used up; what one leaves to write down waits for the next one's first request."""
    meanwhile, stopwatch = learner.served.meanwhile, learner.stopwatch

    def note(report: UpdateReport) -> None:
        with stopwatch.on("saving"):
            record.add(report)
            display.show(report)
            if learner.update % learner.config.checkpoint_every == 0:
                _record_and_save(learner, record)

    def later(report: UpdateReport) -> None:
        meanwhile.later(partial(note, report))

    stopwatch.lap()  # what came before was no training
    try:
        while learner.update < learner.config.num_updates:
            learner.run_update(before_step=stop.check, on_report=later)
            if learner.config.max_staleness:
                meanwhile.run()  # the next request is another thread's
    finally:
        meanwhile.run()


@contextmanager
def _saved_on_failure(learner: Learner, record: RunRecord) -> Iterator[None]:
    """Lets a run that ends early leave a checkpoint of its last boundary, and says so in the error."""
    try:
        yield
    except HintwiseError as error:
        with suppress(OSError):  # saved all the same
            record.write()
        saved = _save(learner)
        error.detail = f"{error.detail}; saved in {saved}, go on with --resume"
        raise


def _finish(learner: Learner, record: RunRecord, display: Display, stop: StopRequest) -> list[str]:
    """Saves, chooses a checkpoint, evaluates it, draws; returns lines that say what came of it and where it is."""
    run_dir = learner.config.directory
    saved = _record_and_save(learner, record)
    record.write(status="evaluating")
    env_id, made = learner.config.env_id, learner.config.env_settings
    num_episodes, mode = learner.config.eval_episodes, learner.config.eval_mode
    chosen = choose_checkpoint(
        run_dir,
        learner.served,
        env_id,
        **made,
        num_episodes=max(1, num_episodes // 2),
        mode=mode,
        say=display.say,
        before_step=stop.check,
    )
    record.write(checkpoint=str(chosen.directory), last_checkpoint=str(saved), validation_return=chosen.mean_return)
    display.say(f"evaluating {num_episodes} fresh episodes, actions: {mode}")
    play = partial(
        play_episodes,
        learner.served,
        env_id,
        **made,
        num_episodes=num_episodes,
        mode=mode,
        before_step=stop.check,
    )
    evaluation = play()
    came_to = [str(evaluation)]
    if learner.config.shows_hints:
        display.say("and the same with hints")
        hinted = play(hint_every=learner.config.hint_every)
        record.write(evaluation_with_hints=asdict(hinted))
        came_to = [f"{evaluation}, without hints", f"{hinted}, with hints"]
    picture = _draw(run_dir, display)
    record.write(status="finished", evaluation=asdict(evaluation), learning_curve=str(picture) if picture else None)
    return [
        *came_to,
        f"training took {duration(learner.training_s)}: {shares(learner.spent_s)}",
        f"checkpoint {chosen.directory}",
        f"picture {picture or 'none: no episode has ended yet'}",
    ]


def _draw(run_dir: Path, display: Display) -> Path | None:
    """Returns the picture's path; a run too short for one episode has none."""
    from worker.plot import draw_learning_curve  # here: matplotlib takes long to import

    try:
        return draw_learning_curve(run_dir)
    except CheckpointUnusable as error:
        display.say(str(error))
        return None
