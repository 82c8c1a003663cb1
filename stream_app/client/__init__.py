"""What works on a running system from outside.

`publish/` sends leads, `results/` gets what became of them, `lanes/` reads and commands lanes, and
`doctor/` examines a set-up. Beside them are the books, what Kafka holds of people, messages for
people, and how an unreadable batch is skipped.
"""
