"""The replays that operators ordered, in the read model."""

from pathlib import Path

import msgspec

from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.store import ReadModel
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import (
    PAUSE,
    ReplayPause,
    ReplayPlan,
    ReplayProgress,
    progress_row,
)
from tests.board.model_records import NOW_MS, Made, history, sources, take
from tests.support.narrow import present

NAMES = sources().names


def replay(number: int, sent: int = 0) -> ReplayProgress:
    plan = ReplayPlan(NOW_MS, "dlq", Filter(), {0: 10}, 10, 60, 10)
    return ReplayProgress(
        f"r-{number}",
        "running",
        "jane",
        "Clay is back",
        NOW_MS + number,
        plan,
        sent=sent,
    )


def row(progress: ReplayProgress, offset: int = 0) -> Made:
    key, value = progress_row(progress)
    return Made(NAMES.replay_state, key, value, offset=offset)


def test_the_last_progress_of_each_replay_counts_and_the_newest_comes_first(
    model: ReadModel,
    path: Path,
) -> None:
    take(model, row(replay(1)), row(replay(2)), row(replay(1, sent=7), 2))
    queries = BoardQueries(path, set())
    assert [(listed.id, listed.sent) for listed in queries.replays(10)] == [("r-2", 0), ("r-1", 7)]
    assert [listed.id for listed in queries.replays(1)] == ["r-2"]
    assert msgspec.structs.replace(present(queries.replay("r-1")), sent=0) == replay(1)
    assert queries.replay("r-3") is None


def test_deleted_replays_go_and_rows_of_other_kinds_are_ignored(
    model: ReadModel,
    path: Path,
) -> None:
    take(model, row(replay(1)), row(replay(2)))
    deleted = Made(NAMES.replay_state, b"replay/r-1", None, offset=1)
    others = (
        Made(NAMES.replay_state, b"dlq/0/1", b'{"offset":9}'),
        Made(NAMES.replay_state, b"command/r-9", b"{}"),
    )
    take(model, deleted, *others, Made(NAMES.replay_state, b"replay/r-7", b"{"))
    queries = BoardQueries(path, set())
    assert [progress.id for progress in queries.replays(10)] == ["r-2"]
    assert [(topic.topic, topic.records) for topic in queries.unreadable()] == [
        (NAMES.replay_state, 1),
    ]


def test_a_pause_of_replays_holds_each_lead_that_comes_back_through_them(
    model: ReadModel,
    path: Path,
) -> None:
    take(
        model,
        *history(NAMES, "crm-1", "received", "sending", "refused", "dead_lettered"),
        *history(NAMES, "crm-2", "received", "held_budget", "deferred", offset=1),
        *history(NAMES, "crm-3", "received", "held_budget", offset=2),
        Made(
            NAMES.replay_state,
            PAUSE,
            msgspec.json.encode(ReplayPause("jane", "Clay is down", NOW_MS)),
        ),
    )
    queries = BoardQueries(path, set())

    def limits() -> list[str]:
        leads = [queries.lead(f"crm-{number}", NOW_MS) for number in (1, 2, 3)]
        return [lead.histories[0].waits[-1].limit for lead in leads if lead]

    assert queries.pause() == ReplayPause("jane", "Clay is down", NOW_MS)
    assert limits() == ["replay_paused", "replay_paused", ""], "the third waits with its worker"
    held = present(queries.lead("crm-1", NOW_MS))
    *_, before, now = held.histories[0].waits
    assert now.kind == "replay"
    assert now.text == "replays are paused by jane: Clay is down"
    assert now.until_ms is None
    assert (now.begin_ms, now.end_ms) == (held.histories[0].at_ms, None) != (before.begin_ms, None)
    take(model, Made(NAMES.replay_state, PAUSE, None, offset=1))
    assert queries.pause() is None
    assert "replay_paused" not in limits()
