"""The prompts of 8 DoorKey environments, step after step, as benchmarks/record_doorkey.py found them."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "data" / "doorkey_stream.json.gz"
RECORDED_BY = "python -m benchmarks.record_doorkey"


@dataclass(frozen=True)
class RecordedStream:
    """Observations in the order they were met; entries 8 t to 8 t + 7 belong to step t."""

    env_id: str
    task: str
    actions: tuple[str, ...]
    texts: tuple[str, ...]
    """Distinct ones, in the order they were first met."""
    order: tuple[int, ...]
    """Index into `texts` of each observation."""

    @property
    def observations(self) -> list[str]:
        return [self.texts[index] for index in self.order]

    @property
    def distinct_share(self) -> float:
        """Distinct observations over all."""
        return len(self.texts) / len(self.order)


def write_streams(streams: dict[str, RecordedStream], *, seed: int) -> None:
    """Writes the file of streams; the same streams give the same bytes."""
    content = {
        "recorded_by": f"{RECORDED_BY} --seed {seed}",
        "streams": {name: asdict(stream) for name, stream in streams.items()},
    }
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))


def read_streams() -> dict[str, RecordedStream]:
    """Returns the recorded streams by name."""
    content = json.loads(gzip.decompress(PATH.read_bytes()))
    return {name: _stream(entry) for name, entry in content["streams"].items()}


def _stream(entry: dict[str, Any]) -> RecordedStream:
    """Returns a stream from its entry in the file, whose lists are tuples here."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return RecordedStream(**fields)
