"""One sick table in a lane of two: it is held alone, its neighbour goes on, and nothing is lost."""

from collections import Counter
from functools import partial
from typing import Any, Final

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream_app.dev.kafka import Broker
from stream_app.domain.lane.holds import DESTINATION_FAILS
from stream_app.domain.views.lane import LaneView
from tests.board.client import plain
from tests.e2e.behind import eventually
from tests.e2e.fleet import Fleet
from tests.e2e.loop import CONFIG
from tests.e2e.member import Member
from tests.e2e.on_board import signed_in
from tests.e2e.pipeline import READS

SICK: Final = "w0-more"
WELL: Final = "w0-crm"
HELD: Final = f"destination {SICK} fails by itself"
FAILS: Final = {"kind": "status_before", "status": 503, "webhook": "w0--more"}
LANE: Final = """
[workspaces.{name}.breaker]
open_s = 1
open_cap_s = 3
"""


class Lane(Fleet):
    """A lane with two destinations."""

    board: Member
    worker: Member

    async def send(self, alias: str, first: int, count: int) -> None:
        """Publish leads for a destination."""
        numbers = range(first, first + count)
        await self.publish([self.lead(number, "w0", destination=alias) for number in numbers])

    def accepted(self, alias: str) -> int:
        last = [history[-1] for history in list(self.histories.values())]
        return sum((event.destination, event.status) == (alias, "accepted") for event in last)

    async def gauges(self) -> dict[str, float]:
        """Return the gauges of the lane: its own by name, those of a destination with its alias."""
        families = text_string_to_metric_families(await self.worker.get("/metrics"))
        return {
            " ".join(filter(None, (sample.name, sample.labels.get("destination")))): sample.value
            for family in families
            for sample in family.samples
            if sample.name.startswith("stream_app_lane_")
        }

    async def wrong_in_api(self, web: httpx.AsyncClient) -> object:
        """Return the lane as the board's API has it, unless only the sick destination is held."""
        [lane] = (await web.get("/lanes")).json()["lanes"]
        return _wrong(lane)

    async def held(self, web: httpx.AsyncClient) -> object:
        """Return what is held of the lane: nothing once its tables are well."""
        [lane] = (await web.get("/lanes")).json()["lanes"]
        broken = {alias for alias, own in lane["destinations"].items() if "breaker" in own}
        return broken or lane.get("partly") or lane.get("holds")

    async def wrong_in_cli(self) -> object:
        """Return what `lanes` and `explain` say, unless they name what is held, and only that."""
        _, lanes = await self.ask("lanes")
        [lane] = lanes["facts"]["lanes"]
        code, explained = await self.run("explain", "--workspace", "w0")
        is_told = code == 1 and HELD in " ".join(explained.split())
        return _wrong(lane["view"]) or ("" if is_told else explained)

    async def wrong_on_page(self, web: httpx.AsyncClient) -> str:
        page = " ".join(plain((await web.get("/board/lanes/w0")).text).split())
        return "" if HELD in page else page

    async def wrong_in_metrics(self) -> dict[str, float]:
        """Return the gauges of the lane, unless only the sick destination's breaker is not closed.

        It is half open while a probe is under way.
        """
        gauges = await self.gauges()
        of = {
            name: gauges.get(f"stream_app_lane_{name}")
            for name in (
                "breaker",
                f"destination_breaker {SICK}",
                f"destination_breaker {WELL}",
                f"destination_score {SICK}",
                f"destination_score {WELL}",
            )
        }
        is_told = of.pop(f"destination_breaker {SICK}") in (1, 2)
        return {} if is_told and list(of.values()) == [0, 0, 0, 100] else gauges


def _wrong(view: dict[str, Any]) -> object:
    """Return a view, unless it has the sick destination held and its neighbour not."""
    sick = view["destinations"][SICK]
    well = view["destinations"][WELL]
    parts = [(part["destinations"], part["holds"]) for part in view.get("partly", [])]
    if (
        view["breaker"] == "closed"
        and not view.get("holds")
        and parts == [([SICK], DESTINATION_FAILS)]
        and sick["breaker"] in ("open", "half_open")
        and sick["score"] == 0
        and (well.get("breaker", "closed"), well["score"]) == ("closed", 100)
    ):
        return ""
    return view


@pytest.mark.timeout(400)
async def test_a_sick_table_is_held_alone_and_its_leads_arrive_when_it_is_well(
    kafka: Broker,
    namespace: str,
) -> None:
    async with Lane(
        kafka.bootstrap,
        namespace,
        1,
        config=CONFIG,
        lane=LANE,
        more=("w0",),
    ) as line:
        line.control("POST", "/control/faults", FAILS)
        line.board = line.start("board")
        line.worker = line.start("worker")
        replay = line.start("replay")
        await line.ready(line.board, line.worker, replay)
        await line.send(SICK, 0, 20)
        await line.send(WELL, 100, 40)
        await line.until(lambda: line.accepted(WELL) == 40, 60, "the neighbour goes on")
        async with signed_in(line.settings.board_url, READS) as web:
            await eventually(partial(line.wrong_in_api, web), 60)
            await eventually(line.wrong_in_cli, 60)
            await eventually(partial(line.wrong_on_page, web), 60)
            await eventually(line.wrong_in_metrics, 60)

            await line.send(WELL, 200, 40)
            await line.until(lambda: line.accepted(WELL) == 80, 60, "it still goes on")
            assert line.accepted(SICK) == 0, "it is as sick as it was"

            line.control("DELETE", "/control/faults")
            await line.until_last({"accepted": 100}, 120)
            await eventually(partial(line.held, web), 60)
        line.check_histories()
        assert not line.posted_again()
        took = Counter(request.lead_id for request in line.requests() if request.accepted)
        assert took == Counter(history[-1].lead_id for history in line.histories.values())
        assert took.total() == len(took) == 100
        views = [
            msgspec.json.decode(record.value, type=LaneView)
            for record in await line.read(line.settings.names.lanes)
        ]
        assert {view.breaker for view in views} == {"closed"}, "the breaker of the lane stays"
        assert {view.destinations[WELL].breaker for view in views} == {"closed"}
        kinds = {change.kind for view in views for change in view.news}
        assert {"destination_open", "destination_closed"} <= kinds
        await line.end_balanced(line.worker, replay, line.board)
