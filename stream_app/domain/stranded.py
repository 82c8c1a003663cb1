"""How a take-over of a transactional id ends what Kafka left open, so that every transaction stays what it was.

Kafka (KRaft, 4.3.1) skips the end marker of a transaction in a partition that has no leader at that moment. The
transaction coordinator calls the transaction complete, and in that partition it stays open: it is *stranded*. Readers
see nothing behind it, and the next end marker of its producer decides over it, whatever that says.

So a take-over writes the missing markers before it writes anything else. Two things stand in its way:

- The fence (InitProducerId) makes the coordinator forget how the last transaction ended: its state is then Empty.
- Missing markers can only be written by a transaction of the same producer. A fence aborts an ongoing transaction.

Therefore the fence carries the verdict, and is durable with it: Kafka stores a transaction time-out beside each
transactional id, InitProducerId sets it, and DescribeTransactions returns it. 600,000 ms and the 511 ms above are
reserved; each names a verdict and the producer epoch (modulo 256) that it was made for. It counts in that epoch and
in the next one, which is what the fence gives if another take-over of the same transaction has fenced since the look.
Later epochs may have had transactions of their own. An epoch with a verdict is a *repair epoch*: nothing but the
missing markers is written in it, and it is left by an ordinary fence once nothing is stranded. The process keeps
nothing in memory: each step follows from what Kafka says (`next_step`), so it does not matter how often, where, or by
which process a take-over is interrupted.

| Coordinator's state | Verdict of this epoch | Nothing stranded | Something stranded |
|---|---|---|---|
| PrepareCommit, PrepareAbort, PrepareEpochFence, Dead | any | wait, look again | wait, look again |
| Ongoing | none | fence: Kafka aborts it; look again | the same |
| Ongoing | committed, aborted | end it by the verdict, look again | the same |
| CompleteCommit | none | fence: **taken over** | fence with the verdict committed, look again |
| CompleteAbort | none | fence: **taken over** | fence with the verdict aborted, look again |
| Empty, CompleteCommit | committed | fence: **taken over** | end it there as committed, look again |
| Empty, CompleteAbort | aborted | fence: **taken over** | end it there as aborted, look again |
| Empty, or an id that Kafka does not know | none | fence: **taken over** | refuse: `unknown` |
| CompleteAbort | committed, also of two epochs before | refuse: `undone` | refuse: `undone` |

`unknown`: Kafka forgot an idle id (transactional.id.expiration.ms), or another program fenced it. It also comes if a
transaction ends in the milliseconds between a look and its fence, by its owner or by another fence that was on its way,
and just then Kafka misses a marker. `partition/takeover.py` looks again when a look took long.
`undone`: a repair was cut off between its two requests, which go out together, and was then aborted by the time-out of
ten minutes or by a fence that was already on its way.

tests/unit/domain/test_stranded.py has each row. tests/simulation/test_takeover.py interrupts a take-over at each
request, up to three times in a row. tests/e2e/test_stranded.py does so with a real coordinator, and markers that it
skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

_RESERVED_FROM_MS: Final = 600_000
_EPOCHS: Final = 256
_LAST_EPOCH: Final = 2**15 - 2  # the next fence gives another producer id, which cannot end what this one left open
_TRANSIENT: Final = {"PrepareCommit", "PrepareAbort", "PrepareEpochFence", "Dead"}

Stranded = Mapping[tuple[str, int], int]
"""Topic and partition of each open transaction, with the offset of its first record."""


class LastTransaction(NamedTuple):
    """The last transaction of a transactional id, as its coordinator knows it. `state` is empty for an unknown id."""

    state: str = ""
    producer_id: int = -1
    epoch: int = -1
    timeout_ms: int = 0
    started_ms: int = -1

    @property
    def verdict(self) -> bool | None:
        """Whether this repair epoch commits what is stranded; None in an ordinary epoch."""
        return self._carried(within=1)

    @property
    def is_decided(self) -> bool:
        """Whether the next step is the same with and without stranded partitions."""
        return self.state in _TRANSIENT or (self.state == "Ongoing" and self.verdict is not None)

    @property
    def was_to_commit(self) -> bool:
        """Whether the verdict was committed in this epoch, or before an abort from outside raised it by one."""
        return self._carried(within=2) is True

    def _carried(self, within: int) -> bool | None:
        """The verdict that the time-out names, if it is not more than so many epochs old."""
        epoch, committed = divmod(self.timeout_ms - _RESERVED_FROM_MS, 2)
        counts = 0 <= epoch < _EPOCHS and (self.epoch - epoch) % _EPOCHS <= within
        return bool(committed) if counts else None


class NextStep(NamedTuple):
    """What a take-over does next.

    wait           look again in a moment
    fence          fence without a verdict; the partition is then taken over, if no transaction was ongoing
    fence_verdict  fence with the verdict `committed`
    end            write the missing markers, as `committed` says
    unknown        refuse: it is not known how the stranded transaction ended
    undone         refuse: records that were committed may have been aborted
    """

    do: Literal["wait", "fence", "fence_verdict", "end", "unknown", "undone"]
    committed: bool = False


def next_step(last: LastTransaction, *, stranded: bool) -> NextStep:
    """The table above. `stranded`: the producer of `last` has an open transaction somewhere."""
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
    """The transaction time-out, in ms, of a repair epoch."""
    return _RESERVED_FROM_MS + 2 * (epoch % _EPOCHS) + committed


def refusal(step: NextStep, transactional_id: str, stranded: Stranded) -> str:
    """Why a take-over stops at `unknown` or `undone`, and what an operator has to do: one line."""
    if step.do == "undone":
        return (
            f"{transactional_id}: Kafka aborted the repair of a transaction that was committed: some of its last "
            "records are missing, and leads may be sent twice. Compare the last leads of this partition with Clay, "
            "then accept the loss with Kafka's tool `kafka-transactions.sh forceTerminateTransaction "
            f"--transactionalId {transactional_id}` and start again"
        )
    places = ", ".join(f"{topic}/{partition} from offset {at}" for (topic, partition), at in sorted(stranded.items()))
    return (
        f"{transactional_id}: Kafka left a transaction open in {places}, and does not know any more whether it was "
        "committed: read these records, then abort them with Kafka's tool `kafka-transactions.sh abort --topic TOPIC "
        "--partition PARTITION --start-offset OFFSET`, one partition after the other, and start again; leads whose "
        "rows are aborted may be sent twice"
    )
