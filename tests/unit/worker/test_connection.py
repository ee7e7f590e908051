from types import SimpleNamespace

import httpx
import pytest

from hintwise.errors import ServiceUnreachable
from worker import connection
from worker.config import ServiceSettings
from worker.connection import connect
from worker.errors import UsageError


class OwnService:
    """Stands in for `LocalService`; `died` is what `revive` finds."""

    def __init__(self, *, model, weights_dir, log_path, head_actions):
        self.head_actions = head_actions
        self.model, self.died, self.num_restarts, self.url = model, False, 0, "http://127.0.0.1:4711"
        OwnService.last = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended = True

    def revive(self):
        self.num_restarts += self.died
        return self.died


@pytest.fixture
def opened(monkeypatch):
    """Records how the client was made, and makes it answer."""
    record = SimpleNamespace()

    class Client:
        def __init__(self, url, **settings):
            record.url, record.settings = url, settings

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait_until_ready(self, timeout_s):
            record.start_timeout_s = timeout_s

    monkeypatch.setattr(connection, "Client", Client)
    monkeypatch.setattr(connection, "LocalService", OwnService)
    return record


def open_connection(tmp_path, said, waited, *, head_actions=None, **settings):
    return connect(
        ServiceSettings(**settings),
        weights_dir=tmp_path,
        log_path=tmp_path / "service.log",
        say=said.append,
        on_wait=lambda reason, waited_s: waited.append((reason, waited_s)),
        head_actions=head_actions,
    )


def test_without_an_address_a_service_is_started_and_ended(opened, tmp_path):
    with open_connection(tmp_path, [], []):
        assert opened.url == OwnService.last.url
        assert OwnService.last.model == "embedded"
        assert isinstance(opened.settings["transport"], httpx.HTTPTransport)  # no proxy in between
    assert OwnService.last.ended


@pytest.mark.parametrize("head_actions", [None, ["push left", "push right"]])
def test_a_service_of_our_own_gets_the_heads_list(opened, tmp_path, head_actions):
    with open_connection(tmp_path, [], [], head_actions=head_actions):
        assert OwnService.last.head_actions == head_actions


def test_a_service_of_our_own_that_died_is_started_again_when_a_call_waits(opened, tmp_path):
    said, waited = [], []
    with open_connection(tmp_path, said, waited):
        opened.settings["on_wait"](ServiceUnreachable("gone"), 1.5)
        assert said == []
        OwnService.last.died = True
        opened.settings["on_wait"](ServiceUnreachable("gone"), 2.5)
    assert "started again (1)" in said[0]
    assert waited == [("service unreachable", 1.5), ("service unreachable", 2.5)]


def test_a_named_service_is_used_and_waited_for_briefly(opened, tmp_path):
    with open_connection(tmp_path, [], [], service_url="http://elsewhere:8000", service_timeout_s=77):
        assert (opened.url, opened.settings["retry_s"]) == ("http://elsewhere:8000", 77)
        assert opened.settings["transport"] is None  # as httpx finds the way, through a proxy where there is one
        assert opened.start_timeout_s == connection.START_TIMEOUT_S <= 10


def test_an_address_that_cannot_be_used_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError), open_connection(tmp_path, [], [], service_url="http://:0:0"):
        pass


def test_nobody_at_the_address_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "START_TIMEOUT_S", 0.1)
    with (
        pytest.raises(ServiceUnreachable, match=r"no service answers at http://127\.0\.0\.1:9"),
        open_connection(tmp_path, [], [], service_url="http://127.0.0.1:9"),
    ):
        pass
