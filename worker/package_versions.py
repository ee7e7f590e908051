"""Which versions a run was made with."""

from __future__ import annotations

import platform
from importlib import metadata

RECORDED = "hintwise", "torch", "transformers", "tokenizers", "gymnasium", "numpy", "safetensors"


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a run's numbers depend on."""
    versions = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
