"""Plans replays for operators, and orders them. The board makes one plan at a time, in a thread of its own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from stream_app.client.commands import Put, put_command
from stream_app.config import Settings
from stream_app.domain.dead_letter.causes import Filter, Source
from stream_app.domain.dead_letter.orders import PLAN_LIFE_MS, ReplayCommand, ReplayPlan
from stream_app.domain.dead_letter.pricing import PricedPlan
from stream_app.domain.errors import StreamAppError
from stream_app.kafka.readers import Progress
from stream_app.ops import logs
from stream_app.replay.orders import command_record, start_command
from stream_app.replay.plan import check_filter, spans_of, survey_in_thread
from stream_app.tasks import cancel

log = logs.get("board")

_MOST_PLANS: Final = 50


class Wanted(msgspec.Struct, frozen=True):
    """What is planned: the options of `stream-app replay plan`."""

    source: Source
    filter: Filter
    uncertain: bool = False
    limit: int | None = None


class Plan(msgspec.Struct):
    """A plan, while it is made and after that.

    Attributes:
        began_ms: When it began, epoch ms.
        done: Offsets that were read; `total`: offsets to read, 0 until they are known.
        ends: Partition -> the offset after the last dead letter.
        priced: The result; None until it is there.
        problem: Why there is none.
    """

    id: str
    wanted: Wanted
    who: str
    began_ms: int
    done: int = 0
    total: int = 0
    ends: dict[int, int] = {}
    priced: PricedPlan | None = None
    problem: str = ""

    @property
    def under_way(self) -> bool:
        """True until it is priced, or has a problem."""
        return self.priced is None and not self.problem

    @property
    def expires_ms(self) -> int:
        """When it can no longer be sent, epoch ms."""
        return self.began_ms + PLAN_LIFE_MS


Survey = Callable[[Settings, Wanted, Progress], Awaitable[tuple[dict[int, int], PricedPlan]]]
"""Returns the offset after the last dead letter by partition, and the plan."""


class Busy(Exception):
    """Another plan is being made."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.id)
        self.plan = plan


class Planner:
    """Makes plans, keeps them for ten minutes, and sends commands."""

    def __init__(
        self,
        settings: Settings,
        put: Put,
        now_ms: Callable[[], int],
        survey: Survey | None = None,
    ) -> None:
        self._settings = settings
        self._put = put
        self._now_ms = now_ms
        self._survey = survey or _survey
        self._plans: dict[str, Plan] = {}
        self._task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End the plan that is being made."""
        await cancel([self._task])

    def begin(self, wanted: Wanted, who: str) -> Plan:
        """Begin a plan. Raises SettingsError if the filter is wrong, and Busy if another plan is being made."""
        check_filter(self._settings, wanted.source, wanted.filter)
        for plan in list(self._plans.values()):
            if plan.under_way:
                raise Busy(plan)
            if plan.expires_ms < self._now_ms() or len(self._plans) >= _MOST_PLANS:
                del self._plans[plan.id]
        plan = Plan(secrets.token_hex(6), wanted, who, self._now_ms())
        self._plans[plan.id] = plan
        self._task = asyncio.create_task(self._make(plan))
        return plan

    def find(self, plan_id: str) -> Plan | None:
        """Return a plan that has not expired."""
        plan = self._plans.get(plan_id)
        return plan if plan is not None and plan.expires_ms >= self._now_ms() else None

    async def give_up(self, plan: Plan) -> None:
        """Stop making a plan."""
        if plan.under_way:
            plan.problem = "it was cancelled"
            await cancel([self._task])

    async def send(self, plan: Plan, who: str, why: str, *, over_budget: bool) -> str:
        """Order the replay of a plan, and return its id. A plan is one replay, however often it is sent.

        Raises:
            BrokerUnavailable: Kafka did not confirm it.
        """
        priced = plan.priced
        assert priced is not None, "a form sends only a plan that is made"
        order = ReplayPlan(
            plan.began_ms,
            plan.wanted.source,
            plan.wanted.filter,
            plan.ends,
            priced.go,
            priced.credits_at_most,
            priced.actions_at_most,
            uncertain=plan.wanted.uncertain,
            over_budget=over_budget,
        )
        await self.command(start_command(order, who, why, replay=f"r-{plan.id}"))
        return f"r-{plan.id}"

    async def change(self, command_id: str, kind: Literal["stop", "resume"], replay: str, who: str, why: str) -> None:
        """Stop or resume a replay. Raises BrokerUnavailable."""
        await self.command(ReplayCommand(command_id, kind, replay, self._now_ms(), who, why))

    async def command(self, command: ReplayCommand) -> None:
        """Write a command to Kafka. Raises BrokerUnavailable."""
        await put_command(self._put, [command_record(self._settings, command)])

    async def _make(self, plan: Plan) -> None:
        def note(done: int, total: int) -> None:
            plan.done, plan.total = done, total

        try:
            async with asyncio.timeout(PLAN_LIFE_MS / 1000):
                plan.ends, plan.priced = await self._survey(self._settings, plan.wanted, note)
        except TimeoutError:
            plan.problem = "it took longer than a plan may be sent: choose fewer dead letters"
        except StreamAppError as error:
            plan.problem = str(error)
        except Exception as error:
            log.exception("plan_failed")
            plan.problem = f"a bug ended it ({type(error).__name__}): the log of the board has more"


async def _survey(settings: Settings, wanted: Wanted, progress: Progress) -> tuple[dict[int, int], PricedPlan]:
    spans = await spans_of(settings, wanted.source)
    priced, _ = await survey_in_thread(
        settings,
        wanted.source,
        wanted.filter,
        progress,
        ranges=spans,
        uncertain=wanted.uncertain,
        limit=wanted.limit,
    )
    return {number: end for number, (_, end) in spans.items()}, priced
