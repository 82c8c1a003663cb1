"""A board whose read model is a script: what a page asks of it, and what it makes of the answers.

A test compares all that a page returns, and the questions with all their arguments, so that nothing
of either can change unnoticed.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import create_autospec

from stream_app.board.access import STRANGER
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.site import Moment, Site
from stream_app.config.model import Board
from stream_app.domain.model.topics import Retention, TopicNames
from stream_app.domain.views.backlog import Place
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.kafka.backlog import Waiting
from stream_app.kafka.groups import Consumption

NOW_S: Final = 1_790_038_000  # 2026-09-22 00:46:40
NOW_MS: Final = NOW_S * 1_000 + 999
HOUR_S: Final = 3_600
DAY_S: Final = 86_400
UP: Final = ConsumerGroup("Stable", 2)


def asked_queries(**answers: object) -> Any:
    """Queries that give these answers, and note what was asked."""
    queries = create_autospec(BoardQueries, instance=True)
    for name, answer in answers.items():
        getattr(queries, name).return_value = answer
    return queries


def site_of(queries: Any, **settings: object) -> Site:
    """A site over these queries, with the settings that a page looks at."""
    usual = {
        "names": TopicNames("test."),
        "topics": Retention(dlq_days=3, parked_days=5),
        "board": Board(operator_token_env="OPERATOR_TOKEN"),
        "workspaces": {},
        "destinations": {},
    }
    made: Any = SimpleNamespace(**(usual | settings))
    return Site(made, queries)


def moment_of(
    waiting: Mapping[Place, Waiting] | None = None,
    *,
    lag: ProjectionLag | None = None,
    kafka: Consumption | None = None,
    **more: Any,
) -> Moment:
    """A moment; Kafka answers if something waits, or `kafka` is given."""
    if waiting is not None:
        kafka = Consumption(UP, UP, dict(waiting))
    return Moment(NOW_MS, lag or ProjectionLag(), kafka, STRANGER, **more)
