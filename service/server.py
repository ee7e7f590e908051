"""The service as a process: load the models, listen, answer until told to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket

import structlog
import uvicorn

from hintwise.errors import HintwiseError
from service import PARENT_PID
from service.access_tokens import read_tokens
from service.app import create_app
from service.engine import Engine
from service.http_protocol import protocol
from service.settings import Settings

PARENT_CHECK_S = 1.0
KEEP_ALIVE_S = 75
"""Longer than clients keep an idle connection, so that theirs is never closed under a request."""
FAREWELL_S = 2
"""After the time for a shutdown in order, time to tell those who still wait; then their requests are cancelled."""
log = structlog.get_logger("service")


class Server(uvicorn.Server):
    """Says where it listens once it answers, tells callers when it stops, may end with the process that started it."""

    def __init__(self, config: uvicorn.Config, *, listener: socket.socket, engine: Engine) -> None:
        super().__init__(config)
        config.timeout_graceful_shutdown = engine.settings.shutdown_timeout_s + FAREWELL_S
        self._listener = listener
        self._engine = engine

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self._listener.getsockname()[:2]
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)  # noqa: T201
        if self._engine.settings.exit_with_parent:
            self._watching = asyncio.create_task(self._watch_parent())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets accepted requests finish; those that have not when the time for it is over are told so."""
        limit_s = self._engine.settings.shutdown_timeout_s
        giving_up = asyncio.get_running_loop().call_later(limit_s, self._engine.stop_queues)
        await super().shutdown(sockets)
        giving_up.cancel()

    async def _watch_parent(self) -> None:
        while os.getppid() == PARENT_PID:  # noqa: ASYNC110 (no event tells of a parent's end)
            await asyncio.sleep(PARENT_CHECK_S)
        log.info("the parent process ended; stopping")
        self.should_exit = True


def serve(settings: Settings) -> None:
    """Serves until a signal, or the end of the parent process, stops it.

    Raises:
        HintwiseError: It cannot start; the message says why.
    """
    if settings.tokens_file:
        read_tokens(settings.tokens_file)  # what is wrong with it shows before the models load
    listener = _listen(settings.host, settings.port)
    engine = Engine(settings)
    app = create_app(engine)
    gc.collect()
    gc.freeze()  # what has been loaded stays: a full collection then takes no pause worth noticing
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol(lambda: engine.policy.policy_version),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks who called
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    server = Server(config, listener=listener, engine=engine)
    # uvicorn hands a signal on once it has shut down in order; one that comes before it listens counts, too.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Returns a bound socket; binding before the models load shows a taken port at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise HintwiseError(f"cannot listen on {host}:{port} ({error.strerror}); pass another --port") from error
    return listener
