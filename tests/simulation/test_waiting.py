"""What everyone counts as waiting, at many moments of messy schedules: records without an event,
and no others.
"""

import json
from collections import Counter
from typing import Final

from tests.simulation.account import MessyWorld, messy
from tests.simulation.account_ledger import untaken_by_views
from tests.simulation.parts import each_part, of_part

SCHEDULES: Final = 150
_QUIET_MS: Final = 3_000
LOOKS_S: Final = (
    0.5,
    1.0,
    2.0,
    3.0,
    4.5,
    6.0,
    8.0,
    11.0,
    15.0,
    20.0,
    30.0,
    45.0,
    60.0,
    90.0,
    120.0,
    400.0,
    1_000.0,
)


class Waiting(MessyWorld):
    """Compares the count at each look.

    `met`: how many partitions were compared, and of how many records.
    """

    met: Counter[str]

    def look(self) -> None:
        names = self.plan.topics
        counts = untaken_by_views(self.plan, self.kafka, names.worker_app)
        for number in range(self.plan.partitions):
            events = self.kafka.log(names.status, number).committed()
            views = self.kafka.log(names.lanes, number).committed()
            origins = {json.loads(event.value or b"")["origin"] for event in events}
            expected = 0
            counted = 0
            for topic in sorted(names.inputs):
                passed = self.kafka.offset(names.worker_app, topic, number) or 0
                records = self.kafka.log(topic, number).committed()
                left = [record for record in records if record.offset >= passed]
                expected += sum(record.record_id not in origins for record in left)
                counted += counts[topic, number]
                self.met["behind the group's offset"] += len(left)
            assert counted >= expected, (
                f"{counted} of {expected} records wait in partition {number}"
            )
            # A view says where its owner is as of its time: what was taken after it is not known
            # yet, and an owner that has just taken the partition over still has to read again what
            # its predecessor took.
            last_ms = max((event.timestamp_ms for event in events), default=0)
            if views and last_ms <= views[-1].timestamp_ms <= self.now_ms() - _QUIET_MS:
                assert counted == expected, (
                    f"{counted} for {expected} records wait in partition {number}"
                )
                self.met.update(partitions=1, waiting=expected)


@each_part
def test_what_waits_is_what_has_no_event(part: str) -> None:
    met: Counter[str] = Counter()
    for seed in of_part(part, range(SCHEDULES)):
        world = Waiting(messy(seed), LOOKS_S)
        world.met = met
        outcome = world.run()
        assert not outcome.problems, f"m{seed}: {outcome.problems[0]}"
    assert met["behind the group's offset"] > met["waiting"] > 0, (
        "some were taken, and their offset is not committed"
    )
    assert met["partitions"] > 50, met
