"""A partition is a whole world: its rows and lanes in memory, its gate, its transactions, its topics' acks."""
