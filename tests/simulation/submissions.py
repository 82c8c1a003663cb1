"""Submissions: what a lane counts for each webhook is what was written ahead for it, and at least
what Clay received.

Retries and probes are written ahead like any other send, so none is left out; a crash before a POST
counts one that Clay never had, which is the safe side of a quota.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.lane.lane import Lane
from tests.simulation.clay import Post


class SubmissionChecks:
    """`problem` receives each broken promise in one line."""

    def __init__(self, problem: Callable[[str], None]) -> None:
        self._problem = problem
        self._seen: set[tuple[str, int]] = set()
        self._written: Counter[str] = Counter()
        self._posted: Counter[str] = Counter()

    def on_row(self, row: Delivery) -> None:
        """A lead's row is committed; a row that is confirmed unchanged reports nothing new."""
        if row.state == "sending" and (row.origin, row.seq) not in self._seen:
            self._seen.add((row.origin, row.seq))
            self._written[row.webhook_id] += 1

    def on_lane(self, lane: Lane) -> None:
        """Its row is committed, behind those of its leads."""
        for webhook_id, webhook in lane.quota.webhooks.items():
            if webhook.count != (written := self._written[webhook_id]):
                self._problem(
                    f"4: {webhook_id} has {webhook.count} submissions, {written} were "
                    "written ahead",
                )

    def on_post(self, post: Post) -> None:
        self._posted[post.webhook_id] += 1

    def at_rest(self, lanes: Iterable[Lane], calm: bool) -> None:
        """`calm`: nothing broke, so nothing that was written ahead was left unsent."""
        for lane in lanes:
            for webhook_id, webhook in lane.quota.webhooks.items():
                posted = self._posted[webhook_id]
                if webhook.count < posted or (calm and webhook.count != posted):
                    self._problem(
                        f"4: {webhook_id} has {webhook.count} submissions, Clay received {posted}",
                    )
