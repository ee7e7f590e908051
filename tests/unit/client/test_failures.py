"""What becomes of an answer that is a problem, or no answer at all."""

import httpx
import pytest

from hintwise.errors import (
    BY_STATUS,
    BY_TITLE,
    DeadlineExceeded,
    HintwiseError,
    InvalidRequest,
    NotFound,
    Offence,
    ServiceUnreachable,
    WeightsRejected,
)
from tests.unit.client.scripted import ACTIONS, REFUSED, fails, html, problem


@pytest.mark.parametrize("title", sorted(BY_TITLE))
async def test_a_problem_becomes_the_class_of_its_title(service, title):
    kind = BY_TITLE[title]
    entries = [{"field": "observations[3]", "message": "too long", "extra": 1}]
    answer = problem(kind.status, title, headers={"Retry-After": "4"}, entries=entries)
    error = await service.failure(service.client(answer, retry_s=0), "info")
    assert type(error) is kind
    assert error.detail == "it went wrong"
    assert error.errors == (Offence("observations[3]", "too long"),)
    assert (error.retry_after_s, error.request_id) == (4.0, "req-1")


@pytest.mark.parametrize("status", sorted(BY_STATUS))
async def test_an_unknown_title_becomes_the_class_of_its_status(service, status):
    error = await service.failure(service.client(problem(status, "Teapot"), retry_s=0), "info")
    assert type(error) is BY_STATUS[status]
    assert error.detail == "it went wrong"


@pytest.mark.parametrize("status", [302, 404, 418, 502, 503])
async def test_html_from_a_proxy_still_gives_the_class_and_says_what_it_is(service, status):
    error = await service.failure(service.client(html(status), retry_s=0), "info")
    assert type(error) is BY_STATUS.get(status, HintwiseError)
    for part in ("http://service/info", str(status), "text/html", "proxy"):
        assert part in error.detail


@pytest.mark.parametrize("body", [b"", b"[]", b'{"title": "Not found"}', b"\xff"])
async def test_a_mangled_problem_gives_the_class_of_its_status(service, body):
    headers = {"Content-Type": "application/problem+json"}
    client = service.client(lambda request: httpx.Response(404, content=body, headers=headers))
    assert type(await service.failure(client, "info")) is NotFound


async def test_only_a_problem_report_is_believed(service):
    answer = problem(422, "Weights rejected", headers={"Content-Type": "application/json"})
    assert type(await service.failure(service.client(answer), "info")) is InvalidRequest
    answer = problem(422, "Weights rejected", headers={"Content-Type": "Application/Problem+JSON; charset=utf-8"})
    assert type(await service.failure(service.client(answer), "info")) is WeightsRejected


async def test_a_good_status_with_another_body_is_a_hintwise_error(service):
    error = await service.failure(service.client(html(200)), "act", ["a"], ACTIONS)
    assert type(error) is HintwiseError
    assert "ActResponse" in error.detail


async def test_a_refused_connection_says_where_why_and_what_to_do(service):
    error = await service.failure(service.client(REFUSED, retry_s=0), "info")
    assert type(error) is ServiceUnreachable
    assert error.detail.startswith("no service answers at http://service (waited 0 s): Connection refused; start one")
    assert "python -m service" in error.detail
    assert "--service-url" in error.detail
    assert isinstance(error.__cause__, httpx.ConnectError)


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        (httpx.ReadTimeout, DeadlineExceeded),
        (httpx.WriteTimeout, DeadlineExceeded),
        (httpx.ConnectTimeout, ServiceUnreachable),
        (httpx.ReadError, ServiceUnreachable),
        (httpx.RemoteProtocolError, ServiceUnreachable),
        (httpx.DecodingError, ServiceUnreachable),
    ],
)
async def test_no_exception_of_httpx_reaches_the_caller(service, kind, becomes):
    error = await service.failure(service.client(fails(kind("")), retry_s=0), "info")
    assert type(error) is becomes
    assert kind.__name__ in error.detail or becomes is DeadlineExceeded
