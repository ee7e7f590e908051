"""What the engine makes of the arithmetic that scoring needs, on a 124M GPT-2 and on the embedded model.

    python -m benchmarks.engine --tokenizer DIR          DIR: GPT-2's own tokenizer
    python -m benchmarks.engine --tokenizer DIR --profile

`GPT2Config()` with random weights, 64 distinct prompts of 60 tokens, 6 candidates of two tokens each; and the
embedded model with CartPole's prompts and actions. One thread; rounds alternate between

    naive   transformers re-reads the prompt for each candidate, logits everywhere, in the best of several batch sizes
    ours    PolicyRunner.score on the same prompts; no answers are kept, and every prompt is new
    bare    benchmarks/bare_gpt2.py, the best loop we can write by hand for this very shape
    sgemm   torch.mm for the shapes that the needed arithmetic has, weighted as they occur, and for a square one

All of them in processor time, tokenization left out. The share of the sgemm rate is the needed arithmetic
(benchmarks/model_shape.py has the formula) over time, over that rate.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config

from benchmarks import results_file
from benchmarks.bare_gpt2 import BareGpt2
from benchmarks.engine_prompts import Prompts, cartpole_prompts, check_lengths, prompts_of_60_tokens
from benchmarks.model_shape import ModelShape, depths_of_nodes, needed_flop, needed_products
from benchmarks.naive_scores import NaiveScorer
from benchmarks.random_models import random_gpt2
from benchmarks.runners import cacheless_runner, scored_prompts
from benchmarks.sgemm_rate import SQUARE, flop_per_s, seconds_of
from hintwise.language_model import load_language_model
from hintwise.tokens import TextEncoder

PARTS_OF_NAIVE = (2, 6, 12, 24, 48)
PARTS_OF_BARE = (4, 8, 16, 32, 64)
SHORTEST_S = 0.3
"""A measurement goes on at least so long: one forward of the embedded model takes milliseconds."""
NUM_COMPARED = 4
TOLERANCE = 1e-4
"""Of the differences between scores, times 1 + |score|: the parity rule above 100M parameters."""
PROFILE = results_file.RESULTS / "engine_profile.txt"

MakePrompts = Callable[[TextEncoder, int, random.Random], Prompts]
Round = dict[str, float]


class Contest:
    """One model and one kind of prompt, scored in three ways.

    Args:
        directory: The model, as `load_language_model` takes it.
        make_prompts: Makes the prompts of a round.
        num_observations: Prompts in a batch.
        num_naive: Prompts in a batch of the naive way, which takes long and is linear in them.
    """

    def __init__(self, directory: str, make_prompts: MakePrompts, num_observations: int, num_naive: int) -> None:
        self.model = load_language_model(directory)
        self.runner = cacheless_runner(self.model)
        self.naive = NaiveScorer(directory)
        self.make_prompts = make_prompts
        self.num_observations, self.num_naive = num_observations, num_naive
        prompts = self.prompts(random.Random(0))
        self.candidates = self.runner.candidates(prompts.actions)
        token_ids = self.runner.encoder.phrases(prompts.actions).token_ids
        self.depths = depths_of_nodes(token_ids)
        self.num_prompt_tokens = len(self.encoded(prompts)[0])
        self.shape = ModelShape.of(self.model.model.config)
        bare = partial(BareGpt2, self.model.model, token_ids, self.num_prompt_tokens)
        parts = [part for part in PARTS_OF_BARE if part <= num_observations]
        rows = torch.tensor(self.encoded(prompts))
        self.bare_part = min(parts, key=lambda part: _seconds(partial(bare(part=part).scores, rows)))
        self.bare = bare(part=self.bare_part)
        few = self.naive.encode(prompts.texts[: PARTS_OF_NAIVE[-1] // len(prompts.actions)], prompts.actions)
        ways = {part: partial(self.naive.scores_in_parts, few, part) for part in PARTS_OF_NAIVE}
        self.naive_part = min(ways, key=lambda part: _seconds(ways[part]))
        self._check_agreement(prompts)

    def prompts(self, generator: random.Random) -> Prompts:
        return self.make_prompts(self.runner.encoder, self.num_observations, generator)

    def encoded(self, prompts: Prompts) -> list[tuple[int, ...]]:
        return [self.runner.encoder.encode(text) for text in prompts.texts]

    def ours(self, prompts: Prompts) -> Callable[[], Any]:
        """Returns what scores the prompts; they are tokenized now."""
        items = scored_prompts(self.runner, prompts.texts, self.candidates)
        return partial(self.runner.score, items)

    def round(self, number: int) -> Round:
        """Returns seconds of each way for one observation, and the rates of the machine just now."""
        prompts = self.prompts(random.Random(number))
        rows = self.naive.encode(prompts.texts[: self.num_naive], prompts.actions)
        return {
            "naive_s": _seconds(partial(self.naive.scores_in_parts, rows, self.naive_part)) / self.num_naive,
            "ours_s": _seconds(self.ours(prompts)) / self.num_observations,
            "bare_s": _seconds(partial(self.bare.scores, torch.tensor(self.encoded(prompts)))) / self.num_observations,
            "sgemm_flop_per_s": flop_per_s(
                needed_products(self.shape, self.num_observations, self.num_prompt_tokens, self.depths)
            ),
            "square_sgemm_flop_per_s": SQUARE.flop / seconds_of(SQUARE),
        }

    @property
    def flop(self) -> int:
        """Operations that one observation needs."""
        return needed_flop(self.shape, 1, self.num_prompt_tokens, self.depths)

    def _check_agreement(self, prompts: Prompts) -> None:
        few = Prompts(prompts.texts[:NUM_COMPARED], prompts.actions)
        naive = self.naive.scores(self.naive.encode(few.texts, few.actions)).view(len(few.texts), -1)
        ours = torch.tensor([answer.scores for answer in self.ours(few)()])
        for name, scores in {"ours": ours, "bare": self.bare.scores(torch.tensor(self.encoded(few)))}.items():
            _check_close(name, scores, naive)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        contests = {}
        if not arguments.only_embedded:
            gpt2 = stack.enter_context(random_gpt2(GPT2Config(), str(arguments.tokenizer)))
            contests["gpt2_124m"] = _contest(gpt2, _prompts_of_gpt2, arguments)
        contests["embedded"] = _contest("embedded", cartpole_prompts, arguments)
        measured = {name: _measured(contest, arguments) for name, contest in contests.items()}
        if arguments.profile:
            PROFILE.write_text("\n\n".join(f"{name}\n{_profile(contest)}" for name, contest in contests.items()))
    print(results_file.write("engine", {"num_threads": 1, "models": measured}).read_text())


def _contest(directory: str, make_prompts: MakePrompts, arguments: argparse.Namespace) -> Contest:
    num_naive = min(arguments.naive_observations or arguments.observations, arguments.observations)
    return Contest(directory, make_prompts, arguments.observations, num_naive)


def _prompts_of_gpt2(encoder: TextEncoder, count: int, generator: random.Random) -> Prompts:
    prompts = prompts_of_60_tokens(encoder, count, generator)
    check_lengths([encoder.encode(text) for text in prompts.texts], encoder.phrases(prompts.actions).token_ids)
    return prompts


def _measured(contest: Contest, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the summary of one contest."""
    rounds: list[Round] = []
    for number in range(1, arguments.rounds + 1):
        rounds.append(contest.round(number))
        print(json.dumps(rounds[-1]), file=sys.stderr)

    def median(of: Callable[[Round], float]) -> float:
        return statistics.median(of(measured) for measured in rounds)

    def share(way: str, rate: str) -> float:
        return median(lambda each: contest.flop / each[f"{way}_s"] / each[f"{rate}_flop_per_s"])

    return {
        "observations": contest.num_observations,
        "naive_observations": contest.num_naive,
        "prompt_tokens": contest.num_prompt_tokens,
        "candidates": contest.candidates.num_actions,
        "naive_rows_per_forward": contest.naive_part,
        "bare_prompts_per_part": contest.bare_part,
        "needed_flop_per_observation": contest.flop,
        "ours_rate_over_naive_rate": median(lambda each: each["naive_s"] / each["ours_s"]),
        "ours_rate_over_bare_rate": median(lambda each: each["bare_s"] / each["ours_s"]),
        **{
            f"{way}_share_of_{rate}": share(way, rate) for way in ("ours", "bare") for rate in ("sgemm", "square_sgemm")
        },
        "medians": {key: median(itemgetter(key)) for key in rounds[0]},
        "rounds": rounds,
    }


def _seconds(run: Callable[[], Any]) -> float:
    """Returns the mean processor time of a call, over as many as fill a moment."""
    count, started = 0, time.process_time()
    while (elapsed := time.process_time() - started) < SHORTEST_S or not count:
        run()
        count += 1
    return elapsed / count


def _check_close(name: str, scores: Tensor, expected: Tensor) -> None:
    difference = ((scores - expected).abs() / (1 + expected.abs())).max()
    if not difference <= TOLERANCE:
        raise RuntimeError(f"{name} differs from the naive scores by {float(difference)}; it is not the same job")


def _profile(contest: Contest) -> str:
    """Returns where our time goes: the operations that take most of it."""
    run = contest.ours(contest.prompts(random.Random(0)))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        run()
    averages = profiler.key_averages()
    return str(averages.table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="directory of GPT-2's own tokenizer")
    parser.add_argument("--only-embedded", action="store_true", help="leave the 124M model out")
    parser.add_argument("--observations", type=int, default=64, help="prompts in a batch")
    parser.add_argument("--naive-observations", type=int, help="fewer for the naive way, which takes long")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help=f"write where our time goes to {PROFILE.name}")
    arguments = parser.parse_args(given)
    if arguments.tokenizer is None and not arguments.only_embedded:
        parser.error("pass --tokenizer DIR with GPT-2's vocab.json and merges.txt, or --only-embedded")
    return arguments


if __name__ == "__main__":
    main()
