"""The configuration of a running worker: what an operator changed since it started is adopted where that is safe.

Workspaces and destinations (so webhooks, tokens, policies) are looked up for each lead, so their entries in the plan
are exchanged in place. What the process was built from (Kafka, topics, the line, where a workspace lives) stays, and so
does what was taken out: leads under way may still need it. Both are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from stream_app.clay.endpoints import Endpoint
from stream_app.config import Settings
from stream_app.domain.errors import SettingsError
from stream_app.domain.lead.pseudonyms import current, use
from stream_app.domain.policy import Plan
from stream_app.pipeline.command import CommandResult

Derived = tuple[Plan, dict[str, Endpoint]]
NOTHING_NEW: Final = CommandResult("nothing in the configuration is new")
_LOOKED_UP: Final = frozenset({"workspace_defaults", "workspaces", "destinations", "secrets"})


class Configuration:
    """`plan` and `endpoints` are what the process works with, and are changed in place.

    read    the settings as the files and the environment have them now. derive: what follows from them.
    """

    def __init__(
        self, settings: Settings, derived: Derived, read: Callable[[], Settings], derive: Callable[[Settings], Derived]
    ) -> None:
        self._settings = settings
        self._proxy_url = settings.secrets[settings.egress.proxy_env] if settings.egress.proxy_env else None
        self.plan, self.endpoints = derived
        self._read = read
        self._derive = derive

    def reload(self) -> CommandResult:
        """Read it anew and adopt what can be adopted; one that is wrong changes nothing."""
        hashing = current()
        try:
            settings = self._read()
        except SettingsError as error:
            text = f"the configuration is wrong, nothing of it is adopted: {'; '.join(error.problems)}"
            return CommandResult(text, False, "bad_configuration")
        finally:
            peppers_differ = current() != hashing
            use(hashing)  # another pepper counts from a restart on
        plan, endpoints = self._derive(settings)
        adopted = [*self._adopt_workspaces(plan), *self._adopt_destinations(plan, endpoints)]
        left = [*self._left(settings, plan), *(["the peppers of privacy.pepper_env"] if peppers_differ else [])]
        told = [f"adopted: {', '.join(adopted)}"] if adopted else []
        told += [f"only at a restart: {', '.join(left)}"] if left else []
        return CommandResult("; ".join(told)) if told else NOTHING_NEW

    def _adopt_workspaces(self, plan: Plan) -> Iterator[str]:
        mine = self.plan
        for name, workspace in plan.workspaces.items():
            before = mine.workspaces.get(name)
            if before is None and name in plan.pins:
                mine.pins[name] = plan.pins[name]
            if before != workspace:
                mine.workspaces[name] = workspace
                yield f"workspace {name}{'' if before else ' (new)'}"

    def _adopt_destinations(self, plan: Plan, endpoints: dict[str, Endpoint]) -> Iterator[str]:
        mine = self.plan
        for alias, destination in plan.destinations.items():
            before, endpoint = mine.destinations.get(alias), endpoints[alias]
            if before is not None and before.workspace != destination.workspace:
                continue
            known = self.endpoints.get(alias)
            if known is not None:  # a lead under way may have been given a webhook that is in no pool any more
                endpoint = Endpoint({**known.urls, **endpoint.urls}, endpoint.token, endpoint.unavailable_is_refused)
            if before == destination and known == endpoint:
                continue
            self.endpoints[alias], mine.destinations[alias] = endpoint, destination
            yield f"destination {alias}{'' if before else ' (new)'} with {len(destination.webhook_ids)} webhooks"

    def _left(self, settings: Settings, plan: Plan) -> Iterator[str]:
        """What differs and stays as it was."""
        mine = self.plan
        for name in Settings.__struct_fields__:
            if name not in _LOOKED_UP and getattr(settings, name) != getattr(self._settings, name):
                yield name
        if (proxy := settings.egress.proxy_env) and settings.secrets[proxy] != self._proxy_url:
            yield f"the proxy's URL in {proxy}"
        for name in mine.workspaces:
            if name not in plan.workspaces:
                yield f"workspace {name} is gone"
            elif plan.pins.get(name) != mine.pins.get(name):
                yield f"workspaces.{name}.partition"
        for alias, destination in mine.destinations.items():
            now = plan.destinations.get(alias)
            if now is None:
                yield f"destination {alias} is gone"
            elif now.workspace != destination.workspace:
                yield f"destinations.{alias}.workspace"
