"""Takes over a transactional id, and ends a transaction that Kafka left open with its true outcome.

Kafka (KRaft, 4.3.1) skips the end marker of a transaction in a partition that has no leader at that
moment (KRaftMetadataCache.getPartitionLeaderEndpoint). The transaction coordinator regards the
transaction as complete, but in that partition it stays open: it is *stranded*. Readers see nothing
beyond it. The next end marker of its producer decides its outcome, whether that is right or wrong.

So a take-over writes the missing markers before it writes anything else. Two facts make this hard:

- The fence (InitProducerId) makes the coordinator forget how the last transaction ended. Its state
  is then Empty.
- Only a transaction of the same producer can write the missing markers, and a fence aborts an
  ongoing transaction.

Therefore the fence itself stores the verdict durably. Kafka stores a transaction timeout with each
transactional id: InitProducerId sets it, and DescribeTransactions returns it. 600,000 ms and the
511 ms above it are reserved. Each of these values names a verdict and the producer epoch (modulo
256) that it was made for. The verdict counts in that epoch and in the next one, because another
take-over of the same transaction may have fenced after our look. Later epochs may have had
transactions of their own. An epoch with a verdict is a *repair epoch*: only the missing markers are
written in it. An ordinary fence ends it once nothing is stranded. The process keeps nothing in
memory. Each step follows from Kafka's answers (`next_step`), so a take-over may be interrupted at
any point, any number of times, and continued by any process.

| Coordinator's state | Verdict | Nothing stranded | Something stranded |
|---|---|---|---|
| PrepareCommit, PrepareAbort | any | wait, look again | wait, look again |
| PrepareEpochFence, Dead | any | wait, look again | wait, look again |
| Ongoing | none | fence: Kafka aborts it; look again | the same |
| Ongoing | committed, aborted | end it by the verdict, look again | the same |
| CompleteCommit | none | fence: **taken over** | fence with the verdict committed, look again |
| CompleteAbort | none | fence: **taken over** | fence with the verdict aborted, look again |
| Empty, CompleteCommit | committed | fence: **taken over** | end it as committed, look again |
| Empty, CompleteAbort | aborted | fence: **taken over** | end it as aborted, look again |
| Empty, or no such id | none | fence: **taken over** | refuse: `unknown` |
| CompleteAbort | committed, also of two epochs before | refuse: `undone` | refuse: `undone` |

The verdict is that of the present epoch. A transaction that is ended "as committed" or "as aborted"
is ended in the places where it is stranded.

`unknown`: Kafka forgot an idle id (transactional.id.expiration.ms), or another program fenced it.
This also happens if a transaction ends between a look and its fence, and Kafka skips a marker at
the same moment. To make that unlikely, `take_over` looks again if a look took long.

`undone`: A repair was interrupted between its two requests, which are sent together. Then the
timeout of ten minutes, or a fence that was already on its way, aborted it.

tests/unit/kafka/test_stranded.py checks each row. tests/simulation/test_takeover.py interrupts a
take-over at each request, up to three times in a row. tests/e2e/test_stranded.py uses a real
coordinator that skips markers.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, Protocol

from stream_app.domain.model.errors import StateStoreError

_PAUSE_S: Final = 0.02
_FRESH_S: Final = 5.0  # A process that was frozen for longer may have had successors.
_RESERVED_FROM_MS: Final = 600_000
_EPOCHS: Final = 256
# The next fence gives another producer id, which cannot end this one's transaction.
_LAST_EPOCH: Final = 2**15 - 2
_TRANSIENT: Final = {"PrepareCommit", "PrepareAbort", "PrepareEpochFence", "Dead"}

Stranded = Mapping[tuple[str, int], int]
"""Topic and partition of each open transaction -> the offset of its first record."""


class LastTransaction(NamedTuple):
    """The last transaction of a transactional id as its coordinator knows it.

    `state` is '' for an unknown id.
    """

    state: str = ""
    producer_id: int = -1
    epoch: int = -1
    timeout_ms: int = 0
    started_ms: int = -1

    @property
    def verdict(self) -> bool | None:
        """What this repair epoch does with what is stranded: True commits it, False aborts it.

        An ordinary epoch has none.
        """
        return self._carried(within=1)

    @property
    def is_decided(self) -> bool:
        """True if the next step does not depend on stranded partitions."""
        return self.state in _TRANSIENT or (self.state == "Ongoing" and self.verdict is not None)

    @property
    def was_to_commit(self) -> bool:
        """True if the verdict was `committed` in this epoch, or in the one before it.

        The epoch before counts, because an abort from outside raises the epoch.
        """
        return self._carried(within=2) is True

    def _carried(self, within: int) -> bool | None:
        """Return the verdict that the timeout names if it is at most `within` epochs old."""
        epoch, committed = divmod(self.timeout_ms - _RESERVED_FROM_MS, 2)
        counts = 0 <= epoch < _EPOCHS and (self.epoch - epoch) % _EPOCHS <= within
        return bool(committed) if counts else None


class NextStep(NamedTuple):
    """A step of a take-over, as the table above names it."""

    do: Literal["wait", "fence", "fence_verdict", "end", "unknown", "undone"]
    committed: bool = False  # the verdict of `fence_verdict` and of `end`


def next_step(last: LastTransaction, *, stranded: bool) -> NextStep:
    """Return the step that the table above gives.

    `stranded` is True if any partition has an open transaction of the id's producer.
    """
    if last.state in _TRANSIENT:
        return NextStep("wait")
    if last.state == "Ongoing":
        return NextStep("fence") if last.verdict is None else NextStep("end", last.verdict)
    if last.state == "CompleteAbort" and last.was_to_commit:
        return NextStep("undone")
    if not stranded:
        return NextStep("fence")
    if last.verdict is not None:
        return NextStep("end", last.verdict)
    if last.state in ("CompleteCommit", "CompleteAbort") and last.epoch < _LAST_EPOCH:
        return NextStep("fence_verdict", last.state == "CompleteCommit")
    return NextStep("unknown")


def timeout_with_verdict(epoch: int, *, committed: bool) -> int:
    """Return the transaction timeout of a repair epoch, in ms."""
    return _RESERVED_FROM_MS + 2 * (epoch % _EPOCHS) + committed


def refusal(step: NextStep, transactional_id: str, stranded: Stranded) -> str:
    """Return why a take-over stops at `unknown` or `undone`, and what to do, in one line."""
    if step.do == "undone":
        return (
            f"{transactional_id}: Kafka aborted the repair of a transaction that was "
            "committed: some of its last "
            "records are missing, and leads may be sent twice. Compare the last leads of "
            "this partition with Clay, "
            "then accept the loss with Kafka's tool `kafka-transactions.sh "
            "forceTerminateTransaction "
            f"--transactionalId {transactional_id}` and restart"
        )
    places = ", ".join(
        f"{topic}/{partition} from offset {at}"
        for (topic, partition), at in sorted(stranded.items())
    )
    return (
        f"{transactional_id}: Kafka left a transaction open in {places} and no longer knows "
        "whether it was "
        "committed: read these records, then abort them with Kafka's tool "
        "`kafka-transactions.sh abort --topic TOPIC "
        "--partition PARTITION --start-offset OFFSET`, one partition after the other, and "
        "restart; leads whose "
        "rows are aborted may be sent twice"
    )


class Producer(NamedTuple):
    """The producer after a fence. Every producer of an earlier epoch is fenced."""

    producer_id: int
    epoch: int


class Transactions(Protocol):
    """The requests for one transactional id.

    A request that failed may still have been carried out.
    """

    @property
    def transactional_id(self) -> str: ...

    async def look(self) -> tuple[LastTransaction, Stranded]:
        """Return the last transaction and the places where it is open, as they were at one moment.

        There are no such places if the transaction `is_decided`.
        """

    async def open_places(self, producer_id: int) -> Stranded:
        """Return the partitions where the producer has an open transaction."""

    async def fence(self, timeout_ms: int) -> Producer | None:
        """Send InitProducerId; None if Kafka is busy, perhaps with aborting the transaction."""

    async def end(self, last: LastTransaction, stranded: Stranded, *, committed: bool) -> None:
        """Add the partitions to a transaction of the epoch of `last`, and end it."""


async def take_over(kafka: Transactions, timeout_ms: int) -> Producer:
    """Fence every earlier producer, once all their transactions have ended as they were decided.

    A transaction has ended when every partition has its end marker. `timeout_ms` is the transaction
    timeout of the new producer. It must not be one of those that carry a verdict.

    Raises:
        StateStoreError: An operator has to decide. Errors of the requests are raised as they are.
    """
    now = asyncio.get_running_loop().time
    while True:
        began_s = now()
        last, stranded = await kafka.look()
        # A step is right for the moment of its look only. During a look that took long, another
        # process may have taken over and written, so this one looks again.
        if now() - began_s > _FRESH_S:
            continue
        step = next_step(last, stranded=bool(stranded))
        match step.do:
            case "end":
                await kafka.end(last, stranded, committed=step.committed)
            case "fence_verdict":
                await kafka.fence(timeout_with_verdict(last.epoch + 1, committed=step.committed))
            case "fence":
                if (producer := await kafka.fence(timeout_ms)) is None:
                    await asyncio.sleep(_PAUSE_S)
                # Second look: an earlier owner may have ended another transaction between the look
                # and the fence.
                elif not last.state or not await kafka.open_places(producer.producer_id):
                    return producer
            case "wait":
                await asyncio.sleep(_PAUSE_S)
            case _:
                raise StateStoreError(refusal(step, kafka.transactional_id, stranded))
