"""A state topic that forgets."""

from aiokafka.protocol.admin import DeleteGroupsRequest

from tests.support.kafka import admin


async def forget(bootstrap: str, group: str) -> None:
    """Delete the group's offsets, as Kafka does when the group was empty for long."""
    async with admin(bootstrap) as client:
        coordinator = await client.find_coordinator(group)
        answer = await client._client.send(coordinator, DeleteGroupsRequest([group]))
        assert answer.results == [(group, 0)]
