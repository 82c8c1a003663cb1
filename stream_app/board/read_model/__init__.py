"""The read model: a SQLite projection of Kafka, and its queries."""
