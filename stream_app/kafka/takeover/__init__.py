"""The take-over of a partition: how a new owner wins its transactional id without changing what was
decided before.

A worker owns a partition from when it has won the partition's transactional id. It asks, decides,
and asks again:

    new owner          coordinator of the id                leaders of the places it writes to
    all brokers
    1 look             DescribeTransactions                 DescribeProducers
    Metadata
                       DescribeTransactions again: only the same answer makes all of it one moment
    2 decide           `steps.next_step`: wait, end, fence with a verdict, fence, or refuse
    3 end              AddPartitionsToTxn and EndTxn, written together: the markers that Kafka left
    out; then look again 4 fence            InitProducerId, in whose timeout a verdict may hide: no
    earlier owner can commit from now on
    5 look once more                                        DescribeProducers: nothing open, so the
    id is won
    6 load             the rows up to the high-water mark, from the newest leader of the state topic

`steps` decides, and repeats the steps until the id is won. It knows nothing of aiokafka, so that
the simulation runs it on a Kafka in memory. `requests` sends them; `view` knows the leaders;
`refusals` remembers what brokers refused, which aiokafka repeats in silence.
`kafka.transactional_state` is the caller, and loads the rows.
"""
