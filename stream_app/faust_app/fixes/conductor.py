"""Fix: subscribe to the topics once.

Upstream (not reported): the conductor subscribes again 45 s after a partition was revoked, which causes one more
rebalance. If the app stops during that wait, the conductor calls a thread that has ended, and the stop hangs.

Tests: tests/integration/test_faust_processes.py stops processes after rebalances; `Conductor._subscriber` is pinned in
tests/unit/kafka/test_faust_pins.py.

Remove it when upstream subscribes again only if its topics have changed. Ours never change.
"""

from __future__ import annotations

from faust.transport.conductor import Conductor
from mode import Service
from mode.utils.futures import notify


class SubscribeOnce(Conductor):  # type: ignore[misc]  # faust ships no types
    """Subscribes when all agents and tables are registered, and never again."""

    async def _run(self) -> None:
        await self.app.agents.wait_until_agents_started()
        await self.app.tables.wait_until_tables_registered()
        if not self.should_stop:
            await self.app.consumer.subscribe(await self._update_indices())
            notify(self._subscription_done)

    _subscriber = Service.task(_run)
