"""One partition: its owner, its state, and what happens to each of its records.

A record is a lead, a callback or a command. A timeout moves a lead on without a record.
"""
