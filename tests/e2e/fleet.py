"""A pipeline with many workers: who owns which lane, when a lane moved, and what each request to
Clay was.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from tests.e2e.member import Member
from tests.e2e.pipeline import OVER, Pipeline
from tests.support.pace import BUSY

_POLL_S: Final = 0.05
REFUSED: Final = frozenset({*range(300, 500), 503}) - {408}
"""Statuses that say that Clay did not take a lead; any other failure leaves it uncertain."""


class Request(msgspec.Struct, tag_field="kind", tag="request"):
    """A request in the simulator's ledger and how it ended. `at_ms` is when it arrived."""

    seq: int
    at_ms: int
    status: int | str
    accepted: int
    workspace: str | None = None
    lead_id: str | None = None
    fault: str | None = None

    @property
    def refused(self) -> bool:
        return self.accepted == 0 and (
            self.status in REFUSED or self.fault == "reset_before_accept"
        )


class Run(Request, tag_field="kind", tag="run"):
    """A request that ran a routine for one lead, which `lead_id` names once it is known.

    Nothing says that Clay took nothing where it answers 503.
    """

    run_id: str = ""
    delivery_id: str = ""

    @property
    def refused(self) -> bool:
        return self.status != 503 and super().refused


_request: Final = msgspec.json.Decoder(Request | Run)


class Fleet(Pipeline):
    """A pipeline with several workers. `members` has all that ever ran."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.members: list[Member] = []
        self._requests: list[Request] = []
        self._unnamed: list[Run] = []
        self._ledger_read = 0

    def join(self, **how: Any) -> Member:
        """Start another worker, as `start` does."""
        self.members.append(self.start("worker", **how))
        return self.members[-1]

    async def owners(self, within_s: float = 10) -> dict[str, Member]:
        """Return which member sends the leads of each workspace: its count rises.

        All workspaces must have leads to send.
        """
        # A worker that does not answer at once is compared with its own first answer: as much as it
        # had sent before is no rise.
        first: dict[Member, dict[str, float]] = {}
        owners: dict[str, Member] = {}
        deadline = time.monotonic() + within_s * BUSY
        while owners.keys() != set(self.names):
            if time.monotonic() > deadline:
                raise AssertionError(
                    (
                        f"no worker sends for {set(self.names) - owners.keys()}, within "
                        f"{within_s * BUSY:g} s"
                    ),
                )
            for member, counts in (await self._counts()).items():
                before = first.setdefault(member, counts)
                risen = {name for name, count in counts.items() if count > before.get(name, 0)}
                owners |= dict.fromkeys(risen, member)
            await asyncio.sleep(0.2)
        return owners

    async def spread(self, members: Iterable[Member], within_s: float) -> dict[str, Member]:
        """Wait until each of these members sends for some workspace, and no other member does."""
        wanted = set(members)
        deadline = time.monotonic() + within_s * BUSY
        while set((owners := await self.owners(within_s)).values()) != wanted:
            if time.monotonic() > deadline:
                others = wanted ^ set(owners.values())
                described = [await asyncio.to_thread(member.describe) for member in others]
                raise AssertionError(
                    "\n  ".join(
                        [
                            f"{len(set(owners.values()))} of {len(wanted)} workers send, within "
                            f"{within_s * BUSY:g} s",
                            *described,
                        ],
                    ),
                )
        return owners

    async def _counts(self) -> dict[Member, dict[str, float]]:
        alive = [member for member in self.members if member.alive and not member.frozen]
        sent = await asyncio.gather(*(asyncio.to_thread(member.sent) for member in alive))
        return {
            member: counts for member, counts in zip(alive, sent, strict=True) if counts is not None
        }

    # --------------------------------------------------------------------------- Clay's own account

    def requests(self) -> list[Request]:
        """Return all requests to Clay so far, from the simulator's ledger file."""
        with self.ledger_file().open("rb") as file:
            file.seek(self._ledger_read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._ledger_read += len(line)
                if b'"kind":"request"' in line or b'"kind":"run"' in line:
                    request = _request.decode(line)
                    self._requests.append(request)
                    if isinstance(request, Run):
                        self._unnamed.append(request)
        for run in self._unnamed:
            run.lead_id = self.lead_of(run.delivery_id)
        self._unnamed = [run for run in self._unnamed if run.lead_id == run.delivery_id]
        return self._requests

    async def requests_after(self, at_ms: float) -> list[Request]:
        """Return the requests to Clay after this time (epoch ms), once leads had 2 s to go.

        A lane of 10 leads a second that is not held sends some 20 in these 2 s, so an empty list
        shows that it is held.
        """
        await self.until(lambda: now_ms() > at_ms + 2_000, 30, "time in which leads could go")
        return [request for request in self.requests() if request.at_ms > at_ms]

    async def first_request(
        self,
        workspaces: Iterable[str],
        after_ms: int,
        within_s: float,
    ) -> dict[str, int]:
        """Return when the first request of each workspace arrived, in ms after `after_ms`."""
        missing = set(workspaces)
        firsts = dict[str, int]()
        deadline = time.monotonic() + within_s * BUSY
        seen = 0
        while missing - firsts.keys():
            requests = self.requests()
            for request in requests[seen:]:
                if request.workspace in missing and request.at_ms > after_ms:
                    firsts.setdefault(request.workspace, request.at_ms - after_ms)
            seen = len(requests)
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"no request of {missing - firsts.keys()} within {within_s * BUSY:g} s",
                )
            await asyncio.sleep(_POLL_S)
        return firsts

    def posted_again(self) -> dict[str, list[Request]]:
        """Return the leads that were sent again after a POST that was not refused.

        This must never happen.
        """
        by_lead: dict[str, list[Request]] = defaultdict(list)
        for request in self.requests():
            if request.lead_id is not None:
                by_lead[request.lead_id].append(request)
        return {
            lead: requests
            for lead, requests in by_lead.items()
            if any(not request.refused for request in requests[:-1])
        }

    # ------------------------------------------------------------------------------------- verdicts

    async def until_rest(self, count: int, timeout_s: float, *, duplicates: int = 0) -> None:
        """Wait until this many records are finished.

        Check that none was lost, sent twice or reported wrongly.

        They are good leads of different people, except `duplicates` of them. Each is accepted, or
        parked as uncertain.
        """
        rest = OVER - {"rerouted"}
        await self.until(
            lambda: (
                sum(history[-1].status in rest for history in list(self.histories.values()))
                >= count
            ),
            timeout_s,
            f"{count} records at rest",
        )
        self.check_histories()
        assert len(self.histories) == count, "every record has one history"
        last = self.last()
        assert last["accepted"] + last["parked"] == count - duplicates, last
        assert last["duplicate"] == duplicates, last
        twice = self.posted_again()
        assert not twice, {lead: self.describe(lead) for lead in list(twice)[:5]}
        took = Counter(request.lead_id for request in self.requests() if request.accepted)
        for history in self.histories.values():
            if history[-1].status == "accepted":
                assert took[history[-1].lead_id] == 1, (
                    f"Clay never got it: {self.describe(history[-1].lead_id)}"
                )
            if history[-1].status == "parked":
                assert history[-2].status == "send_uncertain", (
                    f"parked for nothing: {self.describe(history[-1].lead_id)}"
                )

    def describe(self, lead_id: str) -> str:
        """Return everything that is known of a lead, as text."""
        lines = [
            f"{event.at_ms} {event.origin}#{event.seq} {event.status} {event.reason}"
            for history in self.histories.values()
            for event in history
            if event.lead_id == lead_id
        ]
        lines += [
            (
                f"{request.at_ms} Clay was sent it: {request.status}, accepted "
                f"{request.accepted}, {request.fault or ''}"
            )
            for request in self.requests()
            if request.lead_id == lead_id
        ]
        return "\n  ".join([lead_id, *sorted(lines)])


def now_ms() -> int:
    """Return the time of the simulator's clock, epoch ms."""
    return time.time_ns() // 1_000_000
