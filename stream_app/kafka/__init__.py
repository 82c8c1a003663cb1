"""Everything that speaks aiokafka: connections, transactions, fencing, readers, topics."""
