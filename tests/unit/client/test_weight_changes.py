"""New weights and rollbacks: what is sent, and what a version conflict means after an answer was lost."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from hintwise.errors import BY_TITLE, ServiceUnreachable, VersionConflict
from hintwise.large_body import PIECE_BYTES, LargeBody
from tests.unit.client.scripted import CONFLICT, DATA, REFUSED, RESET, SHA256, SILENT, STARTING, problem, weighed


async def test_a_large_body_goes_in_pieces_and_whole_again_when_it_is_retried(service):
    data = bytes(range(256)) * (3 * PIECE_BYTES // 256) + b"end"
    await service.call(service.client(RESET, weighed(6)), "put_weights", data, if_match=5)
    assert [request.read() if service.kind == "sync" else await request.aread() for request in service.requests] == [
        data,
        data,
    ]
    for request in service.requests:
        assert request.headers["content-length"] == str(len(data))
        assert request.headers["host"] == "service"
        assert "transfer-encoding" not in request.headers


def test_no_piece_is_longer_than_the_socket_takes_with_ease():
    """httpcore's time for one piece grows with the square of its length."""
    data = bytes(3 * PIECE_BYTES + 1)
    assert [len(piece) for piece in LargeBody(data)] == [PIECE_BYTES] * 3 + [1]


async def test_put_weights_names_the_version_and_the_digest(service):
    served = await service.call(service.client(weighed(6)), "put_weights", DATA, if_match=5)
    (request,) = service.requests
    assert served.policy_version == 6
    assert (request.method, request.url.path, request.content) == ("PUT", "/weights", DATA)
    assert request.headers["if-match"] == '"5"'
    digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
    assert request.headers["content-digest"] == f"sha-256=:{digest}:"
    assert request.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("lost", [RESET, SILENT, STARTING])
async def test_a_push_whose_answer_was_lost_is_recovered(service, lost):
    served = await service.call(service.client(lost, CONFLICT, weighed(6)), "put_weights", DATA, if_match=5)
    assert (served.policy_version, served.sha256) == (6, SHA256)
    assert [request.method for request in service.requests] == ["PUT", "PUT", "GET"]


async def test_a_conflict_after_a_lost_push_with_other_weights_is_raised(service):
    error = await service.failure(service.client(RESET, CONFLICT, weighed(7, "00")), "put_weights", DATA, if_match=5)
    assert type(error) is VersionConflict
    assert error.request_id == "req-1"


async def test_a_conflict_on_the_first_attempt_is_raised_without_a_look(service):
    error = await service.failure(service.client(CONFLICT, weighed(6)), "put_weights", DATA, if_match=5)
    assert type(error) is VersionConflict
    assert len(service.requests) == 1


@pytest.mark.parametrize("title", ["Weights rejected", "Precondition required"])
async def test_refused_weights_are_raised(service, title):
    answer = problem(BY_TITLE[title].status, title)
    error = await service.failure(service.client(RESET, answer), "put_weights", DATA, if_match=5)
    assert type(error) is BY_TITLE[title]
    assert len(service.requests) == 2


async def test_the_look_after_a_conflict_shares_the_budget_of_the_call(service, full_backoff):
    client = service.client(RESET, CONFLICT, REFUSED, retry_s=2)
    assert type(await service.failure(client, "put_weights", DATA, if_match=5)) is ServiceUnreachable
    assert service.sleeps == [0.1, 0.2, 0.4, 0.8]  # the second belongs to the look


async def test_put_weights_from_names_the_version_and_the_path(service):
    path = Path("/srv/policy.safetensors")
    served = await service.call(service.client(weighed(6)), "put_weights_from", path, if_match=5)
    (request,) = service.requests
    assert served.policy_version == 6
    assert (request.method, request.url.path) == ("PUT", "/weights")
    assert json.loads(request.content) == {"path": "/srv/policy.safetensors"}
    assert request.headers["if-match"] == '"5"'
    assert request.headers["content-type"] == "application/json"
    assert "content-digest" not in request.headers


async def test_a_conflict_after_a_lost_push_by_path_is_raised_since_nothing_tells_whose_it_is(service):
    client = service.client(RESET, CONFLICT, weighed(6))
    assert type(await service.failure(client, "put_weights_from", "/srv/p", if_match=5)) is VersionConflict


@pytest.mark.parametrize(("if_match", "sent"), [(None, None), (5, '"5"')])
async def test_rollback_names_the_version(service, if_match, sent):
    served = await service.call(service.client(weighed(3)), "rollback", 3, if_match=if_match)
    (request,) = service.requests
    assert served.policy_version == 3
    assert (request.method, request.url.path) == ("POST", "/weights/rollback")
    assert json.loads(request.content) == {"policy_version": 3}
    assert request.headers.get("if-match") == sent


async def test_a_rollback_whose_answer_was_lost_is_recovered(service):
    client = service.client(RESET, CONFLICT, weighed(3))
    assert (await service.call(client, "rollback", 3, if_match=5)).policy_version == 3


async def test_a_conflict_after_a_lost_rollback_to_another_version_is_raised(service):
    client = service.client(RESET, CONFLICT, weighed(6))
    assert type(await service.failure(client, "rollback", 3, if_match=5)) is VersionConflict


async def test_a_conflict_of_a_first_rollback_is_raised_without_a_look(service):
    client = service.client(CONFLICT, weighed(3))
    assert type(await service.failure(client, "rollback", 3, if_match=5)) is VersionConflict
    assert len(service.requests) == 1
