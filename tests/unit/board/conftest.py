"""An empty read model, and the queries on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import ReadModel
from tests.board.model_records import sources


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
