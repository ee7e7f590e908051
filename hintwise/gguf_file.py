"""One GGUF file -> a causal LM and its tokenizer, by transformers' own reader.

A GGUF file holds everything: configuration, vocabulary and weights, these mostly in blocks of a
few bits. Every block is unpacked to fp32 here, so that the model can be trained and its
numbers do not depend on which kernels are installed; a parameter takes 4 bytes of memory.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from hintwise.errors import ModelNotFound

PACKAGES = ("gguf", "accelerate")
"""What transformers needs to read such a file; the extra `gguf` installs them."""


def check_gguf_packages(name: str) -> None:
    """Raises unless GGUF files can be read here.

    Raises:
        ModelNotFound: A package is missing; the message says what to install.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ModelNotFound(
            f"model {name!r} is a GGUF file; to read it, install {' and '.join(missing)}: pip install 'hintwise[gguf]'"
        )


def load_gguf(path: Path) -> tuple[PreTrainedTokenizerBase, Any, dict[str, Any]]:
    """Returns tokenizer, model in fp32, and transformers' account of what was loaded.

    Raises:
        Exception: Whatever transformers stumbles over in a damaged file.
    """
    from transformers import GgufConfig  # here, for older versions lack it

    # transformers is asked for a directory and would also heed a tokenizer that lies there.
    # Its progress bar has no switch, and a log in JSON no room for one; what it has to say, it says by logging.
    with TemporaryDirectory(prefix="hintwise-gguf-") as alone, redirect_stderr(StringIO()):
        (Path(alone) / "model.gguf").symlink_to(path.resolve())
        tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file="model.gguf")
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            alone,
            gguf_file="model.gguf",
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    return tokenizer, *loaded
