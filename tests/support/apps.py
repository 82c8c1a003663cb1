"""Faust apps whose agents run a handler."""

from collections.abc import Awaitable, Callable, Mapping

from stream_app.faust_app.app import App, OwnedPartitions
from stream_app.faust_app.stream import Generations, PartitionStream

Handler = Callable[[PartitionStream], Awaitable[None]]
"""Processes the records of one topic-partition in one generation."""


def app_with(
    app: App,
    handlers: Mapping[str, Handler],
    owner: OwnedPartitions | None = None,
    state: str = "",
) -> App:
    """The app with one agent for each topic of `handlers`, and the rows of `owner` as the table
    `state`.
    """
    if owner is not None:
        app.add_state_table(state, owner)
    for topic, handler in handlers.items():
        add_agent(app, topic, handler)
    return app


def add_agent(app: App, topic: str, handler: Handler) -> None:
    @app.agent(topic)
    async def agent(generations: Generations) -> None:
        async for records in generations:
            await handler(records)
