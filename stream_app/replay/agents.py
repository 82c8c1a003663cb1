"""The replay app's Faust agents: for dead letters, for deferred leads, and for each delay tier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stream_app.domain.topics import TopicNames
from stream_app.faust_app.app import App
from stream_app.faust_app.stream import serve
from stream_app.replay.forward import Replay


def define_agents(app: App, topics: TopicNames, tiers_s: Iterable[int], replay: Replay) -> None:
    """Add the replay app's agents to the app."""

    @app.agent(topics.dlq)
    async def dead_letters(stream: Any) -> None:
        """Dead letters: into the delay tier of their due time."""
        await serve(app, stream, replay.dead_letters)

    @app.agent(topics.deferred)
    async def deferred(stream: Any) -> None:
        """Deferred leads: into the delay tier of their due time."""
        await serve(app, stream, replay.deferred)

    def define_delay_tier(tier_s: int) -> None:
        @app.agent(topics.wait(tier_s))
        async def wait(stream: Any) -> None:
            """Records that wait in a delay tier: to the next tier, or back to the worker when they are due."""
            await serve(app, stream, replay.wait(tier_s))

    for tier_s in tiers_s:
        define_delay_tier(tier_s)
