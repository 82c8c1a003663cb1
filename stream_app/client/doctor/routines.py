"""What `doctor` asks Clay's Public API about, and what it advises on routines.

The questions cost no credits and change nothing.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Final

from stream_app.clay import Egress
from stream_app.clay.client import ClayClient
from stream_app.clay.runs import ApiEndpoint, ClayApi, NotAnswered
from stream_app.client.doctor.gateways import CheckFailed
from stream_app.config import Settings
from stream_app.config.reload import accounts_of
from stream_app.domain.model.run import RunGone, RunLimited
from stream_app.domain.model.text import count
from stream_app.domain.plan import ROUTINE_GRACE_S, Destination

_MAX_PER_S: Final = 5  # Clay names 300 requests a minute (docs/reference/clay.md)


def apis_to_try(settings: Settings) -> Mapping[str, ApiEndpoint]:
    """Return the API of each workspace that has a key, by the workspace's name."""
    return accounts_of(settings)


async def key_works(workspace: str, endpoint: ApiEndpoint, egress: Egress, within_s: float) -> str:
    """Check that Clay takes the key of a workspace.

    Raises:
        CheckFailed: It does not, or it cannot be asked.
    """
    async with _api(egress, within_s) as api:
        of_clay = await api.workspace(endpoint)
    if not isinstance(of_clay, str):
        raise CheckFailed(f"workspace {workspace}: {_why(of_clay)}")
    return f"the API key of {workspace} is for the workspace {of_clay} of Clay"


async def balance_suffices(
    settings: Settings,
    workspace: str,
    endpoint: ApiEndpoint,
    egress: Egress,
    within_s: float,
) -> str:
    """Check that a workspace has the credits that one lead may cost.

    Raises:
        CheckFailed: It has fewer, or Clay does not say.
    """
    async with _api(egress, within_s) as api:
        balance = await api.balance(endpoint)
    if not isinstance(balance, float):
        raise CheckFailed(f"the credits of {workspace} are not known: {_why(balance)}")
    mine = [
        destination
        for destination in settings.destinations.values()
        if destination.workspace == workspace
    ]
    dearest = max(mine, key=attrgetter("ceiling_credits"), default=None)
    left = count(balance, "credit")
    if dearest is not None and balance < (most := dearest.ceiling_credits):
        raise CheckFailed(
            f"{workspace} has {left} left at Clay, and one lead may cost {most} "
            f"(destinations.{dearest.alias}.ceiling_credits): buy credits, or lower the ceiling",
        )
    return f"{workspace} has {left} left at Clay"


def advice(settings: Settings) -> Iterator[str]:
    """Yield what to set otherwise, one line for each."""
    for name, workspace in settings.workspaces.items():
        routines = _routines_of(settings, name)
        if routines and workspace.rate.rate_per_s > _MAX_PER_S:
            yield (
                f"workspaces.{name}.rate.rate_per_s = {workspace.rate.rate_per_s:g}: Clay names "
                "300 requests a minute for all that asks its API, so set 4 unless its support "
                "has raised that"
            )
        for destination in routines:
            grace_s = destination.callback_grace_s
            if grace_s > ROUTINE_GRACE_S:
                yield (
                    f"destinations.{destination.alias}.callback_grace_s = {grace_s:g}: Clay keeps "
                    f"the results of a run for about a day, so set {ROUTINE_GRACE_S:g} at most"
                )
    alone = [
        destination.alias
        for name in settings.workspaces
        for destination in _routines_of(settings, name)
        if destination.run_webhook is None
    ]
    if alone:
        yield (
            f"{', '.join(alone)} without run_webhook: a result comes when it is next asked for, "
            "and a lead whose answer was lost waits for a person; with an address that Clay "
            f"reaches, `stream-app clay-setup {alone[0]}` says how to set one"
        )


def _routines_of(settings: Settings, workspace: str) -> list[Destination]:
    of_workspace = settings.plan.destinations_of(workspace)
    return [destination for destination in of_workspace if destination.routine is not None]


@asynccontextmanager
async def _api(egress: Egress, within_s: float) -> AsyncIterator[ClayApi]:
    client = ClayClient(
        request_timeout_s=within_s,
        connect_timeout_s=within_s / 2,
        pool_timeout_s=within_s / 4,
        max_connections=1,
        keepalive_s=within_s,
        egress=egress,
    )
    async with client:
        yield ClayApi(client)


def _why(answer: NotAnswered) -> str:
    if isinstance(answer, RunLimited):
        return "HTTP 429: the rate of the workspace is used up; ask again in a minute"
    if isinstance(answer, RunGone):
        return f"{answer.text}; compare api_url of the workspace"
    return answer.text
