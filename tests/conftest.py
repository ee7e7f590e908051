"""Fixtures that more than one kind of test needs."""

from __future__ import annotations

import pytest
import torch

from hintwise.language_model import LanguageModel, load_language_model

torch.set_num_threads(1)  # the machine's other core belongs to the other process of a test


@pytest.fixture(scope="session")
def embedded() -> LanguageModel:
    """The embedded model. Never train or swap it: everybody shares it."""
    return load_language_model("embedded")


@pytest.fixture
def fresh_embedded() -> LanguageModel:
    """An embedded model of one's own."""
    return load_language_model("embedded")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-runs", type=int, default=3, help="how often each fault that strikes at a random moment is tried"
    )


@pytest.fixture
def fault_runs(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--fault-runs"))
