"""The registry of a process, with the metrics that every process has: CPU, memory, open files, and its version."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from stream_app.version import __version__


def process_registry() -> CollectorRegistry:
    """Return a registry with the metrics of this process. On macOS there are none of CPU, memory and files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Gauge("stream_app_build_info", "1, with the version that runs.", ("version",), registry=registry).labels(
        __version__
    ).set(1)
    return registry
