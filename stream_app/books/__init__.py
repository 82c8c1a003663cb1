"""The books of a system, running or stopped: reads Kafka and reconciles every record, row, event and cost."""
