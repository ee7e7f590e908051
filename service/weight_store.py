"""Policy versions on disk: numbers that rise and are never used twice, also across restarts.

    DIR/versions.json                 what is kept, what serves, the highest number ever
    DIR/policy-000012.safetensors     one file a retained version
    DIR/lock                          held by the service that uses the directory

A version is written and recorded before it serves. Whatever moment a service is killed at, the
next one finds every file the record names, and serves the last version recorded: the newest, or
an older one after a rollback.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import structlog
from pydantic import BaseModel, ValidationError

from hintwise.errors import HintwiseError, NotRetained

log = structlog.get_logger("service")
CHUNK_BYTES = 2**20
LOCK_TIMEOUT_S = 5.0
LOCK_RETRY_S = 0.1


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


class StoreUnusable(HintwiseError):
    """The weights directory cannot serve this model; the service does not start."""

    title = "Weights directory unusable"


class WeightStore:
    """Keeps the last `max_retained` versions in one directory.

    Args:
        directory: Created when missing.
        max_retained: Versions whose files are kept; the oldest go first, when a new one is added.

    Attributes:
        durable: Whether the record in force would survive a power cut.

    Raises:
        StoreUnusable: Another service holds the directory, or it cannot be written.
    """

    def __init__(self, directory: Path, *, max_retained: int) -> None:
        self.directory = directory
        self.durable = True
        self._max_retained = max_retained
        self._record: Record | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = (directory / "lock").open("w")
            locked = _lock(self._lock)
        except OSError as error:
            raise StoreUnusable(f"{directory} cannot be written ({error}); pass another --weights-dir") from error
        if not locked:
            self._lock.close()
            raise StoreUnusable(f"another service uses {directory}; stop it or pass another --weights-dir")
        for unfinished in directory.glob("*.part"):
            unfinished.unlink()

    @property
    def current(self) -> Version:
        """The version recorded last as the one that serves."""
        return self.version(self._known.current)

    @property
    def retained_versions(self) -> list[int]:
        return [version.policy_version for version in self._known.versions]

    def open(self, *, architecture: str, tokenizer_sha256: str, base_sha256: str) -> Path | None:
        """Returns the file of the last good version, or None when nothing has been kept yet.

        Raises:
            StoreUnusable: What is kept belongs to another model, or no kept file is whole.
        """
        path = self.directory / "versions.json"
        wanted = {"architecture": architecture, "tokenizer_sha256": tokenizer_sha256, "base_sha256": base_sha256}
        if not path.exists():
            self._record = Record(**wanted, current=0, highest=0, versions=[])
            return None
        try:
            record = Record.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StoreUnusable(f"{path} is damaged: {error.errors()[0]['msg']}; pass another --weights-dir") from error
        for name, value in wanted.items():
            if getattr(record, name) != value:
                raise StoreUnusable(
                    f"{self.directory} keeps versions of another model ({name} differs: {getattr(record, name)} there, "
                    f"{value} here); pass another --weights-dir"
                )
        self._record = record
        self.drop_forgotten()  # a killed service may have named a file before it was recorded
        return self._last_good(record)

    def path_of(self, policy_version: int) -> Path:
        """Returns the file of a retained version.

        Raises:
            NotRetained: It is not kept; the message lists what is.
        """
        self.version(policy_version)
        return self._file(policy_version)

    def new_part(self) -> Path:
        """Returns an empty file in the directory for weights that arrive; give it to `add`, or remove it."""
        descriptor, name = tempfile.mkstemp(dir=self.directory, suffix=".part")
        os.close(descriptor)
        return Path(name)

    def flush(self, part: Path) -> None:
        """Returns once the bytes of a part would survive a power cut."""
        _sync(part)

    def add(self, part: Path, sha256: str) -> Version:
        """Keeps verified, flushed weights as the next version and records it as the one that serves.

        Takes the time of a small file. The versions that are now too many are forgotten; their
        files stay until `drop_forgotten`.

        Raises:
            OSError: The record could not be written; the old one holds, and nothing is left of the part.
        """
        record = self._known
        version = Version(policy_version=record.highest + 1, sha256=sha256, created_at=datetime.now(UTC))
        kept = [*record.versions, version][-self._max_retained :]  # the one that serves from now on is the newest
        changes = {"current": version.policy_version, "highest": version.policy_version, "versions": kept}
        file = self._file(version.policy_version)
        part.rename(file)
        try:
            self._write(record.model_copy(update=changes))
        except OSError:
            file.unlink()
            raise
        return version

    def serve(self, policy_version: int) -> Version:
        """Records a retained version as the one that serves.

        Raises:
            NotRetained: It is not kept; the message lists what is.
            OSError: The record could not be written; the old one holds.
        """
        version = self.version(policy_version)
        self._write(self._known.model_copy(update={"current": policy_version}))
        return version

    def drop_forgotten(self) -> None:
        """Removes the files that the record does not name; not while `add` runs."""
        if not self.durable:
            return  # after a power cut the record before this one may hold again, and it names them
        recorded = {self._file(version.policy_version) for version in self._known.versions}
        for path in self.directory.glob("policy-*.safetensors"):
            if path not in recorded:
                path.unlink()

    def close(self) -> None:
        """Lets another service use the directory."""
        self._lock.close()

    @property
    def _known(self) -> Record:
        if self._record is None:
            raise RuntimeError("open the store before using it")
        return self._record

    def version(self, policy_version: int) -> Version:
        """Returns what is known of a retained version.

        Raises:
            NotRetained: It is not kept; the message lists what is.
        """
        for version in self._known.versions:
            if version.policy_version == policy_version:
                return version
        raise NotRetained(f"version {policy_version} is not kept; kept are {self.retained_versions}")

    def _file(self, policy_version: int) -> Path:
        return self.directory / f"policy-{policy_version:06d}.safetensors"

    def _last_good(self, record: Record) -> Path:
        """Returns the file of the newest version that is whole, the current one first; forgets what is damaged."""
        candidates = sorted(record.versions, key=lambda v: (v.policy_version == record.current, v.policy_version))
        while candidates:
            newest = candidates.pop()
            if sha256_of_file(self._file(newest.policy_version)) == newest.sha256:
                kept = sorted([*candidates, newest], key=lambda v: v.policy_version)
                present = [v for v in kept if self._file(v.policy_version).exists()]
                if len(present) < len(record.versions):
                    self._write(record.model_copy(update={"current": newest.policy_version, "versions": present}))
                return self._file(newest.policy_version)
        raise StoreUnusable(f"no version kept in {self.directory} is whole; pass another --weights-dir")

    def _write(self, record: Record) -> None:
        """Puts `record` in force; what fails before that leaves the one before it."""
        path = self.directory / "versions.json"
        part = path.with_suffix(".part")
        try:
            part.write_text(json.dumps(record.model_dump(mode="json"), indent=1))
            _sync(part)
            part.rename(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        self._record, self.durable = record, False
        try:
            _sync(self.directory)
        except OSError as error:  # the record is in force already: there is no way back, but one may tell
            log.warning("a version may not survive a power cut", policy_version=record.current, reason=str(error))
        else:
            self.durable = True


def _lock(file: IO[str]) -> bool:
    """Returns whether the file could be locked; a service that is just stopping is waited for."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOCK_RETRY_S)
        else:
            return True


def sha256_of_file(path: Path) -> str | None:
    """Returns the hex digest of a file; None when there is none."""
    digest = hashlib.sha256()
    if not path.exists():
        return None
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Returns once a file, or the names in a directory, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
