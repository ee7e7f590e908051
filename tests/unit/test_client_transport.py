"""The direct connection against a scripted server on loopback."""

import socket
import threading
from contextlib import closing, suppress

import httpx
import pytest

from hintwise import client_transport
from hintwise.client import Client
from hintwise.client_transport import DirectTransport
from hintwise.errors import DeadlineExceeded, HintwiseError, ServiceUnreachable

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
LIMIT_S = 10.0
NOTHING = ([b""], b"")


class Server:
    """Gives each connection its list of answers, one a request; None closes it without one."""

    def __init__(self, *connections):
        self.connections, self.requests, self.num_accepted = connections, [], 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(LIMIT_S)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.closed_one = threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        for answers in self.connections:
            connection = self.listener.accept()[0]
            self.num_accepted += 1
            connection.settimeout(LIMIT_S)
            with suppress(OSError), closing(connection), connection.makefile("rb") as file:
                for answer in answers:
                    self.requests.append(read_request(file))
                    if answer is None or self.requests[-1] == NOTHING:
                        break
                    connection.sendall(answer)
            self.closed_one.set()

    def close(self):
        self.thread.join(LIMIT_S)
        self.listener.close()


def read_request(file):
    head = [file.readline().rstrip(b"\r\n")]
    while line := file.readline().rstrip(b"\r\n"):
        head.append(line)
    lengths = [int(line.split(b":")[1]) for line in head if line.lower().startswith(b"content-length")]
    return head, file.read(sum(lengths))


@pytest.fixture
def serve():
    servers = []

    def make(*connections):
        servers.append(Server(*connections))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def transport():
    with closing(DirectTransport()) as made:
        yield made


def send(transport, server, **more):
    """Sends without closing the transport, as one long-lived client does."""
    timeout = {"connect": LIMIT_S, "read": LIMIT_S, "write": LIMIT_S}
    extensions = {"timeout": timeout}
    request = httpx.Request("POST", f"{server.url}/act?x=1", content=b"body", extensions=extensions, **more)
    response = transport.handle_request(request)
    response.read()
    return response


def test_one_connection_carries_every_request_whole(serve, transport):
    server = serve([OK, OK, OK])
    for _ in range(3):
        assert send(transport, server, headers={"X-Thing": "7"}).content == b"{}"
    assert server.num_accepted == 1
    head, body = server.requests[0]
    assert head[0] == b"POST /act?x=1 HTTP/1.1"
    assert {b"X-Thing: 7", b"Content-Length: 4"} <= set(head)
    assert body == b"body"


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\nTrailer: t\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
    ],
    ids=["length", "1xx first", "chunked", "until closed"],
)
def test_every_kind_of_body_is_read_whole(serve, transport, answer):
    response = send(transport, serve([answer]))
    assert (response.status_code, response.reason_phrase, response.content) == (200, "OK", b"{}")


def test_a_connection_that_says_close_is_not_used_again(serve, transport):
    server = serve([OK.replace(b"200 OK", b"200 OK\r\nConnection: close"), OK], [OK])
    send(transport, server)
    send(transport, server)
    assert server.num_accepted == 2


def test_a_connection_that_was_closed_meanwhile_is_replaced(serve, transport):
    server = serve([OK], [OK])
    send(transport, server)
    assert server.closed_one.wait(LIMIT_S)
    assert send(transport, server).content == b"{}"
    assert server.num_accepted == 2


def test_a_connection_that_was_idle_for_long_is_not_trusted(serve, transport, monkeypatch):
    server = serve([OK], [OK])
    monkeypatch.setattr(client_transport, "MAX_IDLE_S", -1.0)
    send(transport, server)
    transport._socket.shutdown(socket.SHUT_WR)  # lets the server's first connection end
    send(transport, server)
    assert server.num_accepted == 2


def test_what_is_done_meanwhile_is_done_between_request_and_answer(serve):
    server = serve([None], [OK])
    seen = []

    def meanwhile():
        seen.append(transport._received == b"")

    with closing(DirectTransport(meanwhile)) as transport:
        with pytest.raises(httpx.ReadError):
            send(transport, server)
        send(transport, server)
    assert seen == [True, True]


def test_an_answer_that_was_not_read_is_never_the_next_ones(serve):
    server = serve([OK.replace(b"{}", b"[]"), OK], [OK])
    jobs = [RuntimeError("the job failed"), None]

    def meanwhile():
        if error := jobs.pop(0):
            raise error

    with closing(DirectTransport(meanwhile)) as transport:
        with pytest.raises(RuntimeError, match="the job failed"):
            send(transport, server)
        assert send(transport, server).content == b"{}"


def test_a_refusal_that_comes_before_a_large_body_was_read_is_the_answer(transport):
    refusal = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse():
            connection = listener.accept()[0]
            connection.recv(1_000)
            connection.sendall(refusal)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(2**20):  # lets the request end, so that no reset overtakes the answer
                pass
            connection.close()

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/weights"
        timeout = {"connect": LIMIT_S, "read": LIMIT_S, "write": LIMIT_S}
        request = httpx.Request("PUT", url, content=bytes(2**22), extensions={"timeout": timeout})
        assert transport.handle_request(request).status_code == 413
        transport.close()
        thread.join(LIMIT_S)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
    ],
    ids=["not HTTP", "no colon", "length", "chunk", "endless head", "cut off"],
)
def test_what_is_no_whole_answer_is_an_error_that_the_client_knows(serve, answer):
    server = serve([answer])
    with Client(server.url, retry_s=0, transport=DirectTransport()) as client, pytest.raises(HintwiseError):
        client.info()


def test_nobody_there_and_no_answer_in_time_are_what_they_are_over_httpx(serve):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = Client(url, retry_s=0, timeout_s=0.05, transport=DirectTransport())
        with client, pytest.raises(DeadlineExceeded):
            client.info()
    client = Client(url, retry_s=0, transport=DirectTransport())
    with client, pytest.raises(ServiceUnreachable, match="Connection refused"):
        client.info()


def test_it_does_not_pretend_to_speak_tls(transport):
    with pytest.raises(httpx.UnsupportedProtocol, match="plain HTTP"):
        transport.handle_request(httpx.Request("GET", "https://127.0.0.1:1/"))
