"""An empty read model with the queries on it, and a board to which no file was given yet."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel
from stream_app.board.uploads import Uploads
from stream_app.config import Settings, load_settings
from tests.board.model_records import sources
from tests.support.config import one_way
from tests.support.uploads import NOW_MS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "model.sqlite"


@pytest.fixture
def model(path: Path) -> Iterator[ReadModel]:
    model = ReadModel(path, sources())
    yield model
    model.close()


@pytest.fixture
def ask(path: Path, model: ReadModel) -> Queries:
    return Queries(path, final={"firms"})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "stream_app.toml"
    path.write_text(one_way(people="acme", firms="globex"))
    return load_settings(path, {}, ())


@pytest.fixture
async def kept(settings: Settings) -> AsyncIterator[Uploads]:
    with_them = Uploads(settings, lambda names, now_ms: {}, lambda: NOW_MS)
    yield with_them
    with_them.close()
