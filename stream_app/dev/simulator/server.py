"""The simulator as a process.

It has two ports, one of which `refuse` can close, prints a JSON line when it listens, and stops
cleanly.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from stream_app.dev.simulator import control
from stream_app.dev.simulator.clay import SimulatedClay
from stream_app.dev.simulator.control import ControlApi
from stream_app.dev.simulator.inbound import MAX_READ_BYTES, WEBHOOK_ROUTE
from stream_app.dev.simulator.kept import RowFile
from stream_app.dev.simulator.ledger import (
    RESET,
    ControlLine,
    Ledger,
    ListenerLine,
    StartLine,
    Tally,
)
from stream_app.dev.simulator.routines import API
from stream_app.dev.simulator.script import FAULTS, Script
from stream_app.dev.simulator.workflow import WORKFLOW_ROUTE

_BACKLOG = 1024

HttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Simulator:
    """A simulated Clay, for example in a test.

        sim = Simulator(parse_script('limits.rate_per_s = 0'))
        await sim.start()
        ...  # POST to f"{sim.url}/v3/sources/webhook/acme--crm"
        await sim.stop()

    `clay` has the operations of `/control`, `ledger` reads and counts. `url` serves the webhooks,
    the control API and the ledger; `control_url` serves the last two on a port that `refuse` never
    closes.
    """

    clay: SimulatedClay
    ledger: Ledger
    url: str
    control_url: str

    def __init__(
        self,
        script: Script | None = None,
        *,
        ledger: Path | None = None,
        rows: Path | None = None,
    ) -> None:
        """Take the script and the files of the ledger and of the rows.

        The file that keeps rows needs the ledger's beside it.
        """
        self.script = script or Script()
        self._ledger_path = ledger
        self._rows_path = rows

    async def start(self, host: str = "127.0.0.1", port: int = 0, control_port: int = 0) -> None:
        """Listen (port 0: any free one).

        Raises OSError if a port or the ledger's file is not available.
        """
        async with contextlib.AsyncExitStack() as stack:
            self.ledger = Ledger(self._ledger_path, goes_on=self._rows_path is not None)
            stack.callback(self.ledger.close)
            self._kept = RowFile(self._rows_path) if self._rows_path is not None else None
            if self._kept is not None:
                stack.callback(self._kept.close)
            self.ledger.write(StartLine(seed=self.script.seed))
            # Before the ports open: a new row gets a number after those that are taken up.
            self.clay = SimulatedClay(self.script, self.ledger, self._kept)
            self._listener = await self._serve(stack, host, port, webhooks=True)
            control = await self._serve(stack, host, control_port, webhooks=False)
            self.url = self._listener.url
            self.control_url = control.url
            keeper = asyncio.create_task(self._keep_listener())
            stack.push_async_callback(_cancel, keeper)
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        """Stop everything, including hanging requests. The ledger is complete then."""
        await self._stack.aclose()

    async def reset(self) -> None:
        """Reset rows, meters, faults and totals to the script's beginning.

        The ledger's file continues.
        """
        await self.clay.close()
        self.ledger.tally = Tally()
        self.ledger.write(ControlLine(did=RESET))
        if self._kept is not None:
            self._kept.clear()
        old = self.clay
        self.clay = SimulatedClay(self.script, self.ledger, self._kept)
        old.changed.set()

    async def _serve(
        self,
        stack: contextlib.AsyncExitStack,
        host: str,
        port: int,
        *,
        webhooks: bool,
    ) -> _Listener:
        busy: set[RequestHandler] = set()

        @web.middleware
        async def mark_busy(request: web.Request, handler: HttpHandler) -> web.StreamResponse:
            busy.add(request.protocol)
            try:
                return await handler(request)
            finally:
                busy.discard(request.protocol)

        app = web.Application(client_max_size=MAX_READ_BYTES, middlewares=[mark_busy])
        ControlApi(self).add_routes(app)
        if webhooks:
            app.router.add_post(WEBHOOK_ROUTE, self._webhook)
            app.router.add_post(WORKFLOW_ROUTE, self._workflow)
            app.router.add_post(f"{API}/routines/{{routine}}/run", self._run)
            app.router.add_get(f"{API}/routines/run/{{run}}/results", self._results)
            app.router.add_get(f"{API}/credits/balance", self._balance)
            app.router.add_get(f"{API}/me", self._me)
            app.router.add_get("/", self._root)
            # It runs before connections close, and ends the requests that hang in them.
            app.on_shutdown.append(self._close_clay)
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.5,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None  # set up just now
        listener = _Listener(runner.server, busy, host, port)
        stack.callback(listener.close)
        await listener.open()
        return listener

    async def _webhook(self, request: web.Request) -> web.StreamResponse:
        return await self.clay.inbound.handle(request)

    async def _workflow(self, request: web.Request) -> web.StreamResponse:
        return await self.clay.workflows.handle(request)

    async def _run(self, request: web.Request) -> web.StreamResponse:
        return await self.clay.routines.run(request)

    async def _results(self, request: web.Request) -> web.StreamResponse:
        return await self.clay.routines.results(request)

    async def _balance(self, request: web.Request) -> web.StreamResponse:
        return await self.clay.routines.balance(request)

    async def _me(self, request: web.Request) -> web.StreamResponse:
        return await self.clay.routines.me(request)

    async def _root(self, request: web.Request) -> web.StreamResponse:
        return await self.clay.inbound.handle_root(request)

    async def _close_clay(self, _: web.Application) -> None:
        await self.clay.close()

    async def _keep_listener(self) -> None:
        """Close and open the listening socket as the timeline's `refuse` faults say."""
        while True:
            clay = self.clay
            refused, change_in_s = clay.timeline.refuses()
            if refused == self._listener.is_open:
                if refused:
                    self._listener.refuse()
                else:
                    await self._listener.open()
                self.ledger.write(ListenerLine(listening=not refused))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(clay.changed.wait(), change_in_s)
            clay.changed.clear()


class _Listener:
    """A listening socket on one port.

    It can stop listening and keep the port. `busy`: connections with a request.
    """

    def __init__(
        self,
        protocol: web.Server,
        busy: set[RequestHandler],
        host: str,
        port: int,
    ) -> None:
        self._protocol = protocol
        self._busy = busy
        self._host = host
        self._port = port
        self._socket = self._bind()
        self._port = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def is_open(self) -> bool:
        return self._server is not None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=self._socket, backlog=_BACKLOG)

    def refuse(self) -> None:
        """Refuse connections and end idle ones, so that a connection pool cannot bypass it."""
        self.close()
        # Bound but not listening: no other program gets the port, and connections are refused.
        self._socket = self._bind()
        for connection in self._protocol.connections:
            if connection in self._busy:
                connection.close()  # after its response
            else:
                connection.force_close()

    def close(self) -> None:
        if self._server is None:
            self._socket.close()
        else:
            self._server.close()
            self._server = None

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self._host, self._port))
        except OSError as error:
            bound.close()
            raise OSError(error.errno, error.strerror, f"{self._host}:{self._port}") from None
        return bound


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


_log = logging.getLogger("stream_app.dev.simulator")

_KINDS = "\n".join(
    textwrap.fill(
        f"{kind:23}{', '.join(f'{name}={value!r}' for name, value in parameters.items())}",
        80,
        initial_indent=" " * 4,
        subsequent_indent=" " * 27,
    )
    for kind, parameters in FAULTS.items()
)
_API = (control.__doc__ or "").strip()
HELP = f"""\
When it listens it prints one JSON line on stdout: url, control_url (the control
API on a port that the fault `refuse` leaves open), pid and ledger. Logs go to
stderr. SIGTERM and SIGINT end it with the ledger complete. Exit codes: 0 ended
by a signal; 1 cannot listen or write the ledger; 2 a wrong script or port.

example script:

    seed = 7
    limits = {{ rate_per_s = 10, burst = 20, retry_after = "seconds" }}

    [workspaces.acme]
    credits = 6000
    actions = 15000

    [table]                      # the default for all webhooks
    latency = {{ scale = 0.01 }}
    callback = {{ headers = {{ x-token = "{{{{callback_token}}}}" }}, well_set = true }}

    [webhooks.acme--crm]
    token = "s3cret"
    dedupe_on = "email"

    [[fault]]
    at_s = 10
    for_s = 15
    kind = "status_after"
    status = 502
    share = 0.2

kinds of faults, and their keys besides at_s, for_s, share, workspace, webhook:

{_KINDS}

example of control:

    curl -X POST URL/control/faults -d '{{"kind": "rate_limited", "for_s": 5}}'

{_API}
"""


async def run(
    script: Script,
    host: str,
    port: int,
    control_port: int,
    ledger: Path | None,
    rows: Path | None = None,
) -> None:
    """Run a simulator until SIGTERM or SIGINT. `rows`: the file that keeps rows beside the ledger.

    Raises:
        OSError: It cannot listen, or cannot write the ledger.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    sim = Simulator(script, ledger=ledger, rows=rows)
    await sim.start(host, port, control_port)
    ready = {
        "url": sim.url,
        "control_url": sim.control_url,
        "pid": os.getpid(),
        "ledger": str(ledger) if ledger else None,
    }
    sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
    sys.stdout.flush()
    await done.wait()
    _log.info("ending, %d ledger lines", sim.ledger.seq)
    await sim.stop()
