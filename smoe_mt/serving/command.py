"""``smoe-mt serve``: binds the address, loads the model in its worker, answers until it is told to stop."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.generation.arguments import routing_of
from smoe_mt.serving.batching import Batcher
from smoe_mt.serving.limits import Keys, Limits, RateLimiter
from smoe_mt.serving.metrics import Metrics
from smoe_mt.serving.worker import WorkerProcess

try:
    import uvicorn

    from smoe_mt.serving.app import Service, create_app
except ImportError as error:
    raise UserError("serve needs FastAPI and uvicorn: pip install 'smoe_mt[serve]'") from error

SECONDS_FOR_HEADERS = 20.0  # of a connection that has sent no whole request
SECONDS_TO_STOP = 30.0  # besides those that an answer may take
BACKLOG = 2048  # connections that are not accepted yet
SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOCAL = ("127.0.0.1", "::1", "localhost")


def run(args: argparse.Namespace) -> None:
    """Serve what the arguments name, until SIGINT or SIGTERM. UserError for a model or an address that cannot be used."""
    routing_of(args)
    keys = Keys.read(args.api_keys)
    with bound(args.host, args.port) as listener:
        metrics = Metrics()
        threads = None if args.workers == 1 else max(1, (os.cpu_count() or 1) // args.workers)
        batcher = Batcher(
            lambda: WorkerProcess(args, threads), metrics, args.workers, args.batch_lines, args.max_waiting
        )
        try:
            facts = batcher.start()
            limits = Limits(args.max_characters, args.max_lines, args.timeout)
            app = create_app(Service(facts, batcher, metrics, limits, RateLimiter(args.rate), keys))
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"{facts.name}: http://{shown}:{port}/ (Ctrl-C ends)", file=sys.stderr, flush=True)
            if args.host not in LOCAL and not keys.required:
                print("warning: whoever reaches this address may translate; --api-keys asks for keys", file=sys.stderr)
            Server(_config(app, args), batcher).run(sockets=[listener])
        finally:
            batcher.stop()


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens at this address, which nobody else has. UserError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"--host {host}: no address of this machine ({error.strerror})") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(BACKLOG)  # from now on those who connect wait for the model
        except OSError as error:
            raise UserError(
                f"cannot listen at {host}, port {port} ({error.strerror}); choose another --port"
            ) from error
        yield listener


def _config(app: Any, args: argparse.Namespace) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=args.trust_proxy is not None,
        forwarded_allow_ips=args.trust_proxy,
        timeout_graceful_shutdown=int(args.timeout + SECONDS_TO_STOP),
    )


class Server(uvicorn.Server):
    """uvicorn's server that refuses new requests and answers old ones once a signal came, and closes connections that do not
    get on with their request.
    """

    def __init__(self, config: uvicorn.Config, batcher: Batcher) -> None:
        super().__init__(config)
        self.batcher = batcher
        self._idle_since: dict[Any, float] = {}

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at signals; they are not raised again at the end, as uvicorn does, for stopping is no failure."""
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.batcher.drain()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._close_stalled(time.monotonic())
        return await super().on_tick(counter)

    def _close_stalled(self, now: float) -> None:
        """Close connections that have been without a whole head of a request for long."""
        connections: set[Any] = set(self.server_state.connections)  # of h11, as `_config` says
        idle = {
            connection: self._idle_since.get(connection, now)
            for connection in connections
            if connection.cycle is None or connection.cycle.response_complete
        }
        for connection, since in idle.items():
            if now - since > SECONDS_FOR_HEADERS:
                connection.transport.close()
        self._idle_since = idle
