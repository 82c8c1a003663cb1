"""A dead letter goes back once, until it is deleted."""

from stream_app.domain.dead_letter.redrive_dedup import RedriveDedup, outlived, sent_row
from stream_app.domain.record import ConsumedRecord

DEAD_LETTER = ConsumedRecord("t.leads.dlq", 3, 17, b"acme", b"{}", timestamp_ms=5_000)


def test_the_replay_state_remembers_a_redrive_longer_than_leads_retry() -> None:
    sent_back = RedriveDedup("t.leads.dlq")
    assert not sent_back.has(DEAD_LETTER.record_id, "poison")
    sent_back.apply_state(*sent_row(DEAD_LETTER))
    assert sent_back.has(DEAD_LETTER.record_id, "poison")
    assert not sent_back.has("t.leads.dlq/3/18", "poison")
    sent_back.apply_retry({"stream-app-redriven-from": b"t.leads.dlq/3/18"})
    assert sent_back.has("t.leads.dlq/3/18", "failed")


def test_a_dead_letter_of_another_program_is_replayed_once() -> None:
    sent_back = RedriveDedup("t.leads.dlq")
    sent_back.apply_state(b"dlq/3/0", b'{"offset":9,"skip_to":18}')
    sent_back.apply_state(b"dlq/3/1", b'{"offset":4}')
    sent_back.apply_state(b"pause", b'{"by":"jane"}')
    assert sent_back.has(DEAD_LETTER.record_id, "foreign")
    assert not sent_back.has(DEAD_LETTER.record_id, "poison"), "it passes these over"
    assert not sent_back.has("t.leads.dlq/3/18", "foreign")
    assert not sent_back.has("t.leads.parked/3/17", "foreign")


def test_a_row_is_deleted_after_its_dead_letter() -> None:
    key, value = sent_row(DEAD_LETTER)
    rows = {key: value, b"dlq/3/0": b'{"offset":9}', b"pause": b"{}"}
    assert list(outlived(rows, 5_000)) == []
    assert list(outlived(rows, 5_001)) == [key]
    sent_back = RedriveDedup("t.leads.dlq")
    sent_back.apply_state(key, value)
    sent_back.apply_state(key, None)
    assert not sent_back.has(DEAD_LETTER.record_id, "poison")
