"""One partition: its owner, its state, and what happens to each of its records.

A record is a lead, a callback or a command. Deadlines move leads on without a record.
"""
