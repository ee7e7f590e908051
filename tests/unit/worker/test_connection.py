import re
import socket
from types import SimpleNamespace

import httpx
import pytest

from hintwise.errors import DeadlineExceeded, ServiceUnreachable
from worker import connection
from worker.connection import WorkerClient, connect
from worker.errors import UsageError
from worker.service_settings import ServiceSettings


class OwnService:
    """Stands in for `LocalService`; `died` is what `revive` finds."""

    address = "http://127.0.0.1:4711"

    def __init__(self, **told):
        self.told, self.died, self.num_restarts, self.url = told, False, 0, self.address
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

    monkeypatch.setattr(connection, "WorkerClient", Client)
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
        told = {name: OwnService.last.told[name] for name in ("model", "guidance_model", "device")}
        assert told == {"model": "embedded", "guidance_model": None, "device": "cpu"}
        assert isinstance(opened.settings["transport"], httpx.HTTPTransport)  # no proxy in between
    assert OwnService.last.ended


@pytest.mark.parametrize("head_actions", [None, ["push left", "push right"]])
def test_a_service_of_our_own_gets_the_heads_list(opened, tmp_path, head_actions):
    with open_connection(tmp_path, [], [], head_actions=head_actions):
        assert OwnService.last.told["head_actions"] == head_actions


def test_a_service_of_our_own_gets_the_models_and_the_device_of_the_run(opened, tmp_path):
    told = {"model": "./policy", "guidance_model": "somebody/gpt2", "device": "cuda:1"}
    with open_connection(tmp_path, [], [], **told):
        assert told.items() <= OwnService.last.told.items()


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


@pytest.mark.parametrize(("settings", "timeout_s"), [({}, 30), ({"request_timeout_s": 90}, 90)])
def test_a_request_may_take_as_long_as_was_said(opened, tmp_path, settings, timeout_s):
    with open_connection(tmp_path, [], [], **settings):
        assert opened.settings["timeout_s"] == timeout_s


def too_late(request):
    """What a service answers where the time did not suffice."""
    problem = {
        "type": "about:blank",
        "title": DeadlineExceeded.title,
        "status": DeadlineExceeded.status,
        "detail": "the request's time ran out; raise X-Request-Timeout-Ms or send less",
    }
    return httpx.Response(504, json=problem, headers={"Content-Type": "application/problem+json"})


def silent(request):
    raise httpx.ReadTimeout("nothing came")


@pytest.mark.parametrize(
    ("answer", "happened"),
    [(too_late, "the request's time ran out"), (silent, "http://elsewhere gave no answer within 5 s (waited 0 s)")],
)
def test_a_request_that_took_too_long_names_the_flags(answer, happened):
    transport = httpx.MockTransport(answer)
    with (
        WorkerClient("http://elsewhere", timeout_s=5.0, retry_s=0.0, transport=transport) as client,
        pytest.raises(DeadlineExceeded) as raised,
    ):
        client.weights()
    assert str(raised.value) == f"{happened}; raise --request-timeout-s (5 now)"


@pytest.mark.parametrize(
    ("timeout_s", "advice"),
    [
        (5.0, "raise --request-timeout-s (5 now) or --service-timeout-s (60 now)"),
        (300.0, "raise --service-timeout-s (60 now)"),  # it had less than that
    ],
)
def test_a_request_that_was_sent_again_had_what_was_left_of_the_services_time(timeout_s, advice):
    answers = iter([httpx.Response(503, headers={"Retry-After": "0"}), too_late(None)])
    transport, waits = httpx.MockTransport(lambda request: next(answers)), []
    with (
        WorkerClient(
            "http://elsewhere",
            timeout_s=timeout_s,
            retry_s=60.0,
            transport=transport,
            on_wait=lambda error, waited_s: waits.append(error.title),
        ) as client,
        pytest.raises(DeadlineExceeded, match=f"; {re.escape(advice)}$"),
    ):
        client.weights()
    assert waits == ["Unavailable"]


def test_a_request_that_took_the_longest_there_is_should_be_smaller():
    with (
        WorkerClient("http://elsewhere", timeout_s=600.0, retry_s=0.0, transport=httpx.MockTransport(silent)) as client,
        pytest.raises(DeadlineExceeded, match="; no request may take more than 600 s: ask for less at once"),
    ):
        client.weights()


def test_one_who_takes_the_connection_and_says_nothing_is_not_given_more_time(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "START_TIMEOUT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(DeadlineExceeded, match=r"gave no answer within 0\.1 s .*; look whether a service") as raised,
        open_connection(tmp_path, [], [], service_url=f"http://127.0.0.1:{server.getsockname()[1]}"),
    ):
        pass
    assert "raise" not in str(raised.value)


def test_a_service_of_our_own_that_says_nothing_is_not_looked_for_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "START_TIMEOUT_S", 0.1)
    monkeypatch.setattr(connection, "LocalService", OwnService)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(OwnService, "address", f"http://127.0.0.1:{server.getsockname()[1]}")
        with (
            pytest.raises(DeadlineExceeded, match=rf"; its output is in {tmp_path / 'service.log'}$"),
            open_connection(tmp_path, [], []),
        ):
            pass
