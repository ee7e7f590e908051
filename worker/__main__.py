"""`python -m worker VERB`, as `HELP` lists them; every failure by design is one line on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pkgutil import resolve_name

from pydantic import BaseModel

from hintwise.errors import HintwiseError
from hintwise.quick_imports import uncollected
from worker.command_line import nearest, read_config
from worker.config import DescribeConfig, EvaluateConfig, PlotConfig, TrainConfig
from worker.errors import UsageError, WorkerError
from worker.experiment_config import RecordConfig, ReportConfig, SweepConfig
from worker.pretraining.settings import PretrainConfig

PROG = "python -m worker"
VERBS: Mapping[str, tuple[type[BaseModel], str]] = {
    "train": (TrainConfig, "worker.train:train"),
    "evaluate": (EvaluateConfig, "worker.evaluate:evaluate"),
    "plot": (PlotConfig, "worker.plot:plot"),
    "describe": (DescribeConfig, "worker.describe:describe"),
    "sweep": (SweepConfig, "worker.experiments.sweep:sweep"),
    "report": (ReportConfig, "worker.reporting.report:report"),
    "record": (RecordConfig, "worker.recording.record:record"),
    "pretrain": (PretrainConfig, "worker.pretraining.run:run"),
}
"""The settings of each, and the function that carries it out."""
HELP = f"""usage: {PROG} VERB [options]

  train     train a policy: {PROG} train --env-id CartPole-v1
  evaluate  play fresh episodes with it: {PROG} evaluate RUN_DIR
  plot      draw its learning curve: {PROG} plot RUN_DIR
  describe  show an environment as the model reads it: {PROG} describe --env-id CartPole-v1
  sweep     train every condition of an experiment on every seed: {PROG} sweep experiments/cartpole.toml
  report    say what runs come to, over seeds: {PROG} report runs/cartpole
  record    film an episode, with what the policy thinks: {PROG} record RUN_DIR
  pretrain  train the language model that writes hints: {PROG} pretrain --out DIR

{PROG} VERB --help lists the settings of a verb."""


def main(arguments: Sequence[str]) -> int:
    """Runs one verb and returns the exit status: 0, 1 for a failed run, 2 for wrong usage."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(HELP, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    try:
        _run(arguments[0], arguments[1:])
    except HintwiseError as error:
        one_line = " ".join(str(error).split())
        print(f"{PROG}: {one_line}", file=sys.stderr)  # noqa: T201
        return error.exit_status if isinstance(error, WorkerError) else 1
    return 0


def _run(verb: str, rest: Sequence[str]) -> None:
    """Reads the settings before importing anything slow, so that a typo is answered at once."""
    if verb not in VERBS:
        raise UsageError(f"unknown verb {verb}{nearest(verb, VERBS)}; choose one of {', '.join(VERBS)}")
    config, function = VERBS[verb]
    words = [word for word in rest if (verb, word) != ("evaluate", "--json")]  # it prints JSON anyway
    settings = read_config(config, words, prog=f"{PROG} {verb}", environ=os.environ)
    with uncollected():
        carry_out = resolve_name(function)
    carry_out(settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
