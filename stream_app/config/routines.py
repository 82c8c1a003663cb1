"""The rules of routines, which are run through Clay's Public API in place of webhooks."""

import math
from collections.abc import Iterator
from typing import Final

from stream_app.config.model import Settings
from stream_app.domain.model.addresses import api_problem, routine_problem, run_webhook_problem
from stream_app.domain.plan import Destination, Workspace

_MAX_POLLS: Final = 20
_ONLY_FOR_A_ROUTINE: Final = ("poll_after_s", "run_webhook", "run_webhook_secret_env")
_PLAIN: Final = Destination("", "")
_NOT_FOR_A_ROUTINE: Final = {
    "webhooks_env": "a destination has webhooks or a routine; remove one of them",
    "quota_lifetime": "a routine has no end of this kind; remove it",
    "token_env": "the key of the workspace authenticates, in api_key_env; remove it",
    "callback_secrets_env": "nothing calls back, because results are asked for; remove it",
}
"""Key -> why a routine has none, and what to do."""


def routine_problems(settings: Settings) -> Iterator[str]:
    """Yield one line for each error."""
    variables: dict[str, str] = {}
    for name, workspace in settings.workspaces.items():
        mine = settings.plan.destinations_of(name)
        yield from (f"workspaces.{name}{line}" for line in _workspace(workspace, mine))
        variable = workspace.api_key_env
        if variable is not None and variables.setdefault(variable, name) != name:
            yield (
                f"workspaces.{name}.api_key_env: {variable} is the key of workspace "
                f"{variables[variable]}; a key is of one workspace, so name another variable"
            )
    for alias, destination in settings.destinations.items():
        of_kind = _webhooks(destination)
        if destination.routine is not None:
            of_kind = _routine(settings, destination, destination.routine)
        yield from (f"destinations.{alias}.{line}" for line in of_kind)


def _workspace(workspace: Workspace, mine: list[Destination]) -> Iterator[str]:
    """Yield the errors of a workspace with a key or routines. `mine` are its destinations."""
    if workspace.api_key_env is not None:
        # The key goes to this address, whatever its destinations are.
        lines = (api_problem(workspace.api_url, place.allowed_hosts) for place in mine)
        yield from dict.fromkeys(f".api_url: {line}" for line in lines if line)
    routines = [destination for destination in mine if destination.routine is not None]
    if not routines:
        return
    first = f"destinations.{routines[0].alias}"
    if len(routines) < len(mine):
        other = next(destination for destination in mine if destination.routine is None)
        yield (
            f": {first} has a routine and destinations.{other.alias} has webhooks, and Clay limits "
            "the rates of the two apart; give one of them a workspace of its own here, with a rate "
            "and a budget"
        )
    if workspace.api_key_env is None:
        yield (
            f".api_key_env: the routine of {first} needs it; name the environment variable with "
            "the key of this workspace, which Clay makes under Settings, Account, API keys"
        )


def _webhooks(destination: Destination) -> Iterator[str]:
    """Yield the keys that a destination with webhooks has in vain."""
    for key in _ONLY_FOR_A_ROUTINE:
        if getattr(destination, key) != getattr(_PLAIN, key):
            yield f"{key}: is for a routine, and this destination has none; remove it"


def _routine(settings: Settings, destination: Destination, routine: str) -> Iterator[str]:
    if problem := routine_problem(routine):
        yield f"routine: {problem}"
    for key, advice in _NOT_FOR_A_ROUTINE.items():
        if getattr(destination, key) != getattr(_PLAIN, key):
            yield f"{key}: {advice}"
    if not destination.callbacks:
        yield "callbacks: the results of a routine are always asked for; remove it"
    if destination.unavailable_is_refused:
        yield (
            "unavailable_is_refused: nobody says that a 503 of the Public API took nothing, so a "
            "lead could be paid for twice; remove it"
        )
    yield from _polls(destination)
    yield from _run_webhook(settings, destination)


def _polls(destination: Destination) -> Iterator[str]:
    polls = list(destination.poll_after_s)
    ascending = bool(polls) and all(map(math.isfinite, polls)) and polls == sorted(set(polls))
    if not ascending or len(polls) > _MAX_POLLS or polls[0] < 1:
        yield (
            f"poll_after_s: must be 1 to {_MAX_POLLS} numbers of seconds from 1 on, in ascending "
            "order"
        )
    elif polls[0] >= destination.callback_deadline_s:
        yield (
            f"poll_after_s: begins with {polls[0]:g}, which must be below callback_deadline_s = "
            f"{destination.callback_deadline_s:g}, or each lead is overdue before its result is "
            "asked for"
        )


def _run_webhook(settings: Settings, destination: Destination) -> Iterator[str]:
    name = destination.run_webhook
    if (name is None) != (destination.run_webhook_secret_env is None):
        yield "run_webhook: needs run_webhook_secret_env, and the other way round"
    if name is None:
        return
    if problem := run_webhook_problem(name):
        yield f"run_webhook: {problem}"
    if settings.gateway.public_url is None:
        yield (
            "run_webhook: Clay has no address to announce a run's end to: set gateway.public_url, "
            "or remove it, since results are found without it"
        )
