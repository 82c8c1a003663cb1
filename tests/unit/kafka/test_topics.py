"""Topics that a managed service does not create as planned are reported in its own words."""

from types import SimpleNamespace
from typing import Any

from aiokafka.errors import PolicyViolationError, TopicAlreadyExistsError

from stream_app.domain.topics import Retention, TopicNames, plan
from stream_app.kafka.topics import _create

LIMIT = "retention.ms must be at most 604800000"


class Service:
    """A service that allows a week of retention."""

    async def create_topics(self, wanted: list[Any]) -> SimpleNamespace:
        self.wanted = wanted
        of_limit = {
            "leads.status": (PolicyViolationError.errno, LIMIT),
            "leads.dlq": (PolicyViolationError.errno, None),
        }
        of_limit["leads"] = (TopicAlreadyExistsError.errno, "there")
        return SimpleNamespace(topic_errors=[(each.name, *of_limit.get(each.name, (0, None))) for each in wanted])


async def test_a_limit_of_the_service_is_reported_in_its_words() -> None:
    service = Service()
    missing = plan(TopicNames(""), 6, 3, Retention(status_days=30), (60,))
    created, failed = await _create(service, missing)
    assert failed == {
        "leads.status": f"could not be created: {LIMIT}",
        "leads.dlq": "could not be created: PolicyViolationError",
    }
    assert set(created) == {topic.name for topic in missing} - {"leads", "leads.status", "leads.dlq"}
    assert {topic.replication_factor for topic in service.wanted} == {3}
