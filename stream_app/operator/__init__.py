"""What operators do: read lanes and leads from Kafka, and send commands to the workers."""
