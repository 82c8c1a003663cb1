"""The board's templates and static files."""

import re
import tomllib
import zipfile
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

from tests.board.client import Client


def test_the_vendored_files_are_unchanged() -> None:
    folder = files("stream_app.board") / "static" / "vendor"
    listed = tomllib.loads(folder.joinpath("VENDORED.toml").read_text())["file"]
    for each in listed:
        assert sha256(folder.joinpath(each["name"]).read_bytes()).hexdigest() == each["sha256"], each["name"]
        assert folder.joinpath(each["licence_file"]).is_file()
        assert each["version"] in each["name"]
    names = {each["name"] for each in listed} | {each["licence_file"] for each in listed} | {"VENDORED.toml"}
    assert {each.name for each in folder.iterdir()} == names


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
