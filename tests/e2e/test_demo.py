"""The demo as a user runs it: it ends with books that balance and leaves nothing behind, also after
Ctrl-C.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from stream_app.dev.demo.processes import APPS
from stream_app.dev.kafka import Broker
from tests.support.kafka import topic_names
from tests.support.pace import BUSY, slowness

pytestmark = pytest.mark.timeout(400)

ARGV = [sys.executable, "-m", "stream_app", "demo"]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a user without a broker.

    All temporary files are in one folder, which must be empty at the end.
    """
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    yield {**{k: v for k, v in os.environ.items() if k != "KAFKA_BOOTSTRAP"}, "TMPDIR": str(place)}
    assert list(left_files(place)) == [], "files are left behind"
    assert users_of(place) == [], "processes are left behind"


def left_files(place: Path) -> Iterator[Path]:
    return (path for path in place.iterdir() if path.name.startswith(("stream-app", "sim-")))


def users_of(place: Path) -> list[str]:
    """Return the command lines of the processes that work in that folder or name it."""
    users = []
    for process in psutil.process_iter():
        try:
            argv = process.cmdline()
            if process.cwd().startswith(str(place)) or any(
                str(place) in argument for argument in argv
            ):
                users.append(" ".join(argv))
        except psutil.Error:
            continue
    return users


@pytest.mark.slow
def test_the_demo_ends_with_books_that_balance_and_agree_with_clays_ledger(
    environment: dict[str, str],
    kafka: Broker,
) -> None:
    """On a broker of the user's, which it leaves as it was."""
    given = environment | {"KAFKA_BOOTSTRAP": kafka.bootstrap}
    ran = subprocess.run(
        [*ARGV, "--json"],
        env=given,
        capture_output=True,
        text=True,
        timeout=150 * BUSY,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    outcome: dict[str, Any] = json.loads(ran.stdout)
    assert outcome["ok"]
    assert outcome["finished"]
    assert outcome["seconds"] < 90 * slowness()
    assert outcome["published"] == 308
    books = outcome["books"]
    ledger = outcome["ledger"]
    assert books["balanced"]
    assert books["records"] == books["accounted"] == 308
    assert books["statuses"]["expired"]["records"] == 8
    assert books["statuses"]["rejected_invalid"]["records"] > 8, (
        "what is no lead, and what Clay called bad"
    )
    clay_called_bad = books["statuses"]["rejected_invalid"]["records"] - 8
    duplicates = books["statuses"]["duplicate"]["records"]
    assert 8 - clay_called_bad <= duplicates <= 8, (
        "a second copy may be sent when Clay called its first one bad"
    )
    assert books["columns"]["enriched"]["records"] == ledger["accepted"] - ledger["uncertain"] > 200
    assert books["statuses"]["enriched"]["records"] > 200
    assert books["statuses"]["no_data"]["records"] > 0
    assert ledger["charged"] == ledger["booked"] > 200 * 2
    assert books["not_leads"].get("callback_unmatched", 0) == 0
    assert ledger["doubles"] == ledger["missing"] == ledger["unknown"] == []
    assert outcome["dead_letters"] >= 5
    assert outcome["replays"] == outcome["dead_letters"]
    assert outcome["in_the_outage"]["balanced"]
    assert outcome["in_the_outage"]["columns"]["waiting"]["records"] > 100
    assert outcome["exit_codes"] == dict.fromkeys(APPS, 0)
    assert f"Using your Kafka at {kafka.bootstrap}" in ran.stderr
    assert asyncio.run(topic_names(kafka.bootstrap, "demo")) == set()


@pytest.mark.slow
def test_the_demo_tells_the_same_story_through_routines(
    environment: dict[str, str],
    kafka: Broker,
) -> None:
    ran = subprocess.run(
        [*ARGV, "--routine", "--json"],
        env=environment | {"KAFKA_BOOTSTRAP": kafka.bootstrap},
        capture_output=True,
        text=True,
        timeout=190 * BUSY,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    outcome: dict[str, Any] = json.loads(ran.stdout)
    assert outcome["ok"]
    assert outcome["books"]["records"] == outcome["books"]["accounted"] == 308
    assert outcome["in_the_outage"]["balanced"]
    ledger = outcome["ledger"]
    assert ledger["doubles"] == ledger["missing"] == ledger["unknown"] == []
    assert ledger["charged"] == ledger["booked"] > 200 * 2
    assert outcome["replays"] == outcome["dead_letters"] > 0
    assert outcome["exit_codes"] == dict.fromkeys(APPS, 0)
    assert asyncio.run(topic_names(kafka.bootstrap, "demo")) == set()


@pytest.mark.long
@pytest.mark.parametrize("when", ["Starting a real", "not taken yet"])
def test_ctrl_c_leaves_nothing_behind(environment: dict[str, str], when: str) -> None:
    with subprocess.Popen(
        ARGV,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            assert demo.stderr is not None
            for line in demo.stderr:
                if when in line:
                    break
            began = time.monotonic()
            demo.send_signal(signal.SIGINT)
            _, output = demo.communicate(timeout=40 * BUSY)
        finally:
            demo.kill()
    assert demo.returncode == 130, output
    assert "interrupted" in output
    assert "Traceback" not in output
    assert time.monotonic() - began < 20 * slowness()


@pytest.mark.long
def test_keep_leaves_everything_up_until_ctrl_c_and_then_closes_the_books(
    environment: dict[str, str],
) -> None:
    argv = [*ARGV, "--keep", "--json"]
    with subprocess.Popen(
        argv,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            assert demo.stderr is not None
            board = ""
            token = ""
            for line in demo.stderr:
                if (
                    match := re.search(r"The board, live while the demo runs: (\S+)", line)
                ) is not None:
                    board = match[1]
                    stranger = httpx.get(board, follow_redirects=True)
                    assert stranger.status_code == 200
                    assert stranger.url.path == "/board/login", "without a ticket nobody reads it"
                if (match := re.search(r"log in with this token: (\S+)\.", line)) is not None:
                    token = match[1]
                    break
            origin = {"origin": board.removesuffix("/board"), "sec-fetch-site": "same-origin"}
            with httpx.Client(headers=origin, timeout=20 * BUSY) as operator:
                form = {"token": token, "who": "jane"}
                assert operator.post(f"{board}/login", data=form).status_code == 303
                until_s = time.monotonic() + 200 * BUSY
                while "nothing more until" not in operator.get(f"{board}/lanes/cedar").text:
                    assert time.monotonic() < until_s, "the small budget is not used up"
                    time.sleep(1)
                assert "Budget" in operator.get(f"{board}/lanes/cedar/act/budget").text, (
                    "the remedy"
                )
                assert "visitor-1" in operator.get(f"{board}/leads").text
                while "silent-1" not in operator.get(f"{board}/leads?status=parked").text:
                    assert time.monotonic() < until_s, "no lead is parked"
                    time.sleep(1)
                plan = operator.get(
                    f"{board}/dead/act/plan?from=dlq&kind=poison&reason=http_422&workspace=alder",
                )
                assert plan.status_code == 200
                rejected = operator.get(
                    f"{board}/leads?status=rejected_invalid&workspace=alder",
                ).text
                assert all(lead in rejected for lead in ("rejected-1", "rejected-2"))
            demo.send_signal(signal.SIGINT)
            out, output = demo.communicate(timeout=100 * BUSY)
        finally:
            demo.kill()
    assert demo.returncode == 0, output
    outcome = json.loads(out)
    assert outcome["ok"]
    assert outcome["books"]["records"] == outcome["books"]["accounted"] > 308
