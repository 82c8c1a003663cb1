"""The public Python API; import its names from `stream_app`.

Each function takes settings as `load_settings` returns them, or the path of a configuration file.
Functions whose names end in `_sync` are for programs without an event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

from stream_app.client.books import read as reading
from stream_app.client.publish import leads as publishing
from stream_app.client.publish.leads import PublishOptions, PublishSummary, Refusal
from stream_app.client.results import lookup
from stream_app.client.results.answers import FoundImport
from stream_app.client.results.export import ResultFilter, results_of
from stream_app.client.results.lookup import LeadSearch
from stream_app.config import Settings, check_known
from stream_app.config import load_settings as load
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.domain.books.money import BooksReport
from stream_app.domain.lead.identity import ids_meant
from stream_app.domain.model.errors import (
    BoardUnavailable,
    BrokerUnavailable,
    ImportUnderWay,
    KafkaRefused,
    SettingsError,
    StreamAppError,
    TopicsError,
)
from stream_app.domain.model.messages import Lead, Result, StatusEvent
from stream_app.kafka.connection import silent
from stream_app.kafka.readers import StatusFollower

__all__ = [
    "BoardUnavailable",
    "BooksReport",
    "BrokerUnavailable",
    "FoundImport",
    "ImportUnderWay",
    "KafkaRefused",
    "Lead",
    "LeadSearch",
    "PublishSummary",
    "Refusal",
    "Result",
    "Settings",
    "SettingsError",
    "StatusEvent",
    "StreamAppError",
    "TopicsError",
    "find_lead",
    "find_lead_sync",
    "follow_status",
    "follow_status_sync",
    "load_settings",
    "publish",
    "publish_sync",
    "read_books",
    "read_books_sync",
    "read_results",
    "read_results_sync",
    "wait_for_import",
    "wait_for_import_sync",
]

AnySettings: TypeAlias = Settings | str | os.PathLike[str] | None
"""Settings, or the path of a configuration file; None: the file of STREAM_APP_CONFIG, else
`stream_app.toml`.
"""


def load_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read the configuration for use in this process.

    Webhooks and tokens of Clay need not be set: only a worker needs them. From then on, this
    process hashes people and lead ids as this configuration says; use one configuration in a
    process.

    Args:
        path: The TOML file; None: the file that STREAM_APP_CONFIG names, else `stream_app.toml`.

    Raises:
        SettingsError: The configuration is wrong; `problems` has one line for each problem.
    """
    return load(None if path is None else Path(path), os.environ, ())


def settings_of(settings: AnySettings) -> Settings:
    """Return the settings, read from their file if a path is given."""
    return settings if isinstance(settings, Settings) else load_settings(settings)


async def publish(
    leads: Iterable[Lead | Mapping[str, Any]],
    settings: AnySettings = None,
    *,
    workspace: str | None = None,
    destination: str | None = None,
    import_id: str | None = None,
    bulk: bool = False,
    force: bool = False,
    on_refused: Callable[[Refusal], None] | None = None,
) -> PublishSummary:
    """Check all leads, then publish the good ones. A refused lead does not stop the others.

    Args:
        leads: Each is a `Lead`, a mapping with the keys of a lead (`{"workspace": "acme", "fields":
            {...}}`), or a flat mapping of its fields (`{"workspace": "acme", "email":
            "ada@example.com"}`).
        settings: Settings, or the path of a configuration file.
        workspace: The workspace of leads that name none; default: the only one of the
            configuration.
        destination: The destination of leads that name none; default: that of the workspace.
        import_id: A name for this batch, under which the board and `stream-app imports` show its
            progress. Default: a new one; '': none, which suits a program that publishes its leads
            one by one.
        bulk: Write to `leads.bulk`: these leads get a share of the rate and do not delay other
            leads.
        force: Send, and pay for, leads that were sent before.
        on_refused: Gets each refused lead: `line` counts from 1, `reason` is a stable code, `text`
            explains it.

    Returns:
        Counts: `rows` = `ready` + `refused`; `published` are acknowledged by Kafka; `reasons`
            counts the refused ones by reason. `import_id` is the name of the batch, and `lead_ids`
            has the ids of the valid leads, in order.

    Raises:
        SettingsError: The configuration is wrong.
        TopicsError: A topic is missing or has another number of partitions.
        KafkaRefused: Kafka refuses the credentials, or rights are missing.
        BrokerUnavailable: Kafka did not acknowledge all leads. Publish the same leads again: those
            that are on Kafka already are recognised as duplicates, unless `force` is set.
        TypeError: `leads` is one lead and not an iterable of leads.
    """
    if isinstance(leads, Mapping | Lead | str | bytes):
        raise TypeError(f"leads is one {type(leads).__name__}: pass a list of leads")
    name = publishing.any_import_id() if import_id is None else import_id or None
    options = PublishOptions(workspace, destination, name, bulk, force)
    return await publishing.publish(
        leads,
        settings_of(settings),
        options,
        on_refused=on_refused or silent,
    )


@asynccontextmanager
async def follow_status(
    settings: AnySettings = None,
    *,
    lead_id: str | None = None,
    workspace: str | None = None,
    from_beginning: bool = False,
    idle_timeout_s: float | None = None,
) -> AsyncGenerator[AsyncIterator[StatusEvent]]:
    """Follow the status events from now on, outside a consumer group.

        async with follow_status(lead_id="crm-17") as events:
            await publish([{"lead_id": "crm-17", "email": "ada@example.com"}])
            async for event in events:
                print(event.status)

    Every event that is committed after the block began is seen. Nothing is committed for the
    reader: a program that has to go on where it stopped uses a consumer group (docs/python-api.md).

    Args:
        settings: Settings, or the path of a configuration file.
        lead_id: Only the events of this lead, by the id that was published.
        workspace: Only the events of this workspace.
        from_beginning: Start at the oldest event that Kafka keeps.
        idle_timeout_s: End after this many seconds without an event; None: never end.

    Yields:
        The events; those of one lead are in order (`seq`), times (`at_ms`) are epoch ms.

    Raises:
        SettingsError: The configuration is wrong or has no such workspace.
        TopicsError: A topic is missing or has another number of partitions.
        KafkaRefused: Kafka refuses the credentials, or rights are missing.
        BrokerUnavailable: Kafka does not answer.
        ValueError: `lead_id` is empty, or `idle_timeout_s` is not positive.
    """
    if idle_timeout_s is not None and idle_timeout_s <= 0:
        raise ValueError("idle_timeout_s has to be positive")
    config = settings_of(settings)
    check_known(config, workspace=workspace)
    if lead_id is not None and not lead_id.strip():
        raise ValueError("lead_id is empty")
    # The id on Kafka may be a hash.
    lead_ids = None if lead_id is None else ids_meant(lead_id.strip())
    await kafka_ready(config, "follow_status()")
    connection = connection_of(config)
    topic = config.names.status
    partitions = range(config.kafka.partitions)
    async with (
        StatusFollower(connection, topic, partitions, from_beginning=from_beginning) as follower,
        aclosing(follower.events(lead_ids, workspace, idle_timeout_s)) as events,
    ):
        yield events


async def find_lead(
    lead: str,
    settings: AnySettings = None,
    *,
    workspace: str | None = None,
) -> LeadSearch:
    """Ask the board where a lead is. An e-mail address or LinkedIn URL is hashed before it is sent.

    Args:
        lead: A lead id, an e-mail address or a LinkedIn URL.
        settings: Settings, or the path of a configuration file.
        workspace: Leave out what other workspaces know of the lead.

    Returns:
        `leads`: each with its `histories` (a record that came in, and its events) and `results`.
        `waiting`: what was found among the records that no worker has taken yet. `as_of_ms` (epoch
        ms), `lag` (offsets) and `trouble` say how far the board is behind Kafka.

    Raises:
        SettingsError: The configuration is wrong, the token of the look-up API is not set, or
            `lead` is none of these.
        BoardUnavailable: No board answers within 30 s at `board.url`.
        StreamAppError: The board refused the request.
    """
    return await asyncio.to_thread(find_lead_sync, lead, settings, workspace=workspace)


async def wait_for_import(
    import_id: str,
    settings: AnySettings = None,
    *,
    workspace: str | None = None,
    timeout_s: float = 3_600.0,
) -> list[FoundImport]:
    """Wait until all leads of an import are at rest.

    A lead is at rest when it is enriched, rejected, parked or a duplicate, for instance:

        summary = await publish(leads, settings)
        for report in await wait_for_import(summary.import_id, settings):
            print(report.workspace, report.columns, report.credits)

    Args:
        import_id: The name of the import, as `publish` returns it.
        settings: Settings, or the path of a configuration file.
        workspace: Only the leads of this workspace.
        timeout_s: How long to wait. It asks the board once a second, also while the board is away.

    Returns:
        A report for each workspace: `columns` counts its leads by where they are, `credits` is what
            they have cost.

    Raises:
        ImportUnderWay: Not all leads are at rest in time; the text says how many are under way.
        SettingsError: The configuration is wrong, or the token of the look-up API is not set.
        BoardUnavailable: No board answers at `board.url` at the end of that time.
        StreamAppError: The board refused the request.
        ValueError: `import_id` is empty, or `timeout_s` is negative.
    """
    if not import_id:
        raise ValueError("import_id is empty: take it from what publish() returns")
    if timeout_s < 0:
        raise ValueError("timeout_s cannot be negative")
    return await lookup.wait_for_import(
        _settings_for_board(settings, workspace),
        import_id,
        workspace,
        timeout_s,
    )


async def read_results(
    settings: AnySettings = None,
    *,
    workspace: str | None = None,
    destination: str | None = None,
    since: datetime | None = None,
    on_unreadable: Callable[[str], None] | None = None,
) -> AsyncGenerator[Result]:
    """Read the last result of each lead, as the topic `leads.enriched` is now.

    Memory is bounded: results above 64 MiB wait in an unnamed file in TMPDIR.

    Args:
        settings: Settings, or the path of a configuration file.
        workspace: Only results of this workspace.
        destination: Only results of this destination.
        since: Only results published at or after this time, which needs a time zone.
        on_unreadable: Gets a line for each result that this version cannot read, which is left out
            then.

    Yields:
        The results; `at_ms` is in epoch ms, `age_s` in seconds.

    Raises:
        SettingsError: The configuration is wrong, or has no such workspace or destination.
        TopicsError: A topic is missing or has another number of partitions.
        KafkaRefused: Kafka refuses the credentials, or rights are missing.
        BrokerUnavailable: Kafka does not answer.
        StreamAppError: The temporary folder is full; or a result is unreadable and `on_unreadable`
            is None.
        ValueError: `since` has no time zone.
    """
    if since is not None and since.tzinfo is None:
        raise ValueError(
            "since has no time zone: pass an aware datetime, such as datetime.now(UTC)",
        )
    config = settings_of(settings)
    check_known(config, workspace=workspace, destination=destination)
    wanted = ResultFilter(
        workspace,
        destination,
        0 if since is None else round(since.timestamp() * 1000),
    )
    async with aclosing(results_of(config, wanted, on_unreadable or _fail)) as results:
        async for result in results:
            yield result


async def read_books(settings: AnySettings = None, *, limit: int = 20) -> BooksReport:
    """Account for every lead that came in, from the topics, while the system runs or rests.

    Args:
        settings: Settings, or the path of a configuration file.
        limit: How many problems `problems` has at most; `problem_count` counts all.

    Returns:
        `balanced`: every record is accounted for. `records`: leads that came in. `columns`: where
            they are.
        `accounts`: credits and actions by workspace and period.

    Raises:
        SettingsError: The configuration is wrong.
        TopicsError: A topic is missing or has another number of partitions.
        KafkaRefused: Kafka refuses the credentials, or rights are missing.
        BrokerUnavailable: Kafka does not answer.
        ValueError: `limit` is negative.
    """
    if limit < 0:
        raise ValueError("limit cannot be negative")
    return await reading.read_books(settings_of(settings), limit=limit, progress=silent, say=silent)


def _settings_for_board(settings: AnySettings, workspace: str | None) -> Settings:
    config = settings_of(settings)
    check_known(config, workspace=workspace)
    token = config.board.token_env
    if token is not None and token not in config.secrets:
        raise SettingsError([f"environment variable {token} is not set; board.token_env names it"])
    return config


def _fail(line: str) -> None:
    raise StreamAppError(f"{line}: update stream-app, or pass on_unreadable to leave it out")


P = ParamSpec("P")
T = TypeVar("T")


def _sync(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return the form of a function for programs without an event loop."""

    @wraps(function)
    def form(*args: P.args, **kwargs: P.kwargs) -> T:
        with _runner(function.__name__) as runner:
            return runner.run(function(*args, **kwargs))

    form.__name__ = f"{function.__name__}_sync"
    form.__qualname__ = form.__name__
    form.__doc__ = (
        f"Do what `{function.__name__}` does, without an event loop. Its arguments and errors "
        "are described there."
    )
    return form


publish_sync = _sync(publish)
wait_for_import_sync = _sync(wait_for_import)
read_books_sync = _sync(read_books)


@contextmanager
def follow_status_sync(
    settings: AnySettings = None,
    *,
    lead_id: str | None = None,
    workspace: str | None = None,
    from_beginning: bool = False,
    idle_timeout_s: float | None = None,
) -> Generator[Iterator[StatusEvent]]:
    """Do what `follow_status` does, without an event loop.

        with follow_status_sync(lead_id="crm-17") as events:
            publish_sync([{"lead_id": "crm-17", "email": "ada@example.com"}])
            for event in events:
                print(event.status)

    Its arguments and errors are described there.
    """
    with _runner("follow_status") as runner:
        following = follow_status(
            settings,
            lead_id=lead_id,
            workspace=workspace,
            from_beginning=from_beginning,
            idle_timeout_s=idle_timeout_s,
        )
        events = runner.run(following.__aenter__())
        try:
            yield _iterate(runner, events)
        finally:
            runner.run(following.__aexit__(None, None, None))


def find_lead_sync(
    lead: str,
    settings: AnySettings = None,
    *,
    workspace: str | None = None,
) -> LeadSearch:
    """Do what `find_lead` does, without an event loop.

    Its arguments and errors are described there.
    """
    return lookup.find(_settings_for_board(settings, workspace), lead, workspace)


def read_results_sync(
    settings: AnySettings = None,
    *,
    workspace: str | None = None,
    destination: str | None = None,
    since: datetime | None = None,
    on_unreadable: Callable[[str], None] | None = None,
) -> Generator[Result]:
    """Do what `read_results` does, without an event loop.

    Its arguments and errors are described there.
    """
    with _runner("read_results") as runner:
        results = read_results(
            settings,
            workspace=workspace,
            destination=destination,
            since=since,
            on_unreadable=on_unreadable,
        )
        try:
            yield from _iterate(runner, results)
        finally:
            runner.run(results.aclose())


def _runner(name: str) -> asyncio.Runner:
    """Return a runner, unless this thread has a running event loop, which would be blocked."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.Runner()
    raise RuntimeError(f"{name}_sync() cannot be called in a running event loop: use {name}()")


def _iterate(runner: asyncio.Runner, items: AsyncIterator[T]) -> Iterator[T]:
    async def following() -> T:
        return await anext(items)

    while True:
        try:
            item = runner.run(following())
        except StopAsyncIteration:
            return
        yield item
