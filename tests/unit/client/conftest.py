"""The scripted service, once for each client, and what keeps the caller's settings and the dice out."""

import pytest

from hintwise import client_core
from tests.unit.client.scripted import ScriptedService


@pytest.fixture(params=["sync", "async"])
def service(request, monkeypatch):
    service = ScriptedService(request.param)
    monkeypatch.setattr(client_core, "monotonic", lambda: service.now_s)
    return service


@pytest.fixture(autouse=True)
def no_settings_of_the_caller(monkeypatch):
    for name in ("HINTWISE_URL", "HINTWISE_TOKEN", "HINTWISE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def full_backoff(monkeypatch):
    """Waits draw the highest number of the range they ask for; the ranges are kept."""
    ranges = []
    monkeypatch.setattr(client_core.random, "uniform", lambda low, high: ranges.append((low, high)) or high)
    return ranges
