"""Fixtures of tests with real processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import GPT2LMHeadModel

from hintwise.model_names import EMBEDDED_DIR

if TYPE_CHECKING:
    from tests.e2e.service_process import Process


@pytest.fixture(scope="session")
def another_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with one number changed: the same architecture, another base of adapters."""
    directory = tmp_path_factory.mktemp("another") / "base"
    shutil.copytree(EMBEDDED_DIR, directory)
    model = GPT2LMHeadModel.from_pretrained(directory)
    with torch.no_grad():
        model.transformer.ln_f.bias[0] += 1.0
    model.save_pretrained(directory)
    return directory


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[Process]:
    """A service that a test may stop, or load as it likes."""
    from tests.e2e.service_process import Process  # here: pytest loads this file before its folder is a package

    process = Process(tmp_path)
    yield process
    process.kill()
