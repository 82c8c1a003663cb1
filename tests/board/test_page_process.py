"""The process that makes the pages: the same pages, whatever ends it or the gateway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pytest

from stream_app.board.access import STRANGER
from stream_app.board.assets import Assets
from stream_app.board.page import Frame, Job, NotMade, Pages
from stream_app.board.page_process import PageProcess
from stream_app.board.pages.now import now_page
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.render import Renderer
from stream_app.board.site import Moment, Site
from tests.board.client import Client, plain
from tests.board.clock import NOW_MS
from tests.board.scene import board_of, settings_of
from tests.support.pace import BUSY

FRAME = Frame("Now", "now", (), "/board", NOW_MS, 0, 0, "", False, True, "", True, False, False, False, [], "")


@pytest.fixture
def site(folder: Path) -> Site:
    return Site(settings_of(folder), BoardQueries(folder / "model.sqlite", set()))


@pytest.fixture
def pages(site: Site) -> Iterator[PageProcess]:
    pages = PageProcess(site)
    yield pages
    pages.close()
    assert not children()


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "stream_app.board.page_process" in each.cmdline()]


def now(site: Site) -> Job:
    moment = Moment(NOW_MS, ProjectionLag(NOW_MS, 0), None, STRANGER)
    return Job(FRAME, "now", partial(now_page, site, moment, None), moment.shared)


def made(pages: PageProcess, job: Job) -> bytes | None:
    """The page, as soon as the process makes pages."""
    for _ in range(6_000):
        with suppress(NotMade):
            return pages.html_of(job)
        time.sleep(0.01)
    raise AssertionError("the process does not start")


def test_it_makes_the_pages_that_this_process_would_make(site: Site, pages: PageProcess) -> None:
    here = Pages(site, Renderer(Assets())).html_of(now(site))
    assert here is not None
    assert "2 of 6 lanes are held" in plain(here.decode())
    assert made(pages, now(site)) == here
    (process,) = children()
    assert process.nice() > psutil.Process().nice()


def test_no_page_waits_until_it_has_started(site: Site, pages: PageProcess) -> None:
    with pytest.raises(NotMade):
        pages.html_of(now(site))
    assert made(pages, now(site))


def test_another_process_follows_one_that_was_killed(site: Site, pages: PageProcess) -> None:
    made(pages, now(site))
    (process,) = children()
    process.kill()
    with pytest.raises(NotMade):
        pages.html_of(now(site))
    assert made(pages, now(site))
    (other,) = children()
    assert other.pid != process.pid


def test_a_process_that_ends_in_the_middle_of_a_page_is_replaced(site: Site, pages: PageProcess) -> None:
    made(pages, now(site))
    with pytest.raises(NotMade):
        pages.html_of(msgspec.structs.replace(now(site), make=partial(os._exit, 1)))
    assert made(pages, now(site))


def test_an_error_of_a_page_says_where_it_was_raised(site: Site, pages: PageProcess) -> None:
    with pytest.raises(AttributeError, match="shared") as raised:
        made(pages, msgspec.structs.replace(now(site), make=partial(now_page, site, "no moment", None)))  # type: ignore[arg-type]
    assert "board/pages/now.py" in raised.value.__notes__[0]
    assert pages.html_of(now(site))


def test_a_stop_signal_to_all_processes_leaves_the_page_to_the_gateway(site: Site, pages: PageProcess) -> None:
    made(pages, now(site))
    (process,) = children()
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    assert pages.html_of(now(site))
    assert children() == [process]


async def test_the_board_makes_a_page_that_no_other_process_made(folder: Path) -> None:
    def not_made(job: Job) -> bytes | None:
        raise NotMade

    board = board_of(settings_of(folder), folder / "model.sqlite", html_of=not_made)
    assert "2 of 6 lanes are held" in plain((await Client(board).get("/board")).text)
    board.close()


def test_it_ends_with_a_gateway_that_is_killed(folder: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.board.test_page_process import *\n"
        "site = Site(settings_of(Path(sys.argv[1])), BoardQueries(Path(sys.argv[1]) / 'model.sqlite', set()))\n"
        "made(PageProcess(site), now(site))\nprint(children()[0].pid, flush=True)\ntime.sleep(60)\n"
    )
    gateway = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    assert gateway.stdout is not None
    process = psutil.Process(int(gateway.stdout.readline()))
    gateway.kill()
    gateway.wait()
    deadline = time.monotonic() + 30 * BUSY
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "it goes on without the gateway"
            time.sleep(0.05)
