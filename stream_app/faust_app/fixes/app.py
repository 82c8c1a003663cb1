"""Combines all fixes in a Faust app, and removes what it does not need."""

from __future__ import annotations

from typing import Any

import faust

from stream_app.faust_app.fixes.consumer import SafeTransport
from stream_app.faust_app.fixes.recovery import SafeTableManager
from stream_app.kafka.connection import KafkaConnection


class SafeApp(faust.App):  # type: ignore[misc]  # faust ships no types
    """A `faust.App` with all fixes.

    Args:
        connection: how its clients connect to Kafka.
    """

    def __init__(self, *args: Any, connection: KafkaConnection, **options: Any) -> None:
        self.connection = connection
        super().__init__(*args, TableManager=SafeTableManager, **options)

    def _init_fixups(self) -> list[Any]:
        """Load none, such as Django's: a search for them reads the metadata of all installed packages."""
        return []

    def on_init_dependencies(self) -> Any:
        """Remove Faust's statistics. They cost 10 us a lead, and nothing reads them."""
        services = super().on_init_dependencies()
        self.sensors.remove(self.monitor)
        return services

    def on_rebalance_start(self) -> None:
        """Keep upstream from logging a warning about missing statistics at each rebalance."""
        super().on_rebalance_start()
        self._rebalancing_sensor_state = {"unused": None}

    def _new_transport(self) -> SafeTransport:
        return SafeTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> SafeTransport:
        return SafeTransport(self.conf.broker_producer, self)

    def _create_directories(self) -> None:
        """Create none: the app keeps no files."""

    def _on_rebalance_when_stopped(self) -> None:
        """Do nothing: upstream closes the consumer in the loop of another thread, and a stop under way hangs."""
