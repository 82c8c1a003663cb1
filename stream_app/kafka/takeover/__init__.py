"""The take-over of a partition: how a new owner wins its transactional id.

A worker owns a partition once it has won the partition's transactional id. It must not change what
was decided before, so it asks, decides, and asks again:

1. Look: It asks the coordinator of the id (DescribeTransactions), then the leaders of the places to
   which the id writes (DescribeProducers), whom all brokers name (Metadata), then the coordinator
   again. Only if the coordinator's answer is the same does all of it count as one moment.
2. Decide (`steps.next_step`): Wait, end, fence with a verdict, fence, or refuse.
3. End: AddPartitionsToTxn and EndTxn, written together, write the markers that Kafka left out. Then
   it looks again.
4. Fence: InitProducerId, in whose timeout a verdict may hide. From then on no earlier owner can
   commit.
5. Look at the leaders again (DescribeProducers): If nothing is open, the id is won.
6. Load the rows up to the high-water mark, from the newest leader of the state topic.

`steps` decides, and repeats the steps until the id is won. It knows nothing of aiokafka, so the
simulation can run it on a Kafka in memory. `requests` sends the requests of the steps, and `view`
knows the leaders. `refusals` remembers the requests that brokers refused, because aiokafka repeats
them silently. `kafka.transactional_state` calls all of this, and loads the rows.
"""
