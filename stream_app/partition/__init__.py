"""The owner of one partition: its rows and lanes in memory, admission, transactions and acks."""
