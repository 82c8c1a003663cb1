"""Messages are made of the findings that the board shows; templates and static files are whole."""

import re
import tomllib
import zipfile
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from stream_app.board.access import STRANGER
from stream_app.board.notify import alert_of, board_findings
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import STALE_MS, ProjectionLag
from stream_app.board.site import Moment, Site, overview
from stream_app.domain.views.explain import Finding
from tests.board.client import Client
from tests.board.clock import NOW_MS
from tests.board.scene import consumers_of, settings_of

FOLLOWS = ProjectionLag(NOW_MS - 1_000)
TROUBLE = [Finding("read_model", "", holds=False)]


@pytest.fixture
def site(folder: Path) -> Site:
    settings = settings_of(folder)
    return Site(settings, BoardQueries(folder / "model.sqlite", settings.without_callbacks))


async def test_they_are_those_of_the_page_now(site: Site) -> None:
    consumers = consumers_of()
    findings, is_whole = await board_findings(site, FOLLOWS, consumers, NOW_MS)
    shown = overview(site, Moment(NOW_MS, FOLLOWS, consumers.now, STRANGER))
    assert is_whole
    assert findings == [
        *shown.everywhere,
        *(finding for lane in shown.lanes for finding in lane.findings),
    ]
    alerts = [alert.key for finding in findings if (alert := alert_of(finding, NOW_MS)) is not None]
    assert alerts == [
        ("http_401", "acme"),
        ("webhook_out", "acme"),
        ("no_callbacks", "hooli"),
        ("breaker_open", "umbrella"),
    ]


async def test_nothing_is_known_of_lanes_while_kafka_is_away_or_the_model_is_behind(
    site: Site,
    tmp_path: Path,
) -> None:
    consumers = consumers_of()
    away = ProjectionLag(NOW_MS, trouble="Kafka at 127.0.0.1:9092 did not answer within 10 s")
    assert await board_findings(site, away, consumers, NOW_MS) == (TROUBLE, False)
    for lag in (ProjectionLag(), ProjectionLag(NOW_MS - STALE_MS - 1)):
        assert await board_findings(site, lag, consumers, NOW_MS) == ([], False)
    missing = Site(site.settings, BoardQueries(tmp_path / "missing.sqlite", set()))
    assert await board_findings(missing, FOLLOWS, consumers, NOW_MS) == (TROUBLE, False)
    consumers.now = None
    assert await board_findings(site, FOLLOWS, consumers, NOW_MS) == ([], False)


def test_the_vendored_files_are_unchanged() -> None:
    folder = files("stream_app.board") / "static" / "vendor"
    listed = tomllib.loads(folder.joinpath("VENDORED.toml").read_text())["file"]
    for asset in listed:
        assert sha256(folder.joinpath(asset["name"]).read_bytes()).hexdigest() == asset["sha256"], (
            asset["name"]
        )
        assert folder.joinpath(asset["licence_file"]).is_file()
        assert asset["version"] in asset["name"]
    names = (
        {asset["name"] for asset in listed}
        | {asset["licence_file"] for asset in listed}
        | {"VENDORED.toml"}
    )
    assert {path.name for path in folder.iterdir()} == names


async def test_static_files_are_kept_by_browsers_and_are_in_no_other_place(local: Client) -> None:
    text = (await local.get("/board")).text
    (css,) = re.findall(r'href="(/board/static/[^"]+board\.css)"', text)
    answer = await local.get(css)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert "http" not in re.sub(r"/\*.*?\*/", "", answer.text), "nothing is fetched from elsewhere"
    for path in ("/board/static/../app.py", "/board/static/board.css", "/board/static/x/board.css"):
        assert (await local.get(path)).status_code == 404


def test_the_wheel_has_templates_and_static_files(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    (built,) = WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(built).namelist())
    folder = root / "stream_app" / "board"
    for kind in ("static", "templates"):
        for path in (folder / kind).rglob("*"):
            if path.is_file():
                assert path.relative_to(root).as_posix() in names
