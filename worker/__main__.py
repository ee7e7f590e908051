"""`python -m worker VERB`, as `HELP` lists them; every failure by design is one line on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hintwise.errors import HintwiseError
from worker.command_line import nearest, read_config
from worker.config import DescribeConfig, EvaluateConfig, PlotConfig, TrainConfig
from worker.errors import UsageError, WorkerError
from worker.experiment_config import RecordConfig, ReportConfig, SweepConfig
from worker.pretraining.settings import PretrainConfig

PROG = "python -m worker"
VERBS = "train", "evaluate", "plot", "describe", "sweep", "report", "record", "pretrain"
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
            _run_on_many(verb, rest, prog)


def _run_on_many(verb: str, rest: Sequence[str], prog: str) -> None:
    """The verbs of experiments, beside those of one run."""
    match verb:
        case "sweep":
            sweep_config = read_config(SweepConfig, rest, prog=prog, environ=os.environ)
            from worker.experiments.sweep import sweep

            sweep(sweep_config)
        case "report":
            report_config = read_config(ReportConfig, rest, prog=prog, environ=os.environ)
            from worker.reporting.report import report

            report(report_config)
        case "record":
            record_config = read_config(RecordConfig, rest, prog=prog, environ=os.environ)
            from worker.recording.record import record

            record(record_config)
        case _:
            verbs = ", ".join(VERBS)
            raise UsageError(f"unknown verb {verb}{nearest(verb, VERBS)}; choose one of {verbs}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
