"""One partition: its owner, its state, and what happens to each record: a lead, a callback, a
timeout, a command.
"""
