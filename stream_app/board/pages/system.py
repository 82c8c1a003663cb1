"""The page of the system.

It shows who consumes, the topics, how far the read model is, and the configuration in force,
without secrets.
"""

import platform
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from stream_app import __version__
from stream_app.board.site import Moment, PageData, Site, Tone
from stream_app.domain.model.text import count
from stream_app.domain.model.topics import ExistingTopic, TopicPlan, differences


def system_page(site: Site, moment: Moment, topics: Mapping[str, ExistingTopic] | None) -> PageData:
    """Return the page. `topics`: the planned topics that exist; None if Kafka does not answer."""
    versions = [
        ("stream-app", __version__),
        ("Python", platform.python_version()),
        ("SQLite", sqlite3.sqlite_version),
    ]
    settings = site.settings
    return {
        "checks": list(_checks(moment)),
        "topics": None if topics is None else _topics(settings.topic_plan(), topics),
        "versions": versions,
        "as_of_ms": moment.lag.as_of_ms,
        "size_bytes": site.queries.size_bytes(),
        "lag": moment.lag.lag,
        "unreadable": site.queries.unreadable(),
        "config": list(_config(settings)),
        "workspaces": sorted(settings.workspaces),
        "destinations": sorted(
            (alias, destination.workspace) for alias, destination in settings.destinations.items()
        ),
    }


def _topics(
    plan: list[TopicPlan],
    existing: Mapping[str, ExistingTopic],
) -> list[tuple[TopicPlan, object, list[str]]]:
    """Return the planned topics as they exist, and what differs; those that differ first."""
    lines = [
        [line.removeprefix(f"{topic.name}: ") for line in differences([topic], existing)]
        for topic in plan
    ]
    rows = [
        (topic, existing.get(topic.name), differs)
        for topic, differs in zip(plan, lines, strict=True)
    ]
    return sorted(rows, key=lambda row: not row[2])


def _checks(moment: Moment) -> Iterator[tuple[str, Tone, str, str]]:
    """Yield what is checked, its state, and what to do about it."""
    kafka = moment.kafka
    if kafka is None:
        says = "is asked" if moment.is_asking else "does not answer"
        yield (
            "Kafka",
            "idle" if moment.is_asking else "bad",
            says,
            "What waits and who consumes is not known.",
        )
    else:
        yield ("Kafka", "ok", "answers", "")
        for name, group, without in (
            (
                "workers",
                kafka.worker,
                "Nothing is sent until one runs. Start it: stream-app worker",
            ),
            (
                "replay processes",
                kafka.replay,
                (
                    "Dead letters and deferred leads do not come back until one runs. "
                    "Start it: stream-app replay"
                ),
            ),
        ):
            if not group.members:
                yield (name, "bad", "none runs", without)
            elif group.state != "Stable":
                yield (name, "warn", group.state, "Partitions are being handed over.")
            else:
                yield (
                    name,
                    "ok",
                    count(group.members, "member"),
                    "/readyz of each says whether it is ready.",
                )
    lag = moment.lag
    left = f"{count(moment.lag.lag, 'record is', 'records are')} still to be read."
    if lag.trouble:
        yield ("read model", "bad", "does not progress", lag.trouble)
    elif lag.as_of_ms is None:
        yield ("read model", "warn", "reads Kafka", left)
    else:
        yield ("read model", "ok", "complete", left)


def _config(settings: msgspec.Struct) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the tables of the configuration.

    They hold names of environment variables, and no secret.
    """
    for table in settings.__struct_fields__:
        value = getattr(settings, table)
        if isinstance(value, msgspec.Struct):
            yield table, list(_flat("", msgspec.to_builtins(value)))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    else:
        yield prefix, _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
