"""Policy versions on disk: numbers that rise and are never used twice, also across restarts.

    DIR/versions.json                 what is kept, what serves, the highest number ever; see weight_record
    DIR/policy-000012.safetensors     one file a retained version
    DIR/lock                          held by the service that uses the directory

A version is written and recorded before it serves, and flushed to the disk afterwards. Whatever
moment a service is killed at, the next one finds every file the record names, and serves the last
version recorded: the newest, or an older one after a rollback. A power cut can only cost what was
not flushed yet: the next service then serves the last version that is whole.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog
from pydantic import ValidationError

from hintwise.errors import HintwiseError, NotRetained
from service import weight_record
from service.weight_lock import lock
from service.weight_record import Record, Version

log = structlog.get_logger("service")
CHUNK_BYTES = 2**20


class StoreUnusable(HintwiseError):
    """The weights directory cannot serve this model; the service does not start."""

    title = "Weights directory unusable"


class WeightStore:
    """Keeps the last `max_retained` versions in one directory.

    One thread adds and serves versions, another flushes them; every thread may read.

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
        self._lost: set[int] = set()
        """Versions whose file the disk refused: it may drop what it could not write, and then call it written."""
        self._unflushed: set[int] = set()
        self._flushed: Record | None = None
        self._changing = threading.Lock()
        self._max_retained = max_retained
        self._record: Record | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = (directory / "lock").open("w")
            locked = lock(self._lock)
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
        wanted = {"architecture": architecture, "tokenizer_sha256": tokenizer_sha256, "base_sha256": base_sha256}
        try:
            records = weight_record.read(self.directory)
        except ValidationError as error:
            path = weight_record.flushed_path(self.directory)
            raise StoreUnusable(f"{path} is damaged: {error.errors()[0]['msg']}; pass another --weights-dir") from error
        if not records:
            self._record = Record(**wanted, current=0, highest=0, versions=[], change=0)
            return None
        for name, value in wanted.items():
            if (kept := getattr(records[0], name)) != value:
                raise StoreUnusable(
                    f"{self.directory} keeps versions of another model ({name} differs: {kept} there, {value} here); "
                    "pass another --weights-dir"
                )
        self._record = found = self._last_good(records)
        if found == records[0] and not weight_record.unflushed_paths(self.directory):
            self._flushed = found
            self._drop(self._forgotten())  # a killed service may have left them
        else:
            self.durable, self._unflushed = False, {version.policy_version for version in found.versions}
            self._flush_once()
        return self._file(found.current)

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

    def add(self, part: Path, sha256: str) -> Version:
        """Keeps verified weights as the next version and records it as the one that serves; call `flush` soon.

        Takes the time of a small file that is not flushed. The versions that are now too many are
        forgotten; their files stay until a flush.

        Raises:
            OSError: The record could not be written; the old one holds, and nothing is left of the part.
        """
        with self._changing:
            record = self._known
            version = Version(policy_version=record.highest + 1, sha256=sha256, created_at=datetime.now(UTC))
            kept = [*record.versions, version][-self._max_retained :]  # what serves from now on is the newest
            changes = {"current": version.policy_version, "highest": version.policy_version, "versions": kept}
            file = self._file(version.policy_version)
            part.rename(file)
            try:
                self._write(record, changes)
            except OSError:
                file.unlink()
                raise
            self._unflushed.add(version.policy_version)
            return version

    def serve(self, policy_version: int) -> Version:
        """Records a retained version as the one that serves.

        Raises:
            NotRetained: It is not kept; the message lists what is.
            OSError: The record could not be written; the old one holds.
        """
        with self._changing:
            version = self.version(policy_version)
            self._write(self._known, {"current": policy_version})
            return version

    def flush(self) -> None:
        """Returns once what is recorded now would survive a power cut; then drops the files that nothing names.

        One thread at a time. Takes as long as the disk does. Where more was recorded meanwhile, or the
        file of the current version was refused by the disk before, `durable` stays False.

        Raises:
            OSError: The disk refused; the record that was flushed last is still on it.
        """
        with self._changing:
            record, unflushed = self._known, set(self._unflushed)
        try:
            for version in record.versions:
                if version.policy_version in unflushed:
                    self._sync_file(version.policy_version)
            weight_record.write_flushed(self.directory, record)
            with self._changing:
                self._flushed = record
                self._unflushed -= unflushed
                if self._record is record:
                    self.durable = record.current not in self._lost
                    self._drop(weight_record.unflushed_paths(self.directory))
        finally:
            with self._changing:
                forgotten = self._forgotten(record)
            self._drop(forgotten)  # outside the lock: a large file takes its time

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

    def _sync_file(self, policy_version: int) -> None:
        try:
            weight_record.sync(self._file(policy_version))
        except OSError:
            with self._changing:
                self._lost.add(policy_version)
            raise

    def _forgotten(self, *recorded: Record) -> list[Path]:
        """Returns the files that no record names: the one in force, the one flushed last, or `recorded`."""
        records = [record for record in (self._record, self._flushed, *recorded) if record is not None]
        named = {self._file(version.policy_version) for record in records for version in record.versions}
        return [path for path in self.directory.glob("policy-*.safetensors") if path not in named]

    def _drop(self, paths: Iterable[Path]) -> None:
        """Removes files that nobody needs; what cannot be removed now is tried again after the next push."""
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("an old file could not be removed", file=path.name, reason=str(error))

    def _flush_once(self) -> None:
        """Flushes what the last service could not; a disk that refuses must not keep this one from serving."""
        try:
            self.flush()
        except OSError as error:
            log.warning("the weights may not survive a power cut", reason=str(error))

    def _last_good(self, records: Sequence[Record]) -> Record:
        """Returns the newest record that has a whole version, that one current, without what is damaged.

        Its highest number is that of any file's name: a version may have served whose record a power cut took.

        Args:
            records: The one in force, then any that it has not replaced on disk.

        Raises:
            StoreUnusable: No version is whole.
        """
        highest = max(weight_record.highest_number(self.directory), *(record.highest for record in records))
        for record in records:
            candidates = sorted(record.versions, key=lambda v: (v.policy_version == record.current, v.policy_version))
            while candidates:
                newest = candidates.pop()
                if sha256_of_file(self._file(newest.policy_version)) == newest.sha256:
                    kept = sorted([*candidates, newest], key=lambda v: v.policy_version)
                    present = [v for v in kept if self._file(v.policy_version).exists()]
                    found = {"current": newest.policy_version, "highest": highest, "versions": present}
                    if found == {name: getattr(records[0], name) for name in found}:
                        return records[0]
                    return record.model_copy(update={**found, "change": records[0].change + 1})
                log.warning("a kept version is damaged or missing", policy_version=newest.policy_version)
        raise StoreUnusable(f"no version kept in {self.directory} is whole; pass another --weights-dir")

    def _write(self, record: Record, changes: dict[str, object]) -> None:
        """Puts a changed record in force, not flushed yet; what fails before that leaves the one before it."""
        changed = record.model_copy(update={**changes, "change": record.change + 1})
        weight_record.write_unflushed(self.directory, changed)
        self._record, self.durable = changed, False


def sha256_of_file(path: Path) -> str | None:
    """Returns the hex digest of a file; None when there is none."""
    digest = hashlib.sha256()
    if not path.exists():
        return None
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
