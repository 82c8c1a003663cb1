"""Ways to miscount the submissions of a webhook."""

from typing import Any
from unittest.mock import patch

import msgspec

from stream_app.domain.lane import settlement
from stream_app.domain.lane.lane import for_new_owner
from stream_app.domain.limits.webhook_quota import Quota
from stream_app.domain.model.outcome import Accepted
from tests.simulation.mutant import Patch, mutant


@mutant("4")
def a_submission_that_fails_is_given_back() -> Patch:
    """Clay counts retries and probes, too."""

    def settled(policy: Any, state: Any, entry: Any, outcome: Any, *rest: Any) -> Any:
        after, report = settlement.settled(policy, state, entry, outcome, *rest)
        if isinstance(outcome, Accepted):
            return after, report
        hooks = after.quota.webhooks
        less = msgspec.structs.replace(
            hooks[entry.webhook_id],
            count=hooks[entry.webhook_id].count - 1,
        )
        fewer = msgspec.structs.replace(after.quota, webhooks={**hooks, entry.webhook_id: less})
        return msgspec.structs.replace(after, quota=fewer), report

    return patch("stream_app.partition.admission.settled", settled)


@mutant("4")
def submissions_are_forgotten_at_a_take_over() -> Patch:
    def forgetful(state: Any, now_ms: int, previous: Any = None) -> Any:
        return msgspec.structs.replace(for_new_owner(state, now_ms, previous), quota=Quota())

    return patch("stream_app.partition.lanes.for_new_owner", forgetful)
