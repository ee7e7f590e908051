"""A causal language model with its tokenizer, from a name (`hintwise.model_names`).

Weights come from safetensors or GGUF alone: a pickle runs code when it is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from hintwise.errors import ModelNotFound
from hintwise.gguf_file import check_gguf_packages, load_gguf
from hintwise.gpt2_forward import GPT2Forward
from hintwise.model_names import CHOICES, EMBEDDED, is_gguf_file
from hintwise.token_rows import TokenRows
from hintwise.tokens import tokenizer_sha256
from hintwise.trunk_forward import TransformersForward, TrunkForward
from hintwise.weights import state_sha256

NO_ERROR_OF_ITS_OWN = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    AssertionError,  # torch, of a device that is not there
    SafetensorError,
    IndexError,
    OverflowError,
    MemoryError,
    struct.error,  # these four, of a damaged GGUF file
)
"""What transformers lets through when a model cannot be loaded; it has no error of its own."""
DAMAGED = "The file is damaged or incomplete, or its architecture is none that transformers reads from GGUF."


@dataclass(frozen=True)
class LanguageModel:
    """A causal LM in fp32 with dropout off, and what identifies it."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str
    tokenizer_sha256: str
    trunk_forward: TrunkForward
    """How its hidden states are computed."""

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return int(self.model.config.hidden_size)

    @property
    def max_tokens(self) -> int:
        """Positions the model reads."""
        return int(self.model.config.max_position_embeddings)

    @property
    def num_parameters(self) -> int:
        return int(self.model.num_parameters())

    @property
    def architecture(self) -> str:
        """Returns what must agree for weights to fit, such as `gpt2 2x64 vocabulary 1024`."""
        config = self.model.config
        return f"{config.model_type} {config.num_hidden_layers}x{config.hidden_size} vocabulary {config.vocab_size}"


def load_language_model(name: str, *, device: str = "cpu") -> LanguageModel:
    """Returns the causal LM called `name`, in fp32, with dropout off.

    Args:
        name: One of `EMBEDDED`, a directory, a GGUF file, or a hub id.
        device: Where the weights go: `cpu`, `cuda`, `cuda:1`.

    Raises:
        ModelNotFound: Nothing usable has that name; the message lists the choices.
    """
    source = _source(name)
    if Path(source).exists():  # a bar for a download is news, for reading a local file it is noise
        disable_progress_bar()
    try:
        tokenizer, loaded, account = load_gguf(Path(source)) if is_gguf_file(source) else _load_safetensors(source)
        model: PreTrainedModel = loaded.eval()
        torch.nn.Module.to(model, device)  # transformers gives its own `to` no types
    except NO_ERROR_OF_ITS_OWN as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what_to_do = DAMAGED if is_gguf_file(source) else CHOICES
        raise ModelNotFound(f"model {name!r} could not be loaded: {reason} {what_to_do}") from error
    _check_complete(name, account)
    trunk_forward = trunk_forward_of(model)
    _check_head(name, model, trunk_forward)
    return LanguageModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        sha256=state_sha256(model.state_dict()),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        trunk_forward=trunk_forward,
    )


def trunk_forward_of(model: PreTrainedModel) -> TrunkForward:
    """Returns how a model's hidden states are computed; it knows the modules that the model has now."""
    return GPT2Forward(cast("GPT2LMHeadModel", model)) if GPT2Forward.can_run(model) else TransformersForward(model)


def _load_safetensors(source: str) -> tuple[PreTrainedTokenizerBase, Any, dict[str, Any]]:
    """Returns tokenizer, model in fp32, and transformers' account of what was loaded."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    return tokenizer, *loaded


def _source(name: str) -> str:
    """Returns what is loaded: a directory or GGUF file that exists, or a hub id."""
    if name in EMBEDDED:
        return str(EMBEDDED[name])
    if is_gguf_file(name):
        if not Path(name).is_file():
            raise ModelNotFound(f"there is no file {name!r}; {CHOICES}")
        check_gguf_packages(name)
        return name
    if name and Path(name).is_dir():
        return name
    if close := get_close_matches(name, EMBEDDED, n=1, cutoff=0.8):
        raise ModelNotFound(f"there is no model {name!r}; did you mean {close[0]!r}?")
    is_hub_id = name.count("/") <= 1 and not name.startswith((".", "/", "~")) and "\\" not in name and name
    if not is_hub_id or Path(name).exists():
        raise ModelNotFound(f"model {name!r} is neither a directory nor a hub id; {CHOICES}")
    return name


def _check_complete(name: str, account: dict[str, Any]) -> None:
    """Refuses a model some of whose weights were not in its files: transformers fills them with random numbers."""
    missing = sorted(account["missing_keys"])
    if missing:
        raise ModelNotFound(
            f"model {name!r} lacks {len(missing)} of its tensors, {missing[0]} among them; "
            f"get its files again, or {CHOICES}"
        )


@torch.no_grad()
def _check_head(name: str, model: PreTrainedModel, trunk_forward: TrunkForward) -> None:
    """Refuses an architecture whose logits are not its output layer on its last hidden states.

    The policy computes logits at the positions it needs alone. Some architectures cap or scale
    theirs afterwards; scoring them as if they did not would be wrong in silence.
    """
    probe = torch.arange(1, 9, device=model.device).remainder(model.config.vocab_size).unsqueeze(0)
    rows = TokenRows(probe[0, :0], probe, torch.arange(8, device=model.device)[None], branches=None)
    hidden = trunk_forward.hidden_states(rows, None)
    ours: Tensor = model.get_output_embeddings()(hidden).float()
    theirs: Tensor = model(input_ids=probe, use_cache=False).logits.float()
    if not theirs.isfinite().all():
        raise ModelNotFound(f"model {name!r} computes numbers that are not finite; get its files again, or {CHOICES}")
    if not torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4):
        raise ModelNotFound(
            f"model {name!r} ({model.config.model_type}) changes its logits after the output layer, "
            f"which the policy cannot reproduce; {CHOICES}"
        )
