"""Writes a benchmark's result with everything needed to measure it again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("gymnasium", "safetensors", "torch", "transformers", "fastapi", "uvicorn", "pydantic", "httpx", "numpy")


def write(name: str, measured: dict[str, Any]) -> Path:
    """Writes `benchmarks/results/NAME.json`; returns its path."""
    path = RESULTS / f"{name}.json"
    record = {
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *map(shown, sys.argv[1:])]),
        "commit": _git("rev-parse", "HEAD")
        + (
            ""
            if not _git("status", "--porcelain", "--", "hintwise", "service", "worker", "benchmarks/*.py")
            else " (changed)"
        ),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "packages": {package: version(package) for package in PACKAGES},
        **measured,
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def read(name: str) -> dict[str, Any]:
    """Returns what `write` wrote last; nothing where it has not."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def shown(argument: str) -> str:
    """Returns a command's argument without the directories of this machine: of an absolute path, its last part."""
    flag, equals, value = argument.rpartition("=")
    return f"{flag}{equals}{Path(value).name if Path(value).is_absolute() else value}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
