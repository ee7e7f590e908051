"""Fixtures that more than one kind of test needs."""

from __future__ import annotations

import gc

gc.disable()  # until all is imported and collected: it would look through that again and again

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from textwrap import dedent

import hypothesis
import pytest
import torch

from hintwise import describers
from hintwise.language_model import LanguageModel, load_language_model

hypothesis.settings.register_profile("hintwise", deadline=None)  # how long anything takes is no test's business
hypothesis.settings.load_profile("hintwise")
torch.set_num_threads(1)  # the machine's other core belongs to the other process of a test


@pytest.fixture(scope="session")
def embedded() -> LanguageModel:
    """The embedded model. Never train or swap it: everybody shares it."""
    return load_language_model("embedded")


@pytest.fixture(scope="session")
def language() -> LanguageModel:
    """The pretrained model, which writes hints and scores them unless a service is told otherwise."""
    return load_language_model("embedded-language")


@pytest.fixture
def fresh_embedded() -> LanguageModel:
    """An embedded model of one's own."""
    return load_language_model("embedded")


@pytest.fixture
def install_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts packages with entry points on the path, as `pip install` leaves them."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(describers, "_plugins", cache(describers._plugins.__wrapped__))  # what was found is kept

    def install(group: str, module: str, code: str, *, package: str = "plugged", **brought: str) -> None:
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(dedent(code))
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in brought.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))

    return install


class Unwatched:
    """Lets a hint go on whatever it says: the embedded model loops, and tests of other things want its tokens."""

    ends_a_sentence = False

    def __init__(self, prompt: object) -> None:
        self.num_sure = 0

    def add(self, token: int) -> None:
        self.num_sure += 1


@pytest.fixture(scope="session")
def unwatched() -> type[Unwatched]:
    """What a hint generator takes for its `_watch`, so that hints end at stops and when they are full alone."""
    return Unwatched


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-runs", type=int, default=3, help="how often each fault that strikes at a random moment is tried"
    )


@pytest.fixture
def fault_runs(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--fault-runs"))
