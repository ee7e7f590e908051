"""The tutorial's beginning, with another model in the one line that the page says may be changed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from tests.e2e.pages import Block, Session, blocks_of
from tests.e2e.processes import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
BLOCKS = blocks_of(PAGE)
SMALL_GPT2 = "gpt2 = small_gpt2()"
TRUE_GPT2 = 'gpt2 = load_language_model("openai-community/gpt2")'


def names_after_the_first_failure(directory: Path, gpt2: str, **given: object) -> dict[str, object]:
    """Returns the session's names.

    Args:
        directory: Stands in for the page's `runs/`.
        gpt2: What the changed line assigns.
        given: Names that it uses.
    """
    python = [block for block in BLOCKS if block.language == "python"]
    ends = next(place for place, block in enumerate(python) if "multinomial(1_000" in block.text)
    text = "\n".join(block.text for block in python[: ends + 1])
    assert SMALL_GPT2 in text
    with contextlib.ExitStack() as stack, torch.random.fork_rng():
        session = Session(directory, stack)
        session.names.update(given)
        session.run(Block(PAGE.name, 1, "python", text.replace(SMALL_GPT2, f"gpt2 = {gpt2}")))
    return session.names
