"""Prometheus metrics of what waits: records on Kafka, and parked leads. Both are counted when metrics are read."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stream_app.ops.bounded_labels import MOST_NAMES, OTHERS


class WaitingRecords(Collector):
    """Shows how many records in Kafka wait for this process.

    `look` returns the records that are not finished yet, by source and partition. It is called when metrics are read.
    """

    def __init__(self, look: Callable[[], Mapping[tuple[str, int], int]]) -> None:
        self._look = look

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "stream_app_records_waiting",
            "Records in Kafka that are not concluded yet, by right of way.",
            labels=("source", "partition"),
        )
        for (source, partition), count in self._look().items():
            family.add_metric((source, str(partition)), count)
        yield family


class ParkedLeads(Collector):
    """Shows how many leads wait for a human.

    `look` returns them by workspace, for each partition of this process. It is called when metrics are read.
    """

    def __init__(self, look: Callable[[], Iterable[Mapping[str, int]]]) -> None:
        self._look = look

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "stream_app_parked_leads", "Leads that are parked and wait for a human.", labels=("workspace",)
        )
        parked: Counts[str] = Counts()
        for partition in self._look():
            parked.update(partition)
        shown = (+parked).most_common(MOST_NAMES)  # without those that have none any more
        for workspace, count in shown:
            family.add_metric((workspace,), count)
        if (rest := parked.total() - sum(count for _, count in shown)) > 0:
            family.add_metric((OTHERS,), rest)
        yield family
