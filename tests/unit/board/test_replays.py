"""The replays that operators ordered, in the read model."""

from pathlib import Path

import msgspec

from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.store import ReadModel
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import ReplayPlan, ReplayProgress, progress_row
from tests.board.model_records import NOW_MS, Made, sources, take

NAMES = sources().names


def replay(number: int, sent: int = 0) -> ReplayProgress:
    plan = ReplayPlan(NOW_MS, "dlq", Filter(), {0: 10}, 10, 60, 10)
    return ReplayProgress(f"r-{number}", "running", "jane", "Clay is back", NOW_MS + number, plan, sent=sent)


def row(progress: ReplayProgress, offset: int = 0) -> Made:
    key, value = progress_row(progress)
    return Made(NAMES.replay_state, key, value, offset=offset)


def test_the_last_progress_of_each_replay_counts_and_the_newest_replay_comes_first(
    model: ReadModel, path: Path
) -> None:
    take(model, row(replay(1)), row(replay(2)), row(replay(1, sent=7), 2))
    queries = BoardQueries(path, set())
    assert [(each.id, each.sent) for each in queries.replays(10)] == [("r-2", 0), ("r-1", 7)]
    assert [each.id for each in queries.replays(1)] == ["r-2"]
    found = queries.replay("r-1")
    assert found is not None
    assert msgspec.structs.replace(found, sent=0) == replay(1)
    assert queries.replay("r-3") is None


def test_deleted_replays_go_and_rows_of_other_kinds_are_ignored(model: ReadModel, path: Path) -> None:
    take(model, row(replay(1)), row(replay(2)))
    deleted = Made(NAMES.replay_state, b"replay/r-1", None, offset=1)
    others = (Made(NAMES.replay_state, b"dlq/0/1", b'{"offset":9}'), Made(NAMES.replay_state, b"command/r-9", b"{}"))
    take(model, deleted, *others, Made(NAMES.replay_state, b"replay/r-7", b"{"))
    queries = BoardQueries(path, set())
    assert [each.id for each in queries.replays(10)] == ["r-2"]
    assert [(each.topic, each.records) for each in queries.unreadable()] == [(NAMES.replay_state, 1)]
