"""A TCP proxy that a test can break, and a broker that one client reaches only through it."""

import asyncio
import ssl
from typing import Self

from stream_app.dev.kafka import LocalKafka, broker_properties
from stream_app.dev.process import LOOPBACK, free_port

_READ_BYTES = 65_536


class Proxy:
    """Forwards connections on `port` of loopback to `target_port`. `tls`: it accepts TLS."""

    def __init__(self, port: int, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.port = port
        self._target_port = target_port
        self._refusing = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """The address to connect to, "host:port"."""
        return f"{LOOPBACK}:{self.port}"

    def cut(self) -> None:
        """Reset all connections, and every new one at once."""
        self._refusing = True
        self._reset()

    def stall(self) -> None:
        """Forward no more bytes: connections stay open and silent, new ones too."""
        self._flowing.clear()

    def repair(self) -> None:
        """Forward new connections again. Stalled ones are reset: a network forgets them, too."""
        if not self._flowing.is_set():
            self._reset()
        self._refusing = False
        self._flowing.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        self._flowing.set()

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        ends = {writer}
        try:
            if self._refusing:
                return
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self._target_port)
            ends.add(far_writer)
            self._writers.add(far_writer)
            ways = {
                asyncio.create_task(self._pump(reader, far_writer)),
                asyncio.create_task(self._pump(far_reader, writer)),
            }
            _, other = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in other:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the broker is down: so is the connection
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_READ_BYTES):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()


class ProxiedKafka(LocalKafka):
    """A broker with a second listener. A client that starts at its `proxy()` stays there.

    A broker names its own address to its clients, so the second listener advertises the proxy's
    port.
    """

    def __init__(self) -> None:
        port = free_port()
        self._inner_port = free_port()
        self._outer_port = free_port()
        plain = broker_properties(listen=LOOPBACK, port=port, controller_port=free_port())
        listeners = "listeners"
        advertised = "advertised.listeners"
        protocols = "listener.security.protocol.map"
        overrides = {
            "controller.quorum.voters": plain["controller.quorum.voters"],
            listeners: f"{plain[listeners]},PROXIED://{LOOPBACK}:{self._inner_port}",
            advertised: f"{plain[advertised]},PROXIED://{LOOPBACK}:{self._outer_port}",
            protocols: f"{plain[protocols]},PROXIED:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            # so that a test that forces the log cleaner need not wait 15 s for it
            "log.cleaner.backoff.ms": "200",
        }
        super().__init__(port=port, overrides=overrides)

    @property
    def runs(self) -> bool:
        """False once it was killed or has ended."""
        return self._process.poll() is None

    @property
    def behind_proxy(self) -> str:
        """The address of the second listener, "host:port".

        It answers, and advertises the proxy's address.
        """
        return f"{LOOPBACK}:{self._inner_port}"

    def proxy(self) -> Proxy:
        """Return the way to the second listener. Use one at a time."""
        return Proxy(self._outer_port, self._inner_port)
