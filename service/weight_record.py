"""What the weights directory says about itself: one record that was flushed, and perhaps one that was not yet.

    DIR/versions.json              replaced only by a record that is on disk, with all it names
    DIR/unflushed-000012.json      a newer one that a power cut may empty; 12 is the highest number it knows

Whichever is whole and newest holds. A killed process loses neither, as the system still writes its
files. Where a power cut damages the newer one, its name still tells which numbers have been used.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

import structlog
from pydantic import BaseModel, ValidationError

from hintwise.disk import sync as sync  # the store's, too

log = structlog.get_logger("service")


class Version(BaseModel):
    policy_version: int
    sha256: str
    created_at: datetime


class Record(BaseModel):
    """`versions.json`."""

    architecture: str
    tokenizer_sha256: str
    base_sha256: str
    current: int
    highest: int
    versions: list[Version]
    change: int = 0
    """Counts the records of a directory: the highest is the newest."""


def flushed_path(directory: Path) -> Path:
    return directory / "versions.json"


def unflushed_paths(directory: Path) -> list[Path]:
    return sorted(directory.glob("unflushed-*.json"))


def write_unflushed(directory: Path, record: Record) -> None:
    """Puts `record` in force for whoever reads the directory while the system runs on.

    Raises:
        OSError: It could not be written; the one before it holds.
    """
    _replace(directory / f"unflushed-{record.highest:06d}.json", record, flushed=False)


def write_flushed(directory: Path, record: Record) -> None:
    """Puts `record` in force for good, once everything that it names is on disk.

    Raises:
        OSError: It may not survive a power cut; the one before it then holds.
    """
    _replace(flushed_path(directory), record, flushed=True)
    sync(directory)


def read(directory: Path) -> list[Record]:
    """Returns the records that are whole, the one in force first; none of a directory that has no record yet.

    Raises:
        ValidationError: `versions.json` is damaged, and no other record is whole.
    """
    whole: list[Record] = []
    damage: ValidationError | None = None
    for path in [*unflushed_paths(directory), flushed_path(directory)]:
        try:
            whole.append(Record.model_validate_json(path.read_bytes()))
        except FileNotFoundError:
            continue
        except ValidationError as error:
            log.warning("a record of versions is damaged", file=path.name)
            damage = error
    if damage is not None and not whole:
        raise damage
    return sorted(whole, key=lambda record: record.change, reverse=True)


def highest_number(directory: Path) -> int:
    """Returns the highest version that any file's name in the directory tells of; 0 for none."""
    names = [path.name for path in directory.iterdir()]
    found = (re.fullmatch(r"(?:policy|unflushed)-(\d{6,15})\.(?:safetensors|json)", name) for name in names)
    return max((int(match[1]) for match in found if match), default=0)


def _replace(path: Path, record: Record, *, flushed: bool) -> None:
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(record.model_dump(mode="json"), indent=1))
        if flushed:
            sync(part)
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
