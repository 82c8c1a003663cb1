"""What the group has assigned to this process, and where records wait to be taken."""

from __future__ import annotations

from stream_app.adapters.faust_fixes import SafeApp


def assigned(app: SafeApp) -> dict[tuple[str, int], bool]:
    """Topic and partition -> whether records wait there: ones that Kafka has told of, or that were fetched.

    Those under way are among the fetched.

    Reads what belongs to the consumer's thread, so it may be a moment old.
    """
    consumer = app.consumer._thread._consumer if app.started else None
    assignment = consumer and consumer._subscription.subscription and consumer._subscription.subscription.assignment
    if not assignment:
        return {}
    fetched = {message.tp for message in tuple(app.consumer._unacked_messages)}
    waits = {}
    for tp in assignment.tps:
        if tp.topic not in app.agents:
            continue  # the changelog's
        state = assignment.state_value(tp)
        unfetched = state.has_valid_position and (state.highwater or 0) > state.position
        waits[tp.topic, tp.partition] = unfetched or tp in fetched
    return waits
