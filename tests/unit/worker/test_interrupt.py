import signal
import subprocess
import sys

import pytest

from worker.errors import Interrupted
from worker.interrupt import StopRequest

SIGNALLED_TWICE = """
import os, signal
from worker.interrupt import StopRequest
with StopRequest():
    os.kill(os.getpid(), signal.SIGTERM)
    print("goes on", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_where_it_is_safe(number):
    with StopRequest() as stop:
        stop.check()
        signal.raise_signal(number)
        with pytest.raises(Interrupted, match=f"stopped by {number.name}"):
            stop.check()


def test_the_second_signal_ends_the_process_at_once():
    ended = subprocess.run([sys.executable, "-c", SIGNALLED_TWICE], capture_output=True, text=True, check=False)
    assert ended.stdout == "goes on\n"
    assert ended.returncode == -signal.SIGTERM


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
