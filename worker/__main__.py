"""`python -m worker train | evaluate | plot | describe | pretrain`; every failure by design is one line on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hintwise.errors import HintwiseError
from worker.command_line import read_config
from worker.config import DescribeConfig, EvaluateConfig, PlotConfig, PretrainConfig, TrainConfig
from worker.errors import UsageError, WorkerError

PROG = "python -m worker"
HELP = f"""usage: {PROG} VERB [options]

  train     train a policy: {PROG} train --env-id CartPole-v1
  evaluate  play fresh episodes with it: {PROG} evaluate RUN_DIR
  plot      draw its learning curve: {PROG} plot RUN_DIR
  describe  show an environment as the model reads it: {PROG} describe --env-id CartPole-v1
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
    prog = f"{PROG} {verb}"
    match verb:
        case "train":
            train_config = read_config(TrainConfig, rest, prog=prog, environ=os.environ)
            from worker.train import train

            train(train_config)
        case "evaluate":
            words = [word for word in rest if word != "--json"]  # what is printed anyway
            evaluate_config = read_config(EvaluateConfig, words, prog=prog, environ=os.environ)
            from worker.evaluate import evaluate

            evaluate(evaluate_config)
        case "plot":
            plot_config = read_config(PlotConfig, rest, prog=prog, environ=os.environ)
            from worker.plot import plot

            plot(plot_config)
        case "describe":
            describe_config = read_config(DescribeConfig, rest, prog=prog, environ=os.environ)
            from worker.describe import describe

            describe(describe_config)
        case "pretrain":
            pretrain_config = read_config(PretrainConfig, rest, prog=prog, environ=os.environ)
            from worker.pretraining.run import run

            run(pretrain_config)
        case _:
            raise UsageError(f"unknown verb {verb}; choose train, evaluate, plot, describe or pretrain")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
