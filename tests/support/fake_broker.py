"""Brokers that speak the part of Kafka's protocol that the tests need, and that hang on request."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from typing import Any, Final, Self

from aiokafka.protocol.admin import ApiVersionResponse_v0, DescribeGroupsResponse_v0
from aiokafka.protocol.commit import OffsetFetchResponse_v3
from aiokafka.protocol.coordination import FindCoordinatorResponse_v1
from aiokafka.protocol.group import JoinGroupResponse_v2
from aiokafka.protocol.metadata import MetadataResponse_v1

from stream_app.dev.process import LOOPBACK

METADATA: Final = 3
FIND_COORDINATOR: Final = 10
JOIN_GROUP: Final = 11
DESCRIBE_GROUPS: Final = 15
_VERSIONS: Final = {
    METADATA: 1,
    9: 3,
    FIND_COORDINATOR: 1,
    JOIN_GROUP: 2,
    DESCRIBE_GROUPS: 0,
    18: 0,
}


class FakeBroker:
    """One broker of a `FakeCluster`.

    `hangs`: connections stay open, new ones are accepted, and nothing answers.

    `asked` counts requests by their API key. `joined` is when a JoinGroup may be answered.
    """

    def __init__(self, cluster: FakeCluster, node: int) -> None:
        self.node = node
        self.port = 0
        self.hangs = False
        self.asked: Counter[int] = Counter()
        self.connections = 0
        self.joined = asyncio.Event()
        self._cluster = cluster
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._heard = asyncio.Condition()

    async def until_asked(self, api_key: int, times: int = 1) -> None:
        """Wait until it was asked this often."""
        async with self._heard:
            await self._heard.wait_for(lambda: self.asked[api_key] >= times)

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Accept no more connections, and close the open ones."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                api_key, _, correlation = struct.unpack(
                    ">hhi",
                    (await reader.readexactly(size))[:8],
                )
                async with self._heard:
                    self.asked[api_key] += 1
                    self._heard.notify_all()
                if self.hangs:
                    await reader.read()  # until the client gives up
                    return
                answer = await self._answer(api_key)
                body = struct.pack(">i", correlation) + answer.encode()
                writer.write(struct.pack(">i", len(body)) + body)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, api_key: int) -> Any:
        cluster = self._cluster
        match api_key:
            case 18:
                return ApiVersionResponse_v0(
                    0,
                    [(key, version, version) for key, version in _VERSIONS.items()],
                )
            case 3:
                return MetadataResponse_v1(
                    [(broker.node, LOOPBACK, broker.port, None) for broker in cluster.brokers],
                    0,
                    [],
                )
            case 10:
                return FindCoordinatorResponse_v1(0, 0, None, cluster.coordinator, LOOPBACK, 1)
            case 9:
                return OffsetFetchResponse_v3(0, [], cluster.group_error)
            case 15:
                return DescribeGroupsResponse_v0([(cluster.group_error, "group", "", "", "", [])])
            case 11:
                await self.joined.wait()
                return JoinGroupResponse_v2(0, 0, 7, "range", "leader", "member", [])
        raise AssertionError(f"a request that no test should send: {api_key}")


class FakeCluster:
    """A context manager.

    `coordinator`: the node that all brokers name. `group_error`: their error code for groups.
    """

    def __init__(self) -> None:
        self.brokers = [FakeBroker(self, node) for node in range(3)]
        self.coordinator = 0
        self.group_error = 0

    @property
    def bootstrap(self) -> str:
        return ",".join(f"{LOOPBACK}:{broker.port}" for broker in self.brokers)

    async def __aenter__(self) -> Self:
        for broker in self.brokers:
            await broker.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        for broker in self.brokers:
            broker.close()
