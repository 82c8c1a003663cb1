"""Commands as they are read: what identifies them, what is cut, and when they come too late."""

import msgspec
import pytest

from stream_app.domain.commands import Command, CommandAnswer, command_id, outcome_text, read_command, refusal
from stream_app.domain.model.records import ConsumedRecord
from tests.support.narrow import of_type

DAY_MS = 86_400_000
NOW_MS = 1_796_083_140_000


def consumed(timestamp_ms: int = NOW_MS, **changes: str) -> ConsumedRecord:
    command = Command("c-1", "pause", "acme", NOW_MS, "jane")
    value = msgspec.json.encode(msgspec.structs.replace(command, **changes))
    return ConsumedRecord("lanes", 3, 7, b"acme", value, timestamp_ms=timestamp_ms)


@pytest.mark.parametrize(("length", "is_read"), [(0, False), (1, True), (128, True), (129, False)])
def test_an_id_has_1_to_128_characters_and_another_is_answered_by_its_place(length: int, is_read: bool) -> None:
    record = consumed(id="x" * length)
    read = read_command(record, NOW_MS)
    assert isinstance(read, Command if is_read else CommandAnswer)
    assert (read.id, command_id(record.value)) == (("x" * length,) * 2 if is_read else ("lanes/3/7", ""))
    if isinstance(read, CommandAnswer):
        assert (read.applied, read.reason, read.workspace, read.partition) == (False, "unreadable", "acme", 3)
        assert (read.at_ms, read.who) == (NOW_MS, "")
        assert "1 to 128 characters" in read.text


def test_the_answer_to_what_is_no_command_is_short() -> None:
    read = of_type(CommandAnswer, read_command(consumed(kind="x\n" * 500_000), NOW_MS))
    assert read.text.startswith("this is no command that this version knows: Invalid enum value 'x")
    assert (len(read.text) < 500, len(read.text.splitlines())) == (True, 1)


def test_names_are_cut_to_what_a_row_may_hold() -> None:
    read = of_type(Command, read_command(consumed(who="w" * 200, workspace="a" * 200), NOW_MS))
    assert (read.who, read.workspace) == ("w" * 128, "a" * 128)


@pytest.mark.parametrize(
    ("at_ms", "timestamp_ms", "stale"),
    [(0, 0, False), (-DAY_MS, 0, False), (-DAY_MS - 1, 0, True), (0, -DAY_MS, False), (0, -DAY_MS - 1, True)],
)
def test_a_command_is_stale_a_day_after_its_own_time_or_the_brokers(at_ms: int, timestamp_ms: int, stale: bool) -> None:
    command = Command("c-1", "pause", "acme", NOW_MS + at_ms, "jane")
    refused = refusal(command, consumed(NOW_MS + timestamp_ms), NOW_MS, is_answered=False)
    assert (refused is not None) is stale


def test_what_is_under_way_is_said_with_the_outcome() -> None:
    assert [outcome_text("paused", number) for number in (0, 1, 2)] == [
        "paused",
        "paused; 1 request in progress will finish",
        "paused; 2 requests in progress will finish",
    ]
