"""What a model may be called, known without loading one.

| name                      | what is loaded                                             |
| ------------------------- | ---------------------------------------------------------- |
| `embedded`                | the small untrained GPT-2 that ships with this package,    |
|                           | for a policy that learns                                   |
| `embedded-language`       | the pretrained one that ships with it, which writes hints  |
|                           | and scores them                                            |
| a directory               | config.json, *.safetensors and tokenizer files, as         |
|                           | transformers' `save_pretrained` writes them                |
| a file `*.gguf`           | that file, its weights unpacked to fp32                    |
| `openai-community/gpt2`   | that repository of the model hub, from the cache or fetched |
"""

from __future__ import annotations

from pathlib import Path

EMBEDDED_DIR = Path(__file__).parent / "models" / "embedded"
LANGUAGE_DIR = Path(__file__).parent / "models" / "language"
EMBEDDED = {"embedded": EMBEDDED_DIR, "embedded-language": LANGUAGE_DIR}
CHOICES = (
    "choose 'embedded', 'embedded-language', a directory written by save_pretrained, a file *.gguf, or a hub id "
    "such as 'openai-community/gpt2'"
)


def is_gguf_file(name: str) -> bool:
    """Returns whether a model's name is that of a GGUF file."""
    return name.lower().endswith(".gguf")
