"""A service in a process that was forked with everything imported: it starts in a fraction of the time."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

START_TIMEOUT_S = 60
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["service.server", "transformers.models.gpt2.modeling_gpt2"])


class ForkedService:
    """A real process with the real `main`; `kill` is kill -9."""

    def __init__(self, weights_dir: Path) -> None:
        reading, writing = FORKS.Pipe(duplex=False)
        self.process = FORKS.Process(target=_serve, args=(weights_dir, writing), daemon=True)
        self.process.start()
        writing.close()
        with reading:
            assert reading.poll(START_TIMEOUT_S), "the service did not start"
            line = os.read(reading.fileno(), 200).decode()
        assert line.startswith("listening on "), line
        self.url = line.split()[-1]

    def kill(self) -> None:
        self.process.kill()
        self.process.join(START_TIMEOUT_S)
        assert self.process.exitcode == -9


def _serve(weights_dir: Path, writing: Connection) -> None:
    from service.__main__ import main

    sys.argv = ["service", "--weights-dir", str(weights_dir)]
    sys.stdout = os.fdopen(os.dup(writing.fileno()), "w")
    with Path(os.devnull).open("w") as sys.stderr:
        sys.exit(main())
