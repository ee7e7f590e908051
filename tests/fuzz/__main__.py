"""Sends the running service whatever its OpenAPI document allows, and forbids: `make fuzz`.

    python -m tests.fuzz --seconds 300

schemathesis makes the requests and checks every answer against the document. A failure that
nobody designed (a plain 500), an answer that is not as documented and a service that hangs all
count. At the end the service must still be ready, and end with status 0.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from tests.e2e.processes import start_service

CONFIG = Path(__file__).parent / "schemathesis.toml"
REQUEST_TIMEOUT_S = 40
"""More than the service's own limit for a request: no answer by then is a hang."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as directory:
        process, url = start_service(Path(directory) / "weights", start=subprocess.Popen)
        try:
            status = _fuzz(url, seconds)
            ready = httpx.get(f"{url}/readyz", timeout=10).status_code == httpx.codes.OK
            process.send_signal(signal.SIGTERM)
            ended = process.wait(timeout=60)
        finally:
            process.kill()
    print(f"schemathesis: {status}, ready afterwards: {ready}, exit status of the service: {ended}")  # noqa: T201
    return int(bool(status or not ready or ended))


def _fuzz(url: str, seconds: int) -> int:
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["--config-file", str(CONFIG), "run", f"{url}/openapi.json", "--checks", "all"]
    command += ["--max-time", str(seconds), "--request-timeout", str(REQUEST_TIMEOUT_S), "--continue-on-failure"]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
