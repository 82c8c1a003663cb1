"""Fix: a static member (group.instance.id) whose name another process uses ends, and says so.

Upstream (not reported): aiokafka 0.14 sends heartbeats without the instance id. When another process
has replaced a member, Kafka answers it "unknown member": it joins again and replaces the other one. This never ends.

Tests: tests/integration/test_faust_processes.py.

Remove it when aiokafka sends the instance id with each heartbeat and raises what Kafka answers.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiokafka.errors import NoError, UnknownMemberIdError
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from stream_app.domain.errors import NameTaken

_FENCED: Final = 82  # FENCED_INSTANCE_ID
_ACCEPTED: Final = (HeartbeatRequest, JoinGroupRequest, SyncGroupRequest)


class EndsIfReplaced(AIOKafkaConsumerThread):  # type: ignore[misc]  # faust ships no types
    """Crashes the app when another process has joined the group under its name, and asks Kafka nothing more."""

    def _watch_for_replacement(self) -> None:
        conf, coordinator = self.app.conf, self._consumer._coordinator
        if (name := conf.consumer_group_instance_id) is None:
            return
        ask, now, accepted_s = coordinator._send_req, asyncio.get_running_loop().time, -conf.broker_session_timeout

        async def watched(request: Any) -> Any:
            nonlocal accepted_s
            answer = await ask(request)
            code, beats = getattr(answer, "error_code", 0), isinstance(request, HeartbeatRequest)
            # Kafka also forgets a member whose session has ended: that one may join again.
            in_session = now() - accepted_s < conf.broker_session_timeout
            if code == _FENCED or (beats and code == UnknownMemberIdError.errno and in_session):
                error = NameTaken(
                    f"another process has joined the group {conf.id} as {name}, the name that kafka.instance_env gives "
                    "this one: give each process a name of its own"
                )
                asyncio.run_coroutine_threadsafe(self.app.crash(error), self.parent_loop)
                await asyncio.Event().wait()  # until the consumer is stopped: a new request would replace the other one
            if code == NoError.errno and isinstance(request, _ACCEPTED):
                accepted_s = now()
            return answer

        coordinator._send_req = watched
