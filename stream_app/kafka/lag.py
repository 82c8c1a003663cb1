"""How many records wait in Kafka for this process, looked up at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class WaitingRecords(Collector):
    """`look` gives source and partition -> records that were not concluded yet, of what this process has."""

    def __init__(self, look: Callable[[], Mapping[tuple[str, int], int]]) -> None:
        self._look = look

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One gauge for each partition of each source."""
        family = GaugeMetricFamily(
            "stream_app_records_waiting",
            "Records in Kafka that are not concluded yet, by right of way.",
            labels=("source", "partition"),
        )
        for (source, partition), count in self._look().items():
            family.add_metric((source, str(partition)), count)
        yield family


class ParkedLeads(Collector):
    """`look` gives, of each partition that this process has, workspace -> leads that wait for a human."""

    def __init__(self, look: Callable[[], Iterable[Mapping[str, int]]]) -> None:
        self._look = look

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One gauge for each workspace."""
        family = GaugeMetricFamily(
            "stream_app_parked_leads", "Leads that are parked and wait for a human.", labels=("workspace",)
        )
        for partition in self._look():
            for workspace, count in partition.items():
                family.add_metric((workspace,), count)
        yield family
