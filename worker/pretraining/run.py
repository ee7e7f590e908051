"""`python -m worker pretrain`: corpus, training and measurement, from the settings."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from hintwise.gpt2_forward import GPT2Forward
from hintwise.language_model import load_language_model
from hintwise.tokens import TextEncoder
from worker.errors import UsageError
from worker.interrupt import StopRequest
from worker.pretraining.batches import Batches
from worker.pretraining.corpus import Corpus, build_corpus
from worker.pretraining.evaluate import measure
from worker.pretraining.hints import Hints
from worker.pretraining.lines import RowWriter
from worker.pretraining.model import build_model
from worker.pretraining.model_card import model_card, shortfall_text, table
from worker.pretraining.reader import Reader
from worker.pretraining.saved_training import TRAINING_DIR, SavedTraining
from worker.pretraining.settings import PretrainConfig
from worker.pretraining.targets import shortfalls
from worker.pretraining.tokenizer import MAX_POSITIONS, build_tokenizer, texts_of
from worker.pretraining.train import Plan, batch_losses, train
from worker.pretraining.worlds import CORPUS, UNSEEN

HELD_OUT_STEPS = 8
"""Batches of held-out states that the perplexity is a mean of."""
EVALUATION_FILE = "evaluation.json"
HINTS_FILE = "hints.json"
FIXED = {"seed", "num_states", "batch_tokens", "layers", "width"}
"""Settings that a resumed training keeps: it would go on with another corpus or model."""


def run(config: PretrainConfig) -> None:
    """Trains a model, or measures one.

    Raises:
        UsageError: The directory holds something already, or nothing to go on from.
        Interrupted: A signal asked to stop; `--resume` goes on.
    """
    torch.set_num_threads(config.num_threads)
    if config.evaluate is not None:
        rows = evaluate(config.evaluate, config)
        print(json.dumps(measurements(rows, config)))  # noqa: T201
    elif config.out is not None:
        pretrain(config.out, config)


def pretrain(directory: Path, config: PretrainConfig) -> None:
    """Writes a trained model with its card into `directory`."""
    _check_directory(directory, config.resume)
    say("making the corpus")
    corpus = _interruptible_corpus(config)
    tokenizer = build_tokenizer(texts_of(corpus.states))
    model = build_model(tokenizer, layers=config.layers, width=config.width, seed=config.seed)
    say(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters")
    plan = Plan(config.num_steps, config.minutes, config.learning_rate)
    progress = train(
        model,
        _batches(corpus, tokenizer, config),
        plan,
        SavedTraining(directory, config.model_dump(include=FIXED)),
        resume=config.resume,
        say=say,
    )
    perplexity = held_out_perplexity(model, corpus, tokenizer, config)
    say(f"held-out perplexity {perplexity:.4f}")
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)
    books = {family: {"actions": book.actions, "clauses": book.clauses} for family, book in corpus.hints.books.items()}
    (directory / HINTS_FILE).write_text(json.dumps(books, indent=1) + "\n")
    rows = evaluate(directory, config)
    card = model_card(model, config, corpus, rows, vocabulary=len(tokenizer), perplexity=perplexity, progress=progress)
    (directory / "README.md").write_text(card)
    SavedTraining(directory).remove()


def evaluate(directory: Path, config: PretrainConfig) -> list[dict[str, Any]]:
    """Returns the measurements; the table goes to stderr, and a file beside the model keeps them."""
    reader = Reader(load_language_model(str(directory)))
    hints = known_hints(directory, config)
    with redirect_stdout(sys.stderr):  # BabyAI reports the missions it throws away
        rows = measure(reader, [*CORPUS, *UNSEEN], hints, episodes=config.episodes, report=say)
    measured = measurements(rows, config)
    (directory / EVALUATION_FILE).write_text(json.dumps(measured, indent=1) + "\n")
    say(f"{table(rows)}\n\n{shortfall_text(rows)}")
    return rows


def measurements(rows: list[dict[str, Any]], config: PretrainConfig) -> dict[str, Any]:
    """Returns what was measured, as JSON holds it."""
    return {"episodes": config.episodes, "worlds": rows, "falls_short": shortfalls(rows)}


def held_out_perplexity(
    model: GPT2LMHeadModel, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, config: PretrainConfig
) -> float:
    """Returns exp of the mean loss on held-out states; the evenly spread actions are part of it."""
    batches = _batches(corpus._replace(states=corpus.held_out or corpus.states), tokenizer, config)
    forward = GPT2Forward(model)
    with torch.inference_mode():
        parts = [part for step in range(HELD_OUT_STEPS) for part in batches.batch(step)]
        loss = sum(batch_losses(model, forward, part)[0].item() for part in parts)
    return math.exp(loss / sum(part.weights.sum().item() for part in parts))


def say(text: str) -> None:
    """Writes a line for the person who waits."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _interruptible_corpus(config: PretrainConfig) -> Corpus:
    """Returns the corpus; a signal stops between two worlds, with nothing to go on from."""
    with StopRequest() as stop, redirect_stdout(sys.stderr):  # BabyAI reports the missions it throws away

        def report(line: str) -> None:
            say(line)
            stop.check()

        return build_corpus(CORPUS, num_states=config.num_states, seed=config.seed, report=report)


def _batches(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, config: PretrainConfig) -> Batches:
    writer = RowWriter(TextEncoder(tokenizer, max_tokens=MAX_POSITIONS), corpus.hints, corpus.tasks)
    return Batches(corpus.states, corpus.weights, writer, num_tokens=config.batch_tokens, seed=config.seed)


def known_hints(directory: Path, config: PretrainConfig) -> Hints:
    """Returns what is well formed: as the model's own corpus had it, else as a small corpus has it."""
    try:
        books = json.loads((directory / HINTS_FILE).read_text())
    except OSError:
        return build_corpus(CORPUS, num_states=300, seed=config.seed).hints
    return Hints.read(books)


def _check_directory(directory: Path, resume: bool) -> None:
    begun = (directory / TRAINING_DIR).is_dir()
    if resume and not begun:
        raise UsageError(f"--resume: {directory} holds no unfinished training; leave out --resume to begin one")
    if not resume and _holds_a_model(directory, [TRAINING_DIR, "config.json"]):
        raise UsageError(f"{directory} holds a model or an unfinished training; pass another --out, or --resume")


def _holds_a_model(directory: Path, names: Sequence[str]) -> bool:
    return any((directory / name).exists() for name in names)
