"""The worker's Faust agents, one for each topic that it consumes."""

from __future__ import annotations

from typing import Any

from stream_app.domain.topics import TopicNames
from stream_app.faust_app.app import App
from stream_app.faust_app.stream import serve
from stream_app.faust_app.worker import Worker
from stream_app.partition.in_flight import Source


def define_agents(app: App, topics: TopicNames, worker: Worker) -> None:
    """Add the worker's agents to the app.

    Faust starts each agent once for every assigned partition of its topic. The agent passes the records to the owner of
    that partition, and the pipeline for that kind of record processes them.
    """

    @app.agent(topics.leads)
    async def leads(stream: Any) -> None:
        """New leads at hot priority."""
        await serve(app, stream, worker.handler("hot"))

    @app.agent(topics.retry)
    async def retry(stream: Any) -> None:
        """Dead-lettered and deferred leads that the replay app has brought back."""
        await serve(app, stream, worker.handler("retry"))

    @app.agent(topics.bulk)
    async def bulk(stream: Any) -> None:
        """New leads at bulk priority."""
        await serve(app, stream, worker.handler("bulk"))

    @app.agent(topics.callbacks)
    async def callbacks(stream: Any) -> None:
        """Results that Clay posted to the gateway."""
        await serve(app, stream, worker.handler("callback"))

    @app.agent(topics.commands)
    async def commands(stream: Any) -> None:
        """Operators' commands."""
        await serve(app, stream, worker.handler("command"))


def sources_of(topics: TopicNames) -> dict[str, Source]:
    """Map the topic of each agent to the name of its source in metrics."""
    return {
        topics.leads: "hot",
        topics.retry: "retry",
        topics.bulk: "bulk",
        topics.callbacks: "callback",
        topics.commands: "command",
    }
