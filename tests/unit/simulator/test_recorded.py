"""What `doctor` compares a recording of the live Clay with is what the simulator sends."""

from pathlib import Path

import pytest

from stream_app.client.doctor.recording import deviations, read, simulated
from tests.unit.simulator.recorded import FILE, record


async def test_the_file_says_what_the_simulator_sends() -> None:
    """It is written by `python -m tests.unit.simulator.recorded`."""
    sent = await record()
    assert read(FILE) == simulated() == sent


async def test_the_simulator_does_as_the_live_clay_did(request: pytest.FixtureRequest) -> None:
    """With `--clay-recording FILE`, of `stream-app doctor --record`; else with its own."""
    recorded: Path | None = request.config.getoption("--clay-recording")
    different = deviations(read(recorded or FILE), await record())
    assert not different, "\n".join(different)
