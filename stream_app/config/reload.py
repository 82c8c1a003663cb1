"""The configuration of a running process: it adopts an operator's changes where that is safe.

A worker does so at a command, a gateway when a file has changed, and replay at both (`FileWatch`).

Workspaces and destinations (webhooks, tokens, policies) are looked up for each lead, so their
entries in the plan are replaced in place. What the process was built from (Kafka, topics, the
pipeline, the home of a workspace) stays, and so do removed entries: leads in progress may need
them. Both are named in the result.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, Literal

import msgspec

from stream_app.clay.client import Endpoint
from stream_app.clay.runs import ApiEndpoint
from stream_app.config import Settings
from stream_app.config.secret_files import stamp_of
from stream_app.domain.commands import CommandResult
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.pseudonyms import current, use
from stream_app.domain.model.text import count
from stream_app.domain.plan import Destination, Plan

NOTHING_NEW: Final = CommandResult("the configuration has no changes")
_LOOK_S: Final = 2.0

Process = Literal["worker", "replay", "gateway", "board", "trace"]
Processes = tuple[Process, ...]

_PROCESSES: Final[dict[Process, str]] = {
    "worker": "the workers",
    "replay": "the replay processes",
    "gateway": "the gateways",
    "board": "the board",
    "trace": "the trace process",
}
_EVERY: Final = tuple(_PROCESSES)
_READ_BY: Final[dict[str, Processes]] = {
    "secrets_dir": _EVERY,
    "log_level": _EVERY,
    "kafka": _EVERY,
    "redis": ("worker",),
    "cache": ("worker",),
    "topics": ("board",),
    "delivery": ("worker", "replay"),
    "replay": ("worker", "replay"),
    "shares": ("worker",),
    "egress": ("worker", "board"),
    "gateway": ("worker", "gateway", "board"),
    "board": ("board",),
    "privacy": _EVERY,
    "trace": ("worker", "trace"),
    "notify": ("board",),
}
_LOOKED_UP: Final = frozenset(
    {"workspace_defaults", "workspaces", "destinations", "secrets", "path", "stamp"},
)


class Configuration:
    """The configuration that the process works with.

    `plan`, `endpoints`, `apis` and `accounts` are changed in place.

    `read` returns the settings that the files and the environment have now, `moved` why a plan must
    not be adopted. Tasks may ask at the same time; they are served one after the other.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        self._settings = settings
        self._proxy_url = settings.secrets.get(settings.egress.proxy_env)
        self.plan = settings.plan
        self.endpoints = endpoints_of(settings)
        self.apis = apis_of(settings)
        self.accounts = accounts_of(settings)
        self._read = read
        self.moved: Callable[[Plan], Awaitable[list[str]]] = _stays
        self._turn = asyncio.Lock()
        self._stamp = settings.stamp
        self._answered = ("", NOTHING_NEW)

    async def refresh(self) -> CommandResult:
        """Reload the configuration if a file of it has changed since it was read."""
        async with self._turn:
            path = self._settings.path
            is_current = path is None or stamp_of(path, self._settings.secrets_dir) == self._stamp
            return NOTHING_NEW if is_current else await self._reload()

    async def reload(self, command_id: str) -> CommandResult:
        """Read the configuration again, once for each command.

        Every partition of this process carries the command out.
        """
        async with self._turn:
            if self._answered[0] != command_id:
                self._answered = command_id, await self._reload()
            return self._answered[1]

    async def _reload(self) -> CommandResult:
        """Adopt what can be adopted.

        A configuration that is invalid, or moves a lane, changes nothing.
        """
        settings, differs = _read_again(self._read)
        if isinstance(settings, CommandResult):
            return settings
        plan = settings.plan
        if problems := await self.moved(plan):
            return CommandResult("; ".join(problems), False, "refused")
        self._stamp = settings.stamp
        adopted = [
            *self._adopt_workspaces(plan),
            *self._adopt_accounts(settings),
            *self._adopt_destinations(settings),
        ]
        left = list(self._left(settings, plan))
        if differs:
            left.append((_EVERY, "the pepper of privacy.pepper_env"))
        results = [f"adopted: {', '.join(adopted)}"] if adopted else []
        results += [f"needs a restart {_by_process(left)}"] if left else []
        return CommandResult("; ".join(results)) if results else NOTHING_NEW

    def _adopt_workspaces(self, plan: Plan) -> Iterator[str]:
        mine = self.plan
        for name, workspace in plan.workspaces.items():
            before = mine.workspaces.get(name)
            if before is not None:
                workspace = msgspec.structs.replace(workspace, partition=before.partition)
            if before != workspace:
                mine.put_workspace(workspace, plan.pins.get(name))
                yield f"workspace {name}{'' if before else ' (new)'}"

    def _adopt_accounts(self, settings: Settings) -> Iterator[str]:
        """Adopt the keys of workspaces. Those of routines are named with their destinations."""
        of_routines = apis_of(settings).keys()
        for name, account in accounts_of(settings).items():
            known = self.accounts.get(name)
            self.accounts[name] = account
            mine = {place.alias for place in settings.plan.destinations_of(name)}
            if known != account and not mine & of_routines:
                yield f"the API key of workspace {name}"

    def _adopt_destinations(self, settings: Settings) -> Iterator[str]:
        mine = self.plan
        endpoints = endpoints_of(settings)
        apis = apis_of(settings)
        for alias, destination in settings.plan.destinations.items():
            before = mine.destinations.get(alias)
            if before is not None and (
                before.workspace != destination.workspace or _goes_another_way(before, destination)
            ):
                continue
            is_known = before == destination
            named = f"destination {alias}{'' if before else ' (new)'}"
            if (api := apis.get(alias)) is not None:
                if is_known and self.apis.get(alias) == api:
                    continue
                self.apis[alias] = api
                mine.put_destination(destination)
                yield f"{named} with a routine"
                continue
            endpoint = endpoints[alias]
            known = self.endpoints.get(alias)
            # A lead in progress may use a webhook that was removed from the pool.
            if known is not None:
                endpoint = Endpoint(
                    {**known.urls, **endpoint.urls},
                    endpoint.token,
                    endpoint.unavailable_is_refused,
                )
            if is_known and known == endpoint:
                continue
            self.endpoints[alias] = endpoint
            mine.put_destination(destination)
            yield f"{named} with {count(len(destination.webhook_ids), 'webhook')}"

    def _left(self, settings: Settings, plan: Plan) -> Iterator[tuple[Processes, str]]:
        """The differences that are not adopted, with the processes that need a restart for them."""
        mine = self.plan
        for name in Settings.__struct_fields__:
            if name in _LOOKED_UP:
                continue
            before = getattr(self._settings, name)
            now = getattr(settings, name)
            if not isinstance(now, msgspec.Struct):
                if before != now:
                    yield processes_of(name, ""), name
                continue
            for key in now.__struct_fields__:
                if getattr(before, key) != getattr(now, key):
                    yield processes_of(name, key), f"{name}.{key}"
        if (proxy := settings.egress.proxy_env) and settings.secrets[proxy] != self._proxy_url:
            yield processes_of("egress", "proxy_env"), f"the proxy's URL in {proxy}"
        for name in mine.workspaces:
            if name not in plan.workspaces:
                yield _EVERY, f"workspace {name} was removed"
            elif plan.pins.get(name) != mine.pins.get(name):
                yield _EVERY, f"workspaces.{name}.partition"
        for alias, destination in mine.destinations.items():
            other = plan.destinations.get(alias)
            if other is None:
                yield _EVERY, f"destination {alias} was removed"
            elif other.workspace != destination.workspace:
                yield _EVERY, f"destinations.{alias}.workspace"
            elif _goes_another_way(other, destination):
                yield _EVERY, f"destinations.{alias}.routine"


def _goes_another_way(before: Destination, now: Destination) -> bool:
    """True if a destination has a routine in place of webhooks, or webhooks in place of a routine.

    A lead in progress has the request of the one, which the other does not understand.
    """
    return (before.routine is None) != (now.routine is None)


def processes_of(table: str, key: str) -> Processes:
    """Return the processes that read a key of the configuration at their start only."""
    if table == "http":  # a port is named after its process
        return tuple(name for name in _PROCESSES if key.startswith(name)) or _EVERY
    return _READ_BY[table]


def _by_process(left: Iterable[tuple[Processes, str]]) -> str:
    """Return what needs a restart, and why, such as `of the board (board.banner)`."""
    reasons: dict[Processes, list[str]] = {}
    for processes, reason in left:
        reasons.setdefault(processes, []).append(reason)
    return ", ".join(
        f"of {_named(processes)} ({', '.join(why)})" for processes, why in reasons.items()
    )


def _named(processes: Processes) -> str:
    if processes == _EVERY:
        return "every process"
    *first, last = (_PROCESSES[name] for name in processes)
    return f"{', '.join(first)} and {last}" if first else last


async def _stays(_: Plan) -> list[str]:
    """Say of a process that knows of no lanes that none is moved."""
    return []


class FileWatch:
    """Reads the configuration again when one of its files has changed, and hands it on."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        adopt: Callable[[Settings], None],
        report: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._read = read
        self._adopt = adopt
        self._report = report
        self._stamp = settings.stamp

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()

    def look(self) -> None:
        """Adopt the configuration if a file has changed.

        An invalid one changes nothing and is reported once.
        """
        path = self._settings.path
        if path is None or (stamp := stamp_of(path, self._settings.secrets_dir)) == self._stamp:
            return
        self._stamp = stamp
        result = self.reload()
        if not result.applied:
            self._report(result.text)

    def reload(self) -> CommandResult:
        """Read the configuration for a command, and adopt it. An invalid one changes nothing."""
        settings, _ = _read_again(self._read)
        if isinstance(settings, CommandResult):
            return settings
        before = self._stamp
        self._stamp = settings.stamp
        self._settings = settings
        self._adopt(settings)
        if self._stamp == before:
            return NOTHING_NEW
        workspaces = len(settings.workspaces)
        destinations = len(settings.destinations)
        return CommandResult(
            f"adopted: {count(workspaces, 'workspace')} and {count(destinations, 'destination')}",
        )


def _read_again(read: Callable[[], Settings]) -> tuple[Settings | CommandResult, bool]:
    """Return the configuration, or the refusal of an invalid one.

    The second value is True if the configuration hashes people in another way.
    """
    hashing = current()
    try:
        return read(), current() != hashing
    except SettingsError as error:
        text = f"the configuration is invalid, nothing was adopted: {'; '.join(error.problems)}"
        return CommandResult(text, False, "bad_configuration"), False
    finally:
        use(hashing)  # another pepper takes effect at a restart


def endpoints_of(settings: Settings) -> dict[str, Endpoint]:
    """Return the webhooks and the token of each destination that has webhooks.

    The settings must have been read with Clay's secrets.
    """
    secrets = settings.secrets
    return {
        alias: Endpoint(
            urls=dict(
                zip(
                    destination.webhook_ids,
                    map(secrets.__getitem__, destination.webhooks_env),
                    strict=True,
                ),
            ),
            token=secrets.get(destination.token_env),
            unavailable_is_refused=destination.unavailable_is_refused,
        )
        for alias, destination in settings.destinations.items()
        if destination.routine is None
    }


def apis_of(settings: Settings) -> dict[str, ApiEndpoint]:
    """Return the Public API of each destination that has a routine.

    The settings must have been read with Clay's secrets.
    """
    accounts = accounts_of(settings)
    return {
        alias: accounts[destination.workspace]
        for alias, destination in settings.destinations.items()
        if destination.routine is not None and destination.workspace in accounts
    }


def accounts_of(settings: Settings) -> dict[str, ApiEndpoint]:
    """Return the Public API of each workspace that has a key.

    The settings must have been read with Clay's secrets.
    """
    return {
        name: ApiEndpoint(workspace.api_url, settings.secrets[workspace.api_key_env])
        for name, workspace in settings.workspaces.items()
        if workspace.api_key_env is not None
    }
