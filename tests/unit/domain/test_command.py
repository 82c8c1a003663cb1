"""Reading a command."""

import msgspec

from stream_app.domain.lane.command import read_command
from stream_app.domain.lane_messages import Command
from stream_app.domain.record import ConsumedRecord


def test_the_reason_of_a_command_may_be_shown_everywhere() -> None:
    why = "ada@example.com complained (+49 170 1234567), see OPS-17"
    asked = Command("c1", "pause", "acme", 1, "me", why)
    read = read_command(ConsumedRecord("leads.commands", 0, 0, b"acme", msgspec.json.encode(asked)))
    assert isinstance(read, Command)
    assert read.why.startswith("[email] complained")
    assert read.why.endswith("see OPS-17")
    assert "170" not in read.why
